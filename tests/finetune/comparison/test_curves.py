"""Learning curves: what the picture shows."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.comparison.curves import learning_curves
from finetune.comparison.seed_statistics import TaskComparison
from tests.support.comparison_outcomes import SCORES, outcomes


def test_picture_has_a_line_an_encoder_and_a_dot_a_seed() -> None:
    pair = [TaskComparison(outcomes(SCORES)), TaskComparison(outcomes(SCORES, "lulc"))]
    figure = learning_curves(pair)
    panel = figure.axes[0]
    assert [axes.get_title() for axes in figure.axes] == ["Cropland", "Lulc"]
    lines = {line.get_label(): line for line in panel.lines}
    assert list(lines) == ["pretrained", "from scratch", "U-Net"]
    np.testing.assert_allclose(lines["U-Net"].get_xydata(), [[0.05, 100 * 1.4 / 3], [1.0, 90]])
    assert panel.get_xscale() == "log"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["5 %", "100 %"]
    full = {key: values for key, values in SCORES.items() if key[1] == 1.0}
    (panel,) = learning_curves([TaskComparison(outcomes(full))]).axes
    assert sorted(np.concatenate([line.get_xdata() for line in panel.lines[::2]]).tolist()) == pytest.approx(
        sorted(100 * value for values in full.values() for value in values if value)
    )
