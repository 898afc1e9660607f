"""Scores as text for people: percentages, intervals, tables and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WITH_INTERVAL = ("f1", "mean_f1", "iou", "mean_iou")  # more intervals would make the table wider than a terminal
TABLE_HEADER = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "pixels"]


def score_table(result: dict[str, Any]) -> list[list[str]]:
    """Table of scores as rows of text for `tabulate`: one row per class, then one for the means.

    Columns are class, F1, precision, recall, IoU and accuracy in percent, and pixels, as in `TABLE_HEADER`.
    If the result has intervals (`bootstrap.with_intervals`), they follow F1 and IoU.
    """
    names = ("f1", "precision", "recall", "iou", "accuracy")
    overall = ("mean_f1", "mean_precision", "mean_recall", "mean_iou", "overall_accuracy")
    intervals = result.get("intervals") or {}
    of_classes = intervals.get("classes", {})
    rows = [
        [name, *(_cell(score, values[score], of_classes.get(name, {}).get(score)) for score in names), f"{values['pixels']:,}"]
        for name, values in result["classes"].items()
    ]
    last = [_cell(name, result[name], intervals.get(name)) for name in overall]
    return [*rows, ["all", *last, f"{result['pixels']:,}"]]


def about_unlabelled_classes(result: Mapping[str, Any]) -> str:
    """A note about classes that are mapped where scores were made and labelled nowhere there; "" for none.

    Their F1 is 0, whatever the model can do, and the means count it.
    """
    names = [name for name, values in result["classes"].items() if values["pixels"] == 0 and values["f1"] == 0]
    if not names:
        return ""
    shown = ", ".join(readable_name(name) for name in names)
    return f"no test label holds {shown}: wherever it is mapped is wrong, so its F1 is 0, which the means over classes count"


def percent(value: float | None) -> str:
    """A score as percent with two decimals; a dash if it is not defined."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def percent_interval(ends: Sequence[float | None] | None) -> str:
    """The interval of a score in percent, as `80.1 to 92.3`; empty if it is not defined."""
    if ends is None or any(end is None or np.isnan(end) for end in ends):
        return ""
    return " to ".join(f"{100 * end:.1f}" for end in ends if end is not None)


def readable_name(name: str) -> str:
    """Name of a class or a score as text for people, with spaces for underscores."""
    return name.replace("_", " ")


def _cell(score: str, value: float | None, ends: Sequence[float | None] | None) -> str:
    shown = percent_interval(ends) if score in WITH_INTERVAL else ""
    return f"{percent(value)} [{shown}]" if shown else percent(value)
