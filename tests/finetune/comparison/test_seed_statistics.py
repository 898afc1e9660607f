"""Numbers of a comparison against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.comparison.seed_statistics import TaskComparison, cell_of
from tests.support.comparison_outcomes import PRETRAINED, SCORES, SCRATCH, outcomes


def test_numbers_are_those_of_numpy_and_scipy() -> None:
    comparison = TaskComparison(outcomes(SCORES))
    cell = comparison.cell("pretrained", 1.0)
    assert (cell.mean, cell.deviation) == pytest.approx((PRETRAINED.mean(), PRETRAINED.std(ddof=1)))
    gain = comparison.gain("scratch", 1.0)
    assert gain.mean == pytest.approx(np.mean(PRETRAINED - SCRATCH))
    assert gain.standard_error == pytest.approx(stats.sem(PRETRAINED - SCRATCH))
    assert gain.over_seeds == pytest.approx(stats.ttest_rel(PRETRAINED, SCRATCH).confidence_interval(0.95))
    assert gain.over_scenes is None  # these runs did not keep the pixels of each scene
    # Pairs of the same seed alone: seeds 0 and 2 have both.
    few = comparison.gain("unet", 0.05)
    assert (few.mean, few.count) == (pytest.approx(np.mean([0.1, 0.3])), 2)
    assert np.isnan(comparison.gain("scratch", 0.05).mean)
    assert np.isnan(cell_of([0.5]).deviation)
    assert np.isnan(cell_of([0.5]).over_seeds).all()
    rows = comparison.to_dict()["reference_minus"]
    assert [row for row in rows if row["encoder"] == "unet"][1]["mean"] == pytest.approx(np.mean(PRETRAINED - 0.9))
    assert rows[-1]["interval_over_seeds"] == pytest.approx(stats.ttest_rel(PRETRAINED, [0.9] * 3).confidence_interval(0.95))


def test_reference_is_the_first_pretrained_encoder_or_the_chosen_one() -> None:
    found = outcomes({("unet", 1.0): [0.9], ("lora.map", 1.0): [0.8], ("pretrained.map", 1.0): [0.7]})
    assert TaskComparison(found).reference == "lora.map"
    chosen = TaskComparison(found, "pretrained.map")
    assert chosen.others == ["unet", "lora.map"]
    assert chosen.gain("unet", 1.0).mean == pytest.approx(-0.2)
    without = TaskComparison(outcomes({("unet", 1.0): [0.9], ("scratch", 1.0): [0.8]}))
    assert without.reference is None
    assert without.others == without.to_dict()["reference_minus"] == []


def test_converged_runs_are_counted() -> None:
    found = outcomes({("pretrained", 1.0): [0.9, 0.8, 0.7, None], ("random_forest", 1.0): [0.9] * 4})
    for outcome, last in zip(found[:3], (0.9, 0.905, 0.92), strict=True):
        assert outcome.metrics is not None
        outcome.metrics["history"] = [{"mean_f1": value} for value in (0.1, 0.9, last)]
    comparison = TaskComparison(found)
    assert comparison.convergence("pretrained", 1.0) == (2, 3)
    assert comparison.convergence("random_forest", 1.0) == (0, 0)
    assert comparison.to_dict()["cells"][0]["converged"] == 2
