"""When a training counts as converged."""

from __future__ import annotations

import pytest

from finetune.comparison.convergence import has_converged


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.5, 0.5], True),
        ([0.1, 0.5, 0.52], False),
        ([0.1, 0.4, 0.6, 0.7, 0.706, 0.709], True),  # the first four are two thirds
        ([0.1, 0.4, 0.6, 0.69, 0.7, 0.71], False),
        ([0.1, 0.7, 0.6, 0.5, 0.4, 0.3], True),  # it was best early
        ([None, 0.5, 0.5], True),
        ([None, None, 0.5], False),
        ([None, None, None], None),
        ([0.5, 0.5], None),
        ([], None),
    ],
)
def test_the_last_third_gains_less_than_a_point(scores: list[float | None], expected: bool | None) -> None:
    assert has_converged([{"mean_f1": score} for score in scores]) is expected
