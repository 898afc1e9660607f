"""A gradient that is not finite, with losses that are: the step is skipped, and a run that resumes differs in no bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.disturbed_training import assert_same_bits, checkpoint_tensors, copy_until, log_of
from tests.support.pretraining import ENCODER, ROOT, STREAM, options
from tests.support.rank_programs import Ended, run_ranks
from tests.support.small_corpus import write_corpus

SAMPLES = {"modis": 8, "landsat": 8}
STEPS = 6
SPOILED = {0: "inf", 2: "nan", 3: "-inf"}  # steps from 0, the very first among them


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SAMPLES, side=12)


def train(corpus: Path, output: Path, stage: int, precision: str, spoiled: dict[int, str], *more: str) -> Ended:
    arguments = ["--data", str(corpus), "--output", str(output), "--zero", str(ROOT / f"launch/zero{stage}.json")]
    arguments += ["--precision", precision, "--num_steps", str(STEPS), "--save_every", "1", "--keep", "100", "--log_every", "1"]
    arguments += [*options(ENCODER, "encoder"), *options(STREAM, "stream"), *more]
    environment = {"SPOILED_STEPS": json.dumps(spoiled)}
    return run_ranks(arguments, program="tests.support.spoiled_gradients", environment=environment)


def skipped_so_far(run: Path, step: int) -> int:
    return int(json.loads((run / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text())["skipped_steps"])


def check_skipping_and_resuming(corpus: Path, tmp_path: Path, stage: int, precision: str, resumed_after: list[int]) -> None:
    run = tmp_path / "undisturbed"
    ended = train(corpus, run, stage, precision, SPOILED)
    assert ended.codes == [0, 0], ended.stderr[-3000:]

    # AdamW takes no skipped step: the student stays, its moments stay; the teacher follows it.
    for step in SPOILED:
        if step > 0:
            before, after = checkpoint_tensors(run, step), checkpoint_tensors(run, step + 1)
            for file in ("student", "optimizer"):
                assert all(torch.equal(before[file][name], after[file][name]) for name in before[file])  # type: ignore[arg-type]
            assert not all(torch.equal(before["teacher"][name], after["teacher"][name]) for name in before["teacher"])  # type: ignore[arg-type]
    assert [skipped_so_far(run, step) for step in range(1, STEPS + 1)] == [1, 1, 2, 3, 3, 3]
    norms = {step: values.get("optimizer/gradient_norm") for step, values in log_of(run).items()}
    assert {step for step, norm in norms.items() if norm is None} == {step + 1 for step in SPOILED}

    # It is told, listed and counted.
    for step in SPOILED:
        assert ended.stdout.count(f"step {step + 1} was skipped: its losses are finite, its gradient is not; sources ") == 1
    listed = [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in listed] == [step + 1 for step in SPOILED]
    assert {(len(line["ranks"]), len(line["ranks"][0]), len(line["ranks"][0][0]["keys"])) for line in listed} == {(2, 2, 2)}
    assert json.loads((run / "metrics.json").read_text())["skipped_steps"] == 3
    events = EventAccumulator(str(run)).Reload()
    assert [event.value for event in events.Scalars("optimizer/skipped_steps")] == [1, 1, 2, 3, 3, 3]
    assert len(events.Scalars("optimizer/gradient_norm")) == STEPS - len(SPOILED)

    for step in resumed_after:
        copy = copy_until(run, tmp_path / f"after-{step}", step)
        resumed = train(corpus, copy, stage, precision, SPOILED)
        assert resumed.codes == [0, 0], resumed.stderr[-3000:]
        assert f"resuming after step {step}" in resumed.stdout
        assert log_of(copy) == log_of(run)
        assert_same_bits(copy, run, STEPS)
        assert skipped_so_far(copy, STEPS) == 3
        assert (copy / "skipped_steps.jsonl").read_text() == (run / "skipped_steps.jsonl").read_text()


@pytest.mark.slow
def test_skipped_steps_change_no_bit_of_a_run_that_resumes(corpus: Path, tmp_path: Path) -> None:
    check_skipping_and_resuming(corpus, tmp_path, stage=2, precision="bf16", resumed_after=[4])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_skipped_steps_of_any_stage_and_precision(corpus: Path, tmp_path: Path, stage: int, precision: str) -> None:
    check_skipping_and_resuming(corpus, tmp_path, stage, precision, resumed_after=[1, 3, 5])


@pytest.mark.slow
def test_steps_that_are_checked_later_are_skipped_listed_and_counted_all_the_same(corpus: Path, tmp_path: Path) -> None:
    """Two runs that differ only in the steps between two lines of the log, and between two checkpoints."""
    often, seldom = tmp_path / "often", tmp_path / "seldom"
    for run, every in ((often, "1"), (seldom, "4")):
        ended = train(corpus, run, 1, "bf16", SPOILED, "--log_every", every, "--save_every", every)
        assert ended.codes == [0, 0], ended.stderr[-3000:]
        assert ended.stdout.count("was skipped: its losses are finite") == len(SPOILED)
    assert_same_bits(seldom, often, STEPS)
    assert (seldom / "skipped_steps.jsonl").read_text() == (often / "skipped_steps.jsonl").read_text()
    assert [skipped_so_far(seldom, step) for step in (4, STEPS)] == [3, 3]
    assert log_of(seldom)[4]["samples_digest"] != log_of(often)[4]["samples_digest"]  # of four steps, of one


@pytest.mark.slow
def test_a_run_that_only_skips_ends_with_one_error(corpus: Path, tmp_path: Path) -> None:
    spoiled = dict.fromkeys(range(1, 40), "inf")
    ended = train(corpus, tmp_path / "run", 1, "fp32", spoiled, "--num_steps", "40", "--save_every", "9")
    assert ended.codes == [1, 1], ended.stderr[-3000:]
    assert len(ended.errors) == 1
    assert "20 steps in a row were skipped, up to step 21" in ended.errors[0]
    assert "skipped_steps.jsonl" in ended.errors[0]
