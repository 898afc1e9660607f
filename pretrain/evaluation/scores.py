"""Scores of predicted land-cover fractions and maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def fraction_scores(predicted: np.ndarray, target: np.ndarray, train_mean: np.ndarray) -> dict[str, float]:
    """Scores of predicted fractions (N, classes): `mae`, `mae_of_mean` of always predicting `train_mean` (classes,), and `r2`.

    R2 is 1 - residual over total sum of squares, pooled over classes; `nan` where the target does not vary.
    """
    predicted, target = predicted.astype(np.float64), target.astype(np.float64)
    residual = ((predicted - target) ** 2).sum()
    total = ((target - target.mean(axis=0)) ** 2).sum()
    varies = bool(np.ptp(target, axis=0).any())  # the sum of squares about a rounded mean is not 0 exactly
    return {
        "mae": float(np.abs(predicted - target).mean()),
        "mae_of_mean": float(np.abs(train_mean - target).mean()),
        "r2": float(1 - residual / total) if varies else float("nan"),
    }


def confusion(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Confusion matrix of the map of each sample: float32 (B, classes, classes), rows: true classes, columns: predicted ones.

    `scores`: class scores (B, classes, H, W); `target`: shares of the same shape, which sum to 1, or to 0 where nothing is
    mapped. A pixel of several classes counts in each by its share.
    """
    predicted = F.one_hot(scores.argmax(dim=1), scores.shape[1]).to(target.dtype)  # (B, H, W, classes)
    return torch.einsum("bthw,bhwp->btp", target, predicted)


def map_scores(matrix: np.ndarray) -> dict[str, float]:
    """`map_accuracy` and `map_f1` of a confusion matrix (classes, classes).

    Classes that are neither true nor predicted do not count in the mean F1.
    """
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    there = true + predicted > 0
    return {
        "map_accuracy": float(right.sum() / matrix.sum()) if matrix.sum() else float("nan"),
        "map_f1": float((2 * right[there] / (true + predicted)[there]).mean()) if there.any() else float("nan"),
    }
