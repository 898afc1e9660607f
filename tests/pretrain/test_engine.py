"""The DeepSpeed engine: the names that we use beyond its documentation, and gradients that are added up in fp32."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from tests.support.rank_programs import run_ranks


def test_deepspeed_has_the_undocumented_names_that_we_use() -> None:
    """pyproject.toml bounds its version; before raising the bound, each name here must be found again."""
    ended = run_ranks([], ranks=1, program="tests.support.deepspeed_names")
    assert ended.codes == [0], ended.stderr[-3000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == [], f"deepspeed {version('deepspeed')} lacks these"


@pytest.mark.slow
def test_many_small_gradients_add_up_beside_a_large_one() -> None:
    """One of 32 and 31 of 1/32: in bf16, whose numbers near 32 are 1/4 apart, the small ones would all be lost."""
    ended = run_ranks([], ranks=2, program="tests.support.added_gradients")
    assert ended.codes == [0, 0], ended.stderr[-3000:]
    norms = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(norms) == ["1", "2", "3"]
    for stage, (found, expected) in norms.items():
        assert found == pytest.approx(expected, rel=1e-3), stage


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("zero2", "zero3", "zero2_offload", "zero3_offload")]


@pytest.mark.parametrize("zero", ["zero1", *OTHERS])
def test_a_loss_that_is_not_finite_changes_nothing_on_any_rank(zero: str) -> None:
    """Nor does it change the next step, which an engine takes as well that has never seen such a loss."""
    ended = run_ranks([zero], ranks=2, program="tests.support.spoiled_losses")
    assert ended.codes == [0, 0], ended.stderr[-3000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == {"fp32 inf": [], "fp32 nan": [], "bf16 inf": [], "bf16 nan": []}
