"""Scores of predicted land-cover fractions."""

from __future__ import annotations

import numpy as np


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
