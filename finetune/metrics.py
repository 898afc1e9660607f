"""Scores of a map against labels, all from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from finetune.task import IGNORE


def confusion(num_classes: int) -> MulticlassConfusionMatrix:
    """An empty confusion matrix, rows are labels, columns predictions; pixels labelled `IGNORE` do not count."""
    # Every caller passes indices of its own making; checking them costs two passes over each batch.
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


def scores(matrix: torch.Tensor | np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Scores from a confusion matrix (classes, classes) of pixel counts, rows are labels.

    Per class: f1, precision, recall, iou, accuracy (one class against the rest) and the pixels labelled so. Over classes:
    mean_f1, mean_iou, overall_accuracy, kappa (Cohen 1960). A ratio of nothing to nothing is NaN, for instance the precision
    of a class that is never predicted; means leave out classes that occur neither in label nor in prediction.
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


def table(result: dict[str, Any]) -> list[list[str]]:
    """Rows for `tabulate`: class, F1, precision, recall, IoU, accuracy in percent, pixels; the last row holds the means."""
    names = ("f1", "precision", "recall", "iou", "accuracy")
    rows = [
        [name, *(_percent(values[score]) for score in names), f"{values['pixels']:,}"]
        for name, values in result["classes"].items()
    ]
    last = ["all", _percent(result["mean_f1"]), "", "", _percent(result["mean_iou"]), _percent(result["overall_accuracy"])]
    return [*rows, [*last, f"{result['pixels']:,}"]]


def headline(result: dict[str, Any], target: str | None) -> tuple[str, float]:
    """The one score that stands for a task: the F1 of its target class or the mean F1, and its name."""
    if target is None:
        return "mean F1", result["mean_f1"]
    return f"{target.replace('_', ' ')} F1", result["classes"][target]["f1"]


TABLE_HEADER = ["class", "F1 %", "precision %", "recall %", "IoU %", "accuracy %", "pixels"]


def without_nan(values: Any) -> Any:
    """The same structure with None for NaN: JSON has no NaN."""
    if isinstance(values, dict):
        return {key: without_nan(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_nan(value) for value in values]
    return None if isinstance(values, float) and np.isnan(values) else values


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"
