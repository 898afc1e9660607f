"""Numbers of a comparison against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.comparison.seed_statistics import TaskComparison, cell_of, standard_error
from tests.support.comparison_outcomes import PRETRAINED, SCORES, SCRATCH, outcomes


def test_numbers_are_those_of_numpy_and_scipy() -> None:
    comparison = TaskComparison(outcomes(SCORES))
    cell = comparison.cell("pretrained", 1.0)
    assert (cell.mean, cell.deviation) == pytest.approx((PRETRAINED.mean(), PRETRAINED.std(ddof=1)))
    gain = comparison.gain("scratch", 1.0)
    assert gain.mean == pytest.approx(np.mean(PRETRAINED - SCRATCH))
    assert standard_error(gain) == pytest.approx(stats.sem(PRETRAINED - SCRATCH))
    assert gain.mean / standard_error(gain) == pytest.approx(stats.ttest_rel(PRETRAINED, SCRATCH).statistic)
    # Pairs of the same seed alone: seeds 0 and 2 have both.
    few = comparison.gain("unet", 0.05)
    assert (few.mean, few.count) == (pytest.approx(np.mean([0.1, 0.3])), 2)
    assert np.isnan(comparison.gain("scratch", 0.05).mean)
    assert np.isnan(cell_of([0.5]).deviation)
    rows = comparison.to_dict()["pretrained_minus"]
    assert [row for row in rows if row["encoder"] == "unet"][1]["mean"] == pytest.approx(np.mean(PRETRAINED - 0.9))
