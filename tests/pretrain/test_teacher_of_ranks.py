"""The mean teacher of several ranks, each of which averages the weights that its optimizer updates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.disturbed_training import checkpoint_tensors
from tests.support.pretraining import ENCODER, ROOT, STREAM, options
from tests.support.rank_programs import run_ranks
from tests.support.small_corpus import write_corpus

STEPS = 4


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero1", "zero2", "zero3"])
def test_teacher_averages_the_weights_of_the_optimizer_and_not_their_bf16_copies(zero: str, tmp_path: Path) -> None:
    """The learning rate moves most weights by less than a step of bf16, which is 0.004 to 0.008 of a number."""
    corpus, run = write_corpus(tmp_path, {"modis": 8, "landsat": 8}, side=12), tmp_path / "run"
    words = ["--data", str(corpus), "--output", str(run), "--zero", str(ROOT / f"launch/{zero}.json"), "--precision", "bf16"]
    words += ["--num_steps", str(STEPS), "--save_every", "1", "--keep", "100", "--log_every", "1"]
    words += ["--optimizer.learning_rate", "1e-5", *options(ENCODER, "encoder"), *options(STREAM, "stream")]
    ended = run_ranks(words)
    assert ended.codes == [0, 0], ended.stderr[-3000:]

    saved = {step: checkpoint_tensors(run, step) for step in range(1, STEPS + 1)}
    students, teachers = ({step: saved[step][file] for step in saved} for file in ("student", "teacher"))
    norm = "encoder.norm.weight"
    assert not torch.equal(students[1][norm], students[STEPS][norm])
    assert torch.equal(students[1][norm].bfloat16(), students[STEPS][norm].bfloat16())
    for step in range(1, STEPS):
        decay = (1 + step) / (10 + step)
        for name, before in teachers[step].items():
            expected = decay * before.double() + (1 - decay) * students[step + 1][name].double()
            torch.testing.assert_close(teachers[step + 1][name].double(), expected, rtol=2e-7, atol=1e-9)

    encoder = load_file(run / "encoder.safetensors")
    assert all(
        torch.equal(encoder[name.removeprefix("encoder.")], w) for name, w in teachers[STEPS].items() if "encoder." in name
    )
    average, student = (torch.cat([w.flatten() for w in of[STEPS].values()]).double() for of in (teachers, students))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    distances = {line["step"]: line["teacher/distance"] for line in lines if "teacher/distance" in line}
    assert distances[STEPS] == pytest.approx(((average - student).norm() / student.norm()).item(), rel=1e-5)
