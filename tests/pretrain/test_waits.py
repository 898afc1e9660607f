"""Between two lines of the log the host does not wait for the device, as far as a CPU can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.pretraining import ENCODER, ROOT, STREAM, options
from tests.support.rank_programs import run_ranks
from tests.support.recorded_waits import RecordedWaits
from tests.support.small_corpus import write_corpus

NUMBERS = torch.arange(4.0)
WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: NUMBERS[0].item(),
    "bool": lambda: bool(NUMBERS[0] > 0),
    "float": lambda: float(NUMBERS[0]),
    "tolist": lambda: NUMBERS.tolist(),
    "numpy": lambda: NUMBERS.numpy(),
    "cpu": lambda: NUMBERS.cpu(),
    "nonzero": lambda: NUMBERS.nonzero(),
    "mask": lambda: NUMBERS[NUMBERS > 1],
    "equal": lambda: torch.equal(NUMBERS, NUMBERS),
    "from_host": lambda: torch.tensor([1.0, 2.0]),
    "unique": lambda: NUMBERS.unique(),
    "masked_fill": lambda: NUMBERS.clone().masked_fill_(NUMBERS > 1, float(NUMBERS[0])),
}


@pytest.mark.parametrize("name", WAITS)
def test_each_way_to_wait_is_recorded(name: str) -> None:
    with RecordedWaits() as waits:
        WAITS[name]()
    assert waits.found


def test_work_on_the_device_is_not_recorded() -> None:
    weights = torch.ones(3, requires_grad=True)
    places = torch.arange(3)
    with RecordedWaits() as waits:
        loss = (weights.softmax(0) * torch.where(NUMBERS[:3] > 1, NUMBERS[:3], weights))[places].clamp_min(0).sum()
        (loss * (1 + 0 * loss.detach())).backward()
        torch._foreach_lerp_([weights.detach()], [NUMBERS[:3]], 0.5)
    assert not waits.found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("zero", ["zero1", "zero2"])
def test_no_wait_between_two_lines_of_the_log(zero: str, precision: str, tmp_path: Path) -> None:
    """Two ranks predict a map in equal parts of a batch, with the teacher, stochastic depth and a clipped gradient."""
    corpus, run = write_corpus(tmp_path, {"modis": 8, "landsat": 8}, side=12, maps=True), tmp_path / "run"
    words = ["--data", str(corpus), "--output", str(run), "--zero", str(ROOT / f"launch/{zero}.json"), "--precision", precision]
    words += ["--num_steps", "6", "--log_every", "6", "--gradient_accumulation_steps", "2", "--objective.predict", "map"]
    words += [*options(ENCODER, "encoder"), *options(STREAM, "stream"), "--encoder.drop_path_rate", "0.2"]
    ended = run_ranks([*words, "--optimizer.gradient_clipping", "0.5"], program="tests.support.recorded_waits")
    assert ended.codes == [0, 0], ended.stderr[-3000:]
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert found == [{}, {}]
