"""Learning curves as differences: what the picture shows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.comparison.difference_curves import difference_curves
from finetune.comparison.difference_figure import CUT
from finetune.comparison.seed_statistics import TaskComparison
from tests.support.comparison_outcomes import PRETRAINED, SCORES, SCRATCH, outcomes, simulated_outcomes


def test_each_encoder_has_a_line_of_differences_with_intervals_on_common_axes() -> None:
    pair = [TaskComparison(simulated_outcomes(SCORES)), TaskComparison(simulated_outcomes(SCORES, "lulc"))]
    figure = difference_curves(pair)
    assert figure is not None
    one, other = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Cropland", "Lulc"]
    assert one.get_ylim() == other.get_ylim() == pytest.approx((-42, 42))
    assert [label.get_text() for label in one.get_xticklabels()] == ["5 %", "100 %"]
    curves = [line for line in one.lines if line.get_marker() != "None" and line.get_gid() != CUT]
    scratch, unet = (line.get_ydata() for line in curves)
    np.testing.assert_allclose(scratch, [np.nan, 100 * np.mean(PRETRAINED - SCRATCH)])
    np.testing.assert_allclose(unet, [100 * ((0.5 - 0.4) + (0.6 - 0.3)) / 2, 100 * np.mean(PRETRAINED - 0.9)])
    upright = [line for line in one.lines if line.get_marker() == "None" and len(set(line.get_xdata())) == 1]
    ends = [line.get_ydata() for line in upright if not np.isnan(line.get_ydata()).any()]
    expected = 100 * np.array(stats.ttest_rel(PRETRAINED, SCRATCH).confidence_interval())
    assert any(np.allclose(found, expected) for found in ends)
    arrows = sorted((float(line.get_ydata()[0]), line.get_marker()) for line in one.lines if line.get_gid() == CUT)
    assert arrows == [(pytest.approx(-41.16), "v"), (pytest.approx(41.16), "^")]
    assert figure.get_suptitle().endswith("above zero, pretrained is better; simulated data")


def test_no_picture_for_one_fraction_and_without_a_reference() -> None:
    full = {key: values for key, values in SCORES.items() if key[1] == 1.0}
    assert difference_curves([TaskComparison(outcomes(full))]) is None
    without = {key: values for key, values in SCORES.items() if key[0] != "pretrained"}
    assert difference_curves([TaskComparison(outcomes(without))]) is None
