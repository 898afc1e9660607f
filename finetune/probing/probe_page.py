"""The report of a probe: a table of all classifiers, then classes and confusion matrix of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune.probing.classifiers import TITLES
from finetune.report.figures import confusion_figure
from finetune.report.page import Page
from finetune.scoring.score_text import TABLE_HEADER, percent, percent_interval, score_table
from finetune.task import Task


def probe_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with one row per probe; scores of the test scenes in percent, with the headline's interval.

    `metrics`: content of metrics.json, as it is or read again.
    """
    header = ["probe", f"{metrics['score']['name']} %", "mean F1 %", "mean IoU %", "overall accuracy %", "kappa × 100"]
    rows = []
    for kind, found in metrics["probes"].items():
        interval = percent_interval(found["score"]["interval"])
        value = percent(found["score"]["value"])
        over_classes = [percent(found["test"][name]) for name in ("mean_f1", "mean_iou", "overall_accuracy", "kappa")]
        rows.append([TITLES[kind], f"{value} [{interval}]" if interval else value, *over_classes])
    return header, rows


def probe_page(metrics: Mapping[str, Any], task: Task, configuration: Mapping[str, Any]) -> Page:
    """The report of a probe.

    Args:
        metrics: content of metrics.json.
        task: the task.
        configuration: settings of the probe.
    """
    page = Page(f"{task.title}: probes")
    about, training = metrics["embeddings"], metrics["training"]
    page.note(
        f"Task {task.name}; {about['dimensions']} dimensions of the embeddings of {metrics['encoder']}, levels "
        f"{about['levels']}; {training['windows']} of {training['of_windows']} training windows, {training['used_pixels']:,} "
        "pixels. Scores are those of the test scenes; settings were chosen by the validation windows."
    )
    page.table(*probe_table(metrics))
    for kind, found in metrics["probes"].items():
        page.heading(TITLES[kind].capitalize())
        page.note(", ".join(f"{name} {value}" for name, value in found["settings"].items()))
        page.table(TABLE_HEADER, score_table(found["test"]), [c.color for c in task.classes])
        page.picture(
            confusion_figure(found["test"]["confusion"], list(found["test"]["classes"])),
            "Shares of each label in percent; rows are labels, columns the map.",
        )
    page.heading("Configuration")
    settings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in configuration.items()}
    page.table(["setting", "value"], list(settings.items()), text=True)
    return page
