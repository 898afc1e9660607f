"""Schedules in short and long runs."""

from __future__ import annotations

import pytest

from pretrain.config import OptimizerConfig
from pretrain.schedule import scheduled_learning_rate

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, gradient_clipping=0.5)


def test_learning_rate_warms_up_and_ends_at_its_share_even_in_short_runs():
    assert scheduled_learning_rate(OPTIMIZER, 0, 1) == 1e-3
    for steps in (2, 7, 1000):
        rates = [scheduled_learning_rate(OPTIMIZER, step, steps) for step in range(steps + 1)]
        assert max(rates) == pytest.approx(1e-3)
        assert rates[-1] == pytest.approx(1e-5, rel=1e-6)
        assert rates.index(max(rates)) <= max(1, round(0.05 * steps))
