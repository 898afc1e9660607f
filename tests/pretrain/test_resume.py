"""A run that is killed, stopped, or moved to other ranks or another ZeRO stage resumes as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from common.exit_codes import STOPPED
from pretrain.data.config import StreamConfig
from pretrain.model import EncoderConfig
from tests.support.disturbed_training import (
    ask_one_rank,
    assert_same_bits,
    copy_until,
    disturb,
    kill_all,
    kill_one_rank,
    log_of,
    rank_processes,
)
from tests.support.pretraining import ROOT, free_port, options
from tests.support.small_corpus import write_corpus

STEPS = 60
ENCODER = EncoderConfig(
    patch_size=(4, 2, 2), embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=(4, 3, 3), drop_path_rate=0.2
)
STREAM = StreamConfig(num_frames=8, global_batch_size=4, num_workers=1)
MAP = ["--objective.predict", "map", "--objective.decoder_channels", "16", "--stream.teacher_dates", "own"]
FRACTIONS = ["--objective.predict", "fractions"]


def start(corpus: Path, output: Path, *more: str, ranks: int = 2) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", free_port()]
    command += [str(ROOT / "launch/pretrain.sh"), "--data", str(corpus), "--output", str(output), "--precision", "fp32"]
    command += ["--num_steps", str(STEPS), "--log_every", "1", "--save_every", "4", "--keep", "100"]
    command += [*options(ENCODER, "encoder"), *options(STREAM, "stream"), "--optimizer.learning_rate", "1e-3", *MAP, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=900)  # against a run that hangs; on a busy machine ZeRO-3 takes minutes
    assert process.returncode == 0, output[-2000:] + errors[-3000:]
    return output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), {"modis": 9, "landsat": 7, "sentinel2": 8}, side=12, maps=True)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(corpus, output))
    return output


def assert_equal_runs(run: Path, other: Path) -> None:
    assert log_of(run) == log_of(other)
    assert sorted(log_of(run)) == list(range(1, STEPS + 1))
    assert_same_bits(run, other, STEPS)


def assert_close_runs(run: Path, other: Path) -> None:
    """The same samples; losses equal up to fp32 rounding."""
    ours, theirs = log_of(run), log_of(other)
    assert sorted(ours) == list(range(1, STEPS + 1))
    for step, values in ours.items():
        assert values["samples_digest"] == theirs[step]["samples_digest"], step
        for name in values:
            if name.startswith("loss/"):
                assert values[name] == pytest.approx(theirs[step][name], abs=1e-5), (step, name)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    ways = [kill_all, kill_one_rank] * 5
    story = disturb(lambda run: start(corpus, run), tmp_path / "run", ways, seed=1)
    print("\n".join(story))
    assert sum("resuming after step" in line for line in story) >= 6
    assert_equal_runs(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero1", "zero2", "zero3"])
def test_kills_change_no_bit_in_bf16(corpus: Path, tmp_path: Path, zero: str) -> None:
    words = ["--precision", "bf16", "--zero", str(ROOT / f"launch/{zero}.json"), *(FRACTIONS if zero == "zero1" else MAP)]
    finish(start(corpus, tmp_path / "undisturbed", *words))
    story = disturb(lambda run: start(corpus, run, *words), tmp_path / "run", [kill_all, kill_one_rank, kill_all], seed=2)
    assert any("resuming after step" in line for line in story), story
    assert_equal_runs(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "zero"), [(1, "zero1"), (2, "zero3"), (2, "zero2"), (1, "zero3"), (2, "zero2_offload"), (4, "zero1")]
)
def test_resumes_with_other_ranks_and_stages(corpus: Path, undisturbed: Path, tmp_path: Path, ranks: int, zero: str) -> None:
    copy = copy_until(undisturbed, tmp_path / "run", step=12)
    output = finish(start(corpus, copy, "--zero", str(ROOT / f"launch/{zero}.json"), ranks=ranks))
    assert "resuming after step 12" in output
    assert_close_runs(copy, undisturbed)


@pytest.mark.slow
def test_resumes_from_one_rank_on_two_and_with_gradient_accumulation(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    finish(start(corpus, alone, "--gradient_accumulation_steps", "2", ranks=1))
    assert_close_runs(alone, undisturbed)
    copy = copy_until(alone, tmp_path / "run", step=8)
    assert "resuming after step 8" in finish(start(corpus, copy, ranks=2))
    assert_close_runs(copy, undisturbed)


@pytest.mark.slow
def test_stops_when_asked_saves_and_resumes(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    story = disturb(lambda run: start(corpus, run), tmp_path / "run", [ask_one_rank, ask_one_rank], seed=3)
    *stops, finish_line = story
    assert finish_line.startswith("resuming after step"), story
    for line in stops:
        assert f"exit code {STOPPED}" in line, story
        assert "asked to stop: saved after step" in line
    assert_equal_runs(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_lost_rank_leaves_no_process_behind(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, tmp_path / "run", "--num_steps", "100000")
    deadline = time.monotonic() + 120
    while len(log_of(tmp_path / "run")) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks = rank_processes(process.pid)
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not psutil.wait_procs(ranks, timeout=10)[1]


@pytest.mark.slow
def test_what_is_wrong_is_one_error_on_one_rank_and_leaves_no_process(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path_of(tmp_path, "other"), {"modis": 9, "landsat": 7, "sentinel2": 9}, side=12, maps=True)
    old = shutil.copytree(corpus, tmp_path / "old")
    described = json.loads((old / "dataset.json").read_text())
    (old / "dataset.json").write_text(json.dumps({**described, "version": 1}))
    incomplete = shutil.copytree(corpus, tmp_path / "incomplete")
    (incomplete / "modis-train-000001.tar").unlink()
    (tmp_path / "file").touch()
    cases: list[tuple[Path, Path, list[str], int, str]] = [
        (old, tmp_path / "new", [], 2, "version 1"),
        (incomplete, tmp_path / "new", [], 2, "modis-train-000001.tar"),
        (corpus, tmp_path / "new", [], 3, "which 3 ranks cannot share equally"),
        (
            corpus,
            tmp_path / "new",
            ["--gradient_accumulation_steps", "4"],
            2,
            "4 gradient accumulation steps do not divide",
        ),
        (corpus, tmp_path / "file" / "run", [], 2, "Not a directory"),
        (corpus, undisturbed, ["--encoder.embed_dim", "16"], 2, "holds a run with other encoder"),
        (other, undisturbed, [], 2, "holds a run with other fingerprint"),
        (corpus, undisturbed, ["--resume", "never"], 2, "holds a run already"),
        (corpus, tmp_path / "new", ["--zero", str(tmp_path / "file")], 2, "is not a DeepSpeed JSON"),
        (corpus, tmp_path / "new", ["--compile", "--zero", str(ROOT / "launch/zero3.json")], 2, "ZeRO-3 fetches"),
    ]
    before = log_of(undisturbed)
    for data, output, more, ranks, expected in cases:
        process = start(data, output, *more, ranks=ranks)
        deadline, seen = time.monotonic() + 60, []
        while process.poll() is None and time.monotonic() < deadline:
            seen = rank_processes(process.pid) or seen
            time.sleep(0.2)
        said, errors = process.communicate(timeout=60)
        lines = [line for line in errors.splitlines() if "error: " in line and not line.startswith("[")]
        assert process.returncode == 2, (expected, said[-2000:], errors[-2000:])
        assert len(lines) == 1, (expected, errors)
        assert expected in lines[0]
        assert "Traceback" not in errors
        assert not psutil.wait_procs(seen, timeout=10)[1]
        assert not (tmp_path / "new").exists()
    assert log_of(undisturbed) == before


def tmp_path_of(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder
