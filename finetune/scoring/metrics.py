"""Scores of a map against labels, all from one confusion matrix. `boundaries.py` and `objects.py` score the shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from finetune.task import IGNORE

OVER_CLASSES = ("mean_f1", "mean_iou", "overall_accuracy", "kappa")  # scores that stand for all classes together
WITH_INTERVAL = ("f1", "mean_f1", "iou", "mean_iou")  # more intervals would make the table wider than a terminal
TABLE_HEADER = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "pixels"]


def confusion(num_classes: int) -> MulticlassConfusionMatrix:
    """An empty confusion matrix; rows are labels, columns predictions, and pixels labelled `IGNORE` do not count."""
    # All callers pass valid indices, and checking them would read each batch twice.
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


def scores(matrix: torch.Tensor | np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Scores from a confusion matrix (classes, classes) of pixel counts, whose rows are labels.

    Per class: f1, precision, recall, iou, accuracy (this class against the rest) and the number of labelled pixels. Over classes:
    mean_f1, mean_precision, mean_recall, mean_iou, overall_accuracy, kappa (Cohen 1960). A score of 0/0 is NaN: F1 and IoU of a
    class that is neither labelled nor predicted, precision of a class that is never predicted, recall of a class that is never
    labelled. Means leave NaN out. A class that is labelled but never predicted correctly has F1 0, which the mean F1 includes.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    total, hit = counts.sum(), np.diag(counts)
    labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_class = {
            "f1": 2 * hit / (labelled + predicted),
            "precision": hit / predicted,
            "recall": hit / labelled,
            "iou": hit / (labelled + predicted - hit),
            "accuracy": (total - labelled - predicted + 2 * hit) / total,
        }
        agreement = hit.sum() / total
        by_chance = (labelled * predicted).sum() / total**2
        kappa = (agreement - by_chance) / (1 - by_chance)
    return {
        "mean_f1": _mean(per_class["f1"]),
        "mean_precision": _mean(per_class["precision"]),
        "mean_recall": _mean(per_class["recall"]),
        "mean_iou": _mean(per_class["iou"]),
        "overall_accuracy": float(agreement),
        "kappa": float(kappa),
        "pixels": int(total),
        "classes": {
            name: {score: float(values[i]) for score, values in per_class.items()} | {"pixels": int(labelled[i])}
            for i, name in enumerate(classes)
        },
        "confusion": counts.astype(np.int64).tolist(),
    }


def map_confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix int64 (classes, classes) of a map against a label, integer (H, W) each; see `scored_pixels`."""
    scored = scored_pixels(label, predicted, num_classes)
    pairs = label[scored].astype(np.int64) * num_classes + predicted[scored]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scored_pixels(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The pixels that are scored: label and prediction, integer (H, W), both hold a class 0..num_classes-1. Gives bool (H, W).

    `IGNORE` in a label and no data in a map lie outside this range. Raises ValueError for arrays of different shape.
    """
    if label.shape != predicted.shape or label.ndim != 2:
        raise ValueError(
            f"label has shape {label.shape} and prediction {predicted.shape}; expected two maps (H, W) on the same grid"
        )
    scored: np.ndarray = (label >= 0) & (label < num_classes) & (predicted >= 0) & (predicted < num_classes)
    return scored


def table(result: dict[str, Any]) -> list[list[str]]:
    """Rows for `tabulate`: class, F1, precision, recall, IoU, accuracy in percent, pixels; the last row holds the means.

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


def headline(result: dict[str, Any], target: str | None) -> tuple[str, float]:
    """Name and value of the headline score of a task: the F1 of its target class, or the mean F1 without a target."""
    if target is None:
        return "mean F1", result["mean_f1"]
    return f"{target.replace('_', ' ')} F1", result["classes"][target]["f1"]


def headline_interval(result: dict[str, Any], target: str | None) -> list[float] | None:
    """Interval [lower, upper] of the headline score; None if the result has no intervals."""
    intervals = result.get("intervals")
    if intervals is None:
        return None
    ends: list[float] = intervals["mean_f1"] if target is None else intervals["classes"][target]["f1"]
    return ends


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def percent(value: float | None) -> str:
    """A share as percent with two decimals; a dash if it is not defined."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def percent_interval(ends: Sequence[float | None] | None) -> str:
    """An interval in percent, as `80.1 to 92.3`; empty if it is not defined."""
    if ends is None or any(end is None or np.isnan(end) for end in ends):
        return ""
    return " to ".join(f"{100 * end:.1f}" for end in ends if end is not None)


def _cell(score: str, value: float | None, ends: Sequence[float | None] | None) -> str:
    shown = percent_interval(ends) if score in WITH_INTERVAL else ""
    return f"{percent(value)} [{shown}]" if shown else percent(value)
