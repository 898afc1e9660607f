"""Scores of a map against labels, all from one confusion matrix; `boundaries` and `objects` score the shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from finetune.task import IGNORE

SCORES_OVER_CLASSES = ("mean_f1", "mean_iou", "overall_accuracy", "kappa")  # those with a curve, which may choose the best epoch


def confusion(num_classes: int) -> MulticlassConfusionMatrix:
    """An empty confusion matrix, rows are labels, columns predictions; pixels labelled `IGNORE` do not count."""
    # Every caller passes indices of its own making; checking them costs two passes over each batch.
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


def scores(matrix: torch.Tensor | np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Scores from a confusion matrix (classes, classes) of pixel counts, rows are labels.

    Per class: f1, precision, recall, iou, accuracy (one class against the rest) and the pixels labelled so. Over classes:
    mean_f1, mean_precision, mean_recall, mean_iou, overall_accuracy, kappa (Cohen 1960). A ratio of nothing to nothing is NaN,
    and a mean leaves out classes whose score is: F1 and IoU of a class neither labelled nor predicted, the precision of one
    never predicted, the recall of one never labelled. A class that is labelled and never hit has F1 0, which the mean F1 counts.
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


def known_in_both(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Where label and prediction, integer (H, W), both hold a class 0..num_classes-1: bool (H, W). Only these pixels are scored.

    `IGNORE` in a label and the no-data value of a map are no classes. Raises ValueError for maps of different shape.
    """
    if label.shape != predicted.shape or label.ndim != 2:
        raise ValueError(
            f"label has shape {label.shape} and prediction {predicted.shape}; expected two maps (H, W) on the same grid"
        )
    known: np.ndarray = (label >= 0) & (label < num_classes) & (predicted >= 0) & (predicted < num_classes)
    return known


def table(result: dict[str, Any]) -> list[list[str]]:
    """Rows for `tabulate`: class, F1, precision, recall, IoU, accuracy in percent, pixels; the last row holds the means.

    Where the result has intervals (`bootstrap.with_intervals`), they stand behind F1 and IoU.
    """
    names = ("f1", "precision", "recall", "iou", "accuracy")
    overall = ("mean_f1", "mean_precision", "mean_recall", "mean_iou", "overall_accuracy")
    intervals = result.get("intervals") or {}
    known = intervals.get("classes", {})
    rows = [
        [name, *(_cell(score, values[score], known.get(name, {}).get(score)) for score in names), f"{values['pixels']:,}"]
        for name, values in result["classes"].items()
    ]
    last = [_cell(name, result[name], intervals.get(name)) for name in overall]
    return [*rows, ["all", *last, f"{result['pixels']:,}"]]


def headline(result: dict[str, Any], target: str | None) -> tuple[str, float]:
    """The one score that stands for a task: the F1 of its target class or the mean F1, and its name."""
    if target is None:
        return "mean F1", result["mean_f1"]
    return f"{target.replace('_', ' ')} F1", result["classes"][target]["f1"]


def headline_interval(result: dict[str, Any], target: str | None) -> list[float] | None:
    """The interval of `headline`'s score: [lower, upper], None where the result has none."""
    intervals = result.get("intervals")
    if intervals is None:
        return None
    ends: list[float] = intervals["mean_f1"] if target is None else intervals["classes"][target]["f1"]
    return ends


WITH_INTERVAL = ("f1", "mean_f1", "iou", "mean_iou")  # the others would make the table wider than a terminal
TABLE_HEADER = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "pixels"]


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def percent(value: float | None) -> str:
    """A share as percent with two decimals, a dash where it is not defined."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def percent_interval(ends: Sequence[float | None] | None) -> str:
    """An interval as `80.1 to 92.3`, empty where there is none."""
    if ends is None or any(end is None or np.isnan(end) for end in ends):
        return ""
    return " to ".join(f"{100 * end:.1f}" for end in ends if end is not None)


def _cell(score: str, value: float | None, ends: Sequence[float | None] | None) -> str:
    shown = percent_interval(ends) if score in WITH_INTERVAL else ""
    return f"{percent(value)} [{shown}]" if shown else percent(value)
