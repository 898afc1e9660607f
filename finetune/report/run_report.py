"""The report of a run: one HTML file with maps, scores, intervals, confusion matrix, training curves and configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.report.figures import confusion_figure, season_figure, training_figure
from finetune.report.page import Page
from finetune.report.run_context import RunContext
from finetune.scoring.early_season import SeasonScores
from finetune.scoring.score_text import about_unlabelled_classes, percent, percent_interval, readable_name
from finetune.task import Task

OVERALL = {"mean F1": "mean_f1", "mean IoU": "mean_iou", "overall accuracy": "overall_accuracy", "kappa × 100": "kappa"}
OPEN_PICTURES = 4  # further ones are folded
RATIOS = ("f1", "precision", "recall")  # of pixels, boundaries and objects alike


def run_report(
    metrics: Mapping[str, Any],
    task: Task,
    configuration: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Path | bytes] | None = None,
    context: RunContext | None = None,
    season: SeasonScores | None = None,
) -> Page:
    """The report of a run of `finetune/run.py`: maps first, then scores, and at the end how it was made. The caller writes it.

    Args:
        metrics: content of `metrics.json`, as it is or read again (null for NaN). `metrics["test"]` is a result of `MapScores`;
            its "intervals", "bootstrap", "scenes", "boundaries" and "objects" may be missing. `metrics["score"]` is the
            headline score: "name", "value" and, if there is one, "interval".
        task: the task.
        configuration: settings of the run; values may be nested.
        pictures: maps {caption: PNG or its path}.
        context: the run's folder, data and versions; None leaves them out.
        season: scores by the last date seen; None leaves them out.
    """
    test, score = metrics["test"], metrics["score"]
    colors = [c.color for c in task.classes]
    page = Page(task.title)
    if context and context.about_simulated:
        page.warning(context.about_simulated)
    interval = percent_interval(score.get("interval"))
    page.headline(f"{score['name']} {percent(score['value'])} %", ", ".join(filter(None, [interval, "on the test scenes"])))
    page.note(
        f"Task {task.name}; sources {', '.join(task.sources)}; encoder: {metrics['encoder']}; best epoch {metrics['best_epoch']}."
    )
    if pictures:
        _add_pictures(page, pictures)
    if season:
        page.heading("As the season goes on")
        simulated = bool(context and context.simulated)
        page.picture(season_figure(season, simulated), "F1 on the test data by the last date that the model sees", detailed=True)
    page.heading("Scores")
    _add_overall(page, test, score)
    _add_classes(page, test, colors)
    if boundaries := test.get("boundaries"):
        _add_boundaries(page, boundaries, colors)
    if objects := test.get("objects"):
        _add_objects(page, objects)
    if scenes := test.get("scenes"):
        rows = [[name, percent(value)] for name, value in scenes.items()]
        page.table(["scene", f"{score['name']} %"], rows, folded="By test scene")
    _add_confusion(page, test)
    if history := metrics.get("history"):
        page.heading("Training")
        figure = training_figure(history, metrics["best_epoch"])
        page.picture(figure, "By epoch; the line marks the model that was kept.", detailed=True)
    if context:
        page.heading("Use this run")
        for purpose, command in context.commands(bool(context.scenes)).items():
            page.note(f"{purpose}:")
            page.command(command)
        page.heading("How it was made")
        page.facts(context.facts())
    if configuration:
        settings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in configuration.items()}
        page.table(["setting", "value"], list(settings.items()), text=True, folded="All settings")
    return page


def _add_pictures(page: Page, pictures: Mapping[str, Path | bytes]) -> None:
    """The pictures of the maps: the first ones at once, the others folded."""
    page.heading("Maps")
    for number, (caption, png) in enumerate(pictures.items()):
        page.picture(png, caption, folded=caption if number >= OPEN_PICTURES else None, detailed=True)


def _add_overall(page: Page, test: Mapping[str, Any], score: Mapping[str, Any]) -> None:
    """The headline score and the scores over all classes."""
    intervals = test.get("intervals") or {}
    rows = [[name, _score(test, intervals, key)] for name, key in OVERALL.items()]
    if score["name"] not in OVERALL:
        rows.insert(0, [score["name"], f"{percent(score['value'])}\n{percent_interval(score.get('interval'))}"])
    page.table(["on the test scenes", "%"], rows, folded="Scores over all classes")
    page.note(_about_intervals(test))


def _add_classes(page: Page, test: Mapping[str, Any], colors: Sequence[str]) -> None:
    """The scores of each class, and their means."""
    intervals = test.get("intervals") or {}
    header = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "labelled px"]
    rows = _rows(test["classes"], intervals.get("classes", {}), (*RATIOS, "iou", "accuracy"), ("pixels",))
    means = ("mean_f1", "mean_precision", "mean_recall", "mean_iou", "overall_accuracy")
    page.table(
        header,
        [*rows, ["all", *(_score(test, intervals, key) for key in means), f"{test['pixels']:,}"]],
        colors,
        folded="By class",
    )
    if note := about_unlabelled_classes(test):
        page.note(f"{note[0].upper()}{note[1:]}.")


def _add_boundaries(page: Page, boundaries: Mapping[str, Any], colors: Sequence[str]) -> None:
    """The scores of the boundaries at each tolerance."""
    for tolerance in (key for key in boundaries if key not in ("intervals", "bootstrap")):
        intervals = (boundaries.get("intervals") or {}).get(tolerance) or {}
        header = [f"within {tolerance}", "F1 %", "precision %", "recall %", "labelled px", "mapped px"]
        counts = ("labelled", "predicted")
        rows = _rows(boundaries[tolerance]["classes"], intervals.get("classes", {}), RATIOS, counts)
        page.table(
            header,
            [*rows, ["mean", _score(boundaries[tolerance], intervals, "mean_f1"), "", "", "", ""]],
            colors,
            folded=f"Boundaries within {tolerance}",
        )
    page.note(
        "Precision of boundaries: share of the map's boundary pixels so near to one of the label's. Recall: the other way round."
    )


def _add_objects(page: Page, objects: Mapping[str, Any]) -> None:
    """The scores of the objects."""
    header = ["class", "F1 %", "precision %", "recall %", "labelled", "mapped", "matched"]
    of_classes = {name: values.get("intervals") for name, values in objects.items()}
    page.table(header, _rows(objects, of_classes, RATIOS, ("labelled", "predicted", "matched")), folded="Objects")
    page.note("Objects match when their intersection over union is above 0.5.")


def _add_confusion(page: Page, test: Mapping[str, Any]) -> None:
    """The confusion matrix, as a figure and as numbers."""
    page.heading("Confusion matrix")
    names = list(test["classes"])
    page.picture(confusion_figure(test["confusion"], names), "Shares of each label in percent; rows are labels, columns the map.")
    page.table(
        ["label, pixels", *(readable_name(name) for name in names)],
        [[readable_name(name), *(f"{count:,}" for count in row)] for name, row in zip(names, test["confusion"], strict=True)],
        folded="Confusion matrix as numbers of pixels",
    )


def _about_intervals(test: Mapping[str, Any]) -> str:
    """What the intervals mean, or why there are none."""
    about = test.get("bootstrap")
    if about is None:
        return f"{test['pixels']:,} labelled pixels."
    scenes = f"{test['pixels']:,} labelled pixels of {about['scenes']} scene{'s' if about['scenes'] != 1 else ''}. "
    if test.get("intervals") is None:
        return scenes + "There are no intervals: they need more than one scene, since pixels of a scene are not independent."
    return scenes + (
        f"Below each score its {100 * about['level']:g} % interval by the bootstrap over scenes ({about['resamples']:,} draws): "
        "how it would differ with other scenes like these, not with another training. With few scenes intervals are too narrow; "
        "a score that a single scene defines has none."
    )


def _rows(
    classes: Mapping[str, Any], intervals: Mapping[str, Any], scores: Sequence[str], counts: Sequence[str]
) -> list[list[str]]:
    """One row per class: scores in percent with their intervals below, then counts."""
    return [
        [
            readable_name(name),
            *(_score(values, intervals.get(name), score) for score in scores),
            *(f"{values[count]:,}" for count in counts),
        ]
        for name, values in classes.items()
    ]


def _score(values: Mapping[str, Any], intervals: Mapping[str, Any] | None, key: str) -> str:
    """A score in percent, with its interval on a second line if there is one."""
    return f"{percent(values[key])}\n{percent_interval((intervals or {}).get(key))}"
