"""The report of a run: one HTML file with scores, intervals, confusion matrix, training curves, maps and configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.report.figures import confusion_figure, training_figure
from finetune.report.page import Page
from finetune.scoring.score_text import percent, percent_interval, readable_name
from finetune.task import Task

OVERALL = {"mean F1": "mean_f1", "mean IoU": "mean_iou", "overall accuracy": "overall_accuracy", "kappa × 100": "kappa"}
RATIOS = ("f1", "precision", "recall")  # of pixels, boundaries and objects alike


def run_report(
    metrics: Mapping[str, Any],
    task: Task,
    configuration: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Path | bytes] | None = None,
) -> Page:
    """The report of a run of `finetune/run.py`. The caller writes it, and may add sections before.

    Args:
        metrics: content of `metrics.json`, as it is or read again (null for NaN). `metrics["test"]` is a result of `MapScores`;
            its "intervals", "bootstrap", "scenes", "boundaries" and "objects" may be missing. `metrics["score"]` is the
            headline score: "name", "value" and, if there is one, "interval".
        task: the task.
        configuration: settings of the run; values may be nested.
        pictures: maps {caption: PNG or its path}.
    """
    test = metrics["test"]
    colors = [c.color for c in task.classes]
    page = Page(task.title)
    page.note(
        f"Task {task.name}; sources {', '.join(task.sources)}; encoder from {metrics['encoder']}; "
        f"best epoch {metrics['best_epoch']}."
    )
    _add_overall(page, test, metrics["score"])
    _add_classes(page, test, colors)
    if boundaries := test.get("boundaries"):
        _add_boundaries(page, boundaries, colors)
    if objects := test.get("objects"):
        _add_objects(page, objects)
    _add_confusion(page, test)
    if scenes := test.get("scenes"):
        page.heading("Test scenes")
        page.table(["scene", f"{metrics['score']['name']} %"], [[name, percent(value)] for name, value in scenes.items()])
    if history := metrics.get("history"):
        page.heading("Training")
        page.picture(training_figure(history, metrics["best_epoch"]), "By epoch; the line marks the model that was kept.")
    if pictures:
        page.heading("Maps")
        for caption, png in pictures.items():
            page.picture(png, caption)
    if configuration:
        page.heading("Configuration")
        settings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in configuration.items()}
        page.table(["setting", "value"], list(settings.items()), text=True)
    return page


def _add_overall(page: Page, test: Mapping[str, Any], score: Mapping[str, Any]) -> None:
    """The headline score and the scores over all classes."""
    intervals = test.get("intervals") or {}
    rows = [[name, _score(test, intervals, key)] for name, key in OVERALL.items()]
    if score["name"] not in OVERALL:
        rows.insert(0, [score["name"], f"{percent(score['value'])}\n{percent_interval(score.get('interval'))}"])
    page.table(["on the test scenes", "%"], rows)
    page.note(_about_intervals(test))


def _add_classes(page: Page, test: Mapping[str, Any], colors: Sequence[str]) -> None:
    """The scores of each class, and their means."""
    intervals = test.get("intervals") or {}
    page.heading("Classes")
    header = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "labelled px"]
    rows = _rows(test["classes"], intervals.get("classes", {}), (*RATIOS, "iou", "accuracy"), ("pixels",))
    means = ("mean_f1", "mean_precision", "mean_recall", "mean_iou", "overall_accuracy")
    page.table(header, [*rows, ["all", *(_score(test, intervals, key) for key in means), f"{test['pixels']:,}"]], colors)


def _add_boundaries(page: Page, boundaries: Mapping[str, Any], colors: Sequence[str]) -> None:
    """The scores of the boundaries at each tolerance."""
    page.heading("Boundaries")
    for tolerance in (key for key in boundaries if key not in ("intervals", "bootstrap")):
        intervals = (boundaries.get("intervals") or {}).get(tolerance) or {}
        header = [f"within {tolerance}", "F1 %", "precision %", "recall %", "labelled px", "mapped px"]
        counts = ("labelled", "predicted")
        rows = _rows(boundaries[tolerance]["classes"], intervals.get("classes", {}), RATIOS, counts)
        page.table(header, [*rows, ["mean", _score(boundaries[tolerance], intervals, "mean_f1"), "", "", "", ""]], colors)
    page.note("Precision: share of the map's boundary pixels so near to one of the label's. Recall: the other way round.")


def _add_objects(page: Page, objects: Mapping[str, Any]) -> None:
    """The scores of the objects."""
    page.heading("Objects")
    header = ["class", "F1 %", "precision %", "recall %", "labelled", "mapped", "matched"]
    of_classes = {name: values.get("intervals") for name, values in objects.items()}
    page.table(header, _rows(objects, of_classes, RATIOS, ("labelled", "predicted", "matched")))
    page.note("Objects match when their intersection over union is above 0.5.")


def _add_confusion(page: Page, test: Mapping[str, Any]) -> None:
    """The confusion matrix, as a figure and as numbers."""
    page.heading("Confusion matrix")
    names = list(test["classes"])
    page.picture(confusion_figure(test["confusion"], names), "Shares of each label in percent; rows are labels, columns the map.")
    page.table(
        ["label, pixels", *(readable_name(name) for name in names)],
        [[readable_name(name), *(f"{count:,}" for count in row)] for name, row in zip(names, test["confusion"], strict=True)],
        folded="as numbers of pixels",
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
