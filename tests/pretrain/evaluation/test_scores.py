"""Scores of predicted fractions on hand-made numbers."""

from __future__ import annotations

import math

import numpy as np

from pretrain.evaluation.scores import fraction_scores


def test_r2_is_nan_where_the_fractions_do_not_vary() -> None:
    target = np.tile(np.float32([0.3, 0.7]), (7, 1))  # their mean is not 0.3 to the last bit
    assert math.isnan(fraction_scores(target + 0.1, target, target[0])["r2"])


def test_fraction_scores_on_hand_made_numbers():
    target = np.array([[1.0, 0.0], [0.0, 1.0]])
    scores = fraction_scores(np.array([[0.5, 0.5], [0.0, 1.0]]), target, np.array([0.5, 0.5]))
    assert scores == {"mae": 0.25, "mae_of_mean": 0.5, "r2": 0.5}
