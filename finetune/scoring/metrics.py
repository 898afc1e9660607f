"""Scores of a map against labels, all from one confusion matrix. `boundaries.py` and `objects.py` score the shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OVER_CLASSES = ("mean_f1", "mean_iou", "overall_accuracy", "kappa")  # scores that stand for all classes together


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix int64 (classes, classes) of a map against a label, integer (H, W) each; rows are labels.

    See `scored_pixels`.
    """
    scored = scored_pixels(label, predicted, num_classes)
    pairs = label[scored].astype(np.int64) * num_classes + predicted[scored]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
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


def scores_for_choosing(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """`scores` by which epochs and settings are compared: their means are those of the classes that the labels hold.

    A stray pixel of a class without a label makes its F1 0 instead of undefined, and would lower the mean by a whole class.
    """
    found = scores(matrix, classes)
    held = [values for values in found["classes"].values() if values["pixels"]]
    for mean, name in (("mean_f1", "f1"), ("mean_iou", "iou")):
        found[mean] = _mean(np.array([values[name] for values in held]))
    return found


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


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
