"""The report of a run: one HTML file with scores, intervals, confusion matrix, training curve, maps and configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.plot_style import INK, MUTED
from finetune.report.page import Page
from finetune.scoring.metrics import percent, percent_interval
from finetune.task import Task

MOST_CLASSES_WITH_COUNTS = 8  # more cells than that are too small for a second line


def run_report(
    metrics: Mapping[str, Any],
    task: Task,
    configuration: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Path | bytes] | None = None,
) -> Page:
    """The report of a run of `finetune/run.py`; `write` it, after more sections where there are any.

    Args:
        metrics: content of `metrics.json`, as it is or read again (null for NaN). Of `metrics["test"]`, what `metrics.scores`
            gives, with "intervals" and "bootstrap" of `with_intervals`; "scenes" {name: headline score}, "boundaries" (the same
            of `boundary_scores`) and "objects" {class: the same of `object_scores`} where they are. `metrics["score"]` is the
            headline: "name", "value" and, where there is one, "interval".
        task: the task.
        configuration: settings of the run, nested or not.
        pictures: maps {caption: PNG or its path}.
    """
    test, score = metrics["test"], metrics["score"]
    intervals = test.get("intervals") or {}
    page = Page(task.title)
    about = f"Task {task.name}; sources {', '.join(task.sources)}; encoder from {metrics['encoder']}; "
    page.note(f"{about}best epoch {metrics['best_epoch']}.")
    overall = {"mean F1": "mean_f1", "mean IoU": "mean_iou", "overall accuracy": "overall_accuracy", "kappa × 100": "kappa"}
    rows = [[name, _score(test, intervals, key)] for name, key in overall.items()]
    if score["name"] not in overall:
        rows.insert(0, [score["name"], f"{percent(score['value'])}\n{percent_interval(score.get('interval'))}"])
    page.table(["on the test scenes", "%"], rows)
    page.note(_about_intervals(test))

    page.heading("Classes")
    colors = [c.color for c in task.classes]
    columns = ("f1", "precision", "recall", "iou", "accuracy")
    header = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "labelled px"]
    rows = _rows(test["classes"], intervals.get("classes", {}), columns, ("pixels",))
    means = ("mean_f1", "mean_precision", "mean_recall", "mean_iou", "overall_accuracy")
    page.table(header, [*rows, ["all", *(_score(test, intervals, key) for key in means), f"{test['pixels']:,}"]], colors)

    if boundaries := test.get("boundaries"):
        page.heading("Boundaries")
        for tolerance in (key for key in boundaries if key not in ("intervals", "bootstrap")):
            ends = (boundaries.get("intervals") or {}).get(tolerance) or {}
            header = [f"within {tolerance}", "F1 %", "precision %", "recall %", "labelled px", "mapped px"]
            counts = ("labelled", "predicted")
            rows = _rows(boundaries[tolerance]["classes"], ends.get("classes", {}), columns[:3], counts)
            page.table(header, [*rows, ["mean", _score(boundaries[tolerance], ends, "mean_f1"), "", "", "", ""]], colors)
        page.note("Precision: share of the map's boundary pixels so near to one of the label's. Recall: the other way round.")
    if objects := test.get("objects"):
        page.heading("Objects")
        header = ["class", "F1 %", "precision %", "recall %", "labelled", "mapped", "matched"]
        of_classes = {name: values.get("intervals") for name, values in objects.items()}
        page.table(header, _rows(objects, of_classes, columns[:3], ("labelled", "predicted", "matched")))
        page.note("Objects match when their intersection over union is above 0.5.")

    page.heading("Confusion matrix")
    names = list(test["classes"])
    page.picture(confusion_figure(test["confusion"], names), "Shares of each label in percent; rows are labels, columns the map.")
    page.table(
        ["label, pixels", *(_plain(name) for name in names)],
        [[_plain(name), *(f"{count:,}" for count in row)] for name, row in zip(names, test["confusion"], strict=True)],
        folded="as numbers of pixels",
    )
    if scenes := test.get("scenes"):
        page.heading("Test scenes")
        page.table(["scene", f"{score['name']} %"], [[name, percent(value)] for name, value in scenes.items()])
    if metrics.get("history"):
        page.heading("Training")
        page.picture(
            training_figure(metrics["history"], metrics["best_epoch"]), "By epoch; the line marks the model that was kept."
        )
    if pictures:
        page.heading("Maps")
        for caption, png in pictures.items():
            page.picture(png, caption)
    if configuration:
        page.heading("Configuration")
        settings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in configuration.items()}
        page.table(["setting", "value"], list(settings.items()), text=True)
    return page


def confusion_figure(matrix: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix (classes, classes) of counts, rows are labels: cells coloured by their share of the row.

    Each cell has its share in percent and, with up to eight classes, its count; rows without a label are grey.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    pixels = counts.sum(axis=1)
    shares = np.divide(counts, pixels[:, None], out=np.full_like(counts, np.nan), where=pixels[:, None] > 0)
    number = len(classes)
    with_counts = number <= MOST_CLASSES_WITH_COUNTS
    side = number * (0.95 if with_counts else 0.6)
    figure = Figure(figsize=(side + 2.2, side + 1.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    colors = colormaps["Blues"].with_extremes(bad="#e8e8e8")
    axes.imshow(np.ma.masked_invalid(shares), cmap=colors, vmin=0, vmax=1.15)  # the darkest blue hides the text
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        text = _share(share)
        if with_counts and not np.isnan(share):
            text += f"\n{_short(float(counts[row, column]))}"
        color = "white" if share > 0.7 else INK if share > 0 else MUTED
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10 if with_counts else 8)
    labels = [_plain(name) for name in classes]
    axes.set_xticks(range(number), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(number), [f"{name}\n{_short(count)} px" for name, count in zip(labels, pixels.tolist(), strict=True)])
    axes.set_xlabel("map", color=MUTED)
    axes.set_ylabel("label", color=MUTED)
    axes.tick_params(length=0, colors=INK)
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return figure


def training_figure(history: Sequence[Mapping[str, float | None]], best_epoch: int = 0) -> Figure:
    """The numbers of each epoch: losses (names with "loss") left, scores right; a line at `best_epoch`, counted from 1."""
    names = list(dict.fromkeys(name for epoch in history for name in epoch))
    panels = [[name for name in names if "loss" in name], [name for name in names if "loss" not in name]]
    panels = [panel for panel in panels if panel]
    figure = Figure(figsize=(4.6 * len(panels), 2.9), layout="constrained", facecolor="white")
    epochs = np.arange(len(history)) + 1
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in panel:
            values = [epoch.get(name) for epoch in history]
            axes.plot(epochs, [np.nan if v is None else v for v in values], marker="o", markersize=3, label=_title(name))
        if best_epoch:
            axes.axvline(best_epoch, color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_xlabel("epoch", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel) > 1:
            axes.legend(frameon=False, fontsize=9)
        else:
            axes.set_title(_title(panel[0]), fontsize=10, loc="left")
    return figure


def _about_intervals(test: Mapping[str, Any]) -> str:
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
    """A row a class: scores in percent with their intervals below, then counts."""
    return [
        [
            _plain(name),
            *(_score(values, intervals.get(name), score) for score in scores),
            *(f"{values[count]:,}" for count in counts),
        ]
        for name, values in classes.items()
    ]


def _score(values: Mapping[str, Any], intervals: Mapping[str, Any] | None, key: str) -> str:
    """A score in percent, its interval below where there is one."""
    return f"{percent(values[key])}\n{percent_interval((intervals or {}).get(key))}"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _title(score: str) -> str:
    return _plain(score).replace("f1", "F1").replace("iou", "IoU")


def _share(share: float) -> str:
    """A share in percent; neither is something shown as nothing, nor nearly all as all."""
    if np.isnan(share):
        return "-"
    if 0 < share < 0.0005:
        return "<0.1"
    if 0.9995 <= share < 1:
        return ">99.9"
    return f"{100 * share:.1f}" if 0 < share < 1 else f"{100 * share:g}"


def _short(count: float) -> str:
    """A count with three digits: 12, 3.46k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"
