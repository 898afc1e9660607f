"""Learning rate and batches over a run."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.training.schedule import Schedule


def test_rate_rises_then_falls_in_a_run_of_any_length() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_share=0.1, final_share=0.01)
    for num_steps in (1, 2, 5, 100):
        rates = [schedule.rate(step, num_steps) for step in range(num_steps)]
        peak = int(np.argmax(rates))
        assert 0 < min(rates) <= max(rates) == pytest.approx(1.0)
        assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
        assert num_steps < 5 or rates[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["warmup_share", "final_share"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*; expected a share from 0 to 1"):
        Schedule(**{name: value})
