"""Differences of all tasks on one axis: what the picture shows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.comparison.difference_figure import CUT, about_data, difference_figure
from finetune.comparison.seed_statistics import TaskComparison
from tests.support.comparison_outcomes import PRETRAINED, SCORES, SCRATCH, outcomes, simulated_outcomes


def test_picture_has_a_dot_and_a_bar_for_each_difference() -> None:
    pair = [TaskComparison(outcomes(SCORES)), TaskComparison(outcomes(SCORES, "lulc"))]
    figure = difference_figure({"": pair})
    assert figure is not None
    few, full = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["5 % of labels", "100 % of labels"]
    assert [label.get_text() for label in few.get_yticklabels()] == ["Cropland", "Lulc"]
    assert few.get_xlim() == full.get_xlim()
    dots = [line.get_xdata() for line in full.lines if line.get_marker() != "None"]
    expected = [100 * np.mean(PRETRAINED - SCRATCH), 100 * np.mean(PRETRAINED - 0.9)]
    np.testing.assert_allclose(np.concatenate(dots), expected * 2)
    bars = [line.get_xdata() for line in full.lines if line.get_marker() == "None" and len(set(line.get_ydata())) == 1]
    bars = [bar for bar in bars if tuple(bar) != (0, 1)]  # of the lines between tasks
    np.testing.assert_allclose(bars[0], 100 * np.array(stats.ttest_rel(PRETRAINED, SCRATCH).confidence_interval()))
    # The interval of two seeds, 127 points on both sides of 20, does not stretch the axis.
    assert full.get_xlim() == pytest.approx((-42, 42))
    arrows = [(line.get_marker(), float(line.get_xdata()[0])) for line in few.lines if line.get_gid() == CUT]
    assert arrows == [("<", pytest.approx(-41.16)), (">", pytest.approx(41.16))] * 2  # one interval of each task goes on
    assert not [line for line in full.lines if line.get_gid() == CUT]
    assert "simulated" not in figure.get_suptitle()


def test_simulated_data_are_named() -> None:
    real, simulated = TaskComparison(outcomes(SCORES)), TaskComparison(simulated_outcomes(SCORES, "lulc"))
    assert (real.simulated, simulated.simulated) == (False, True)
    assert simulated.to_dict()["simulated"]
    for comparisons, text in (([simulated], "; simulated data"), ([real, simulated], "; partly simulated data"), ([real], "")):
        assert about_data(comparisons) == text
        figure = difference_figure({"": comparisons})
        assert figure is not None
        assert figure.get_suptitle().endswith(f"pretrained is better{text}")


def test_no_picture_without_a_reference() -> None:
    assert difference_figure({"": [TaskComparison(outcomes({("unet", 1.0): [0.9], ("scratch", 1.0): [0.8]}))]}) is None
