"""Pretraining as a SLURM job: the ranks, and what the job does when they have ended. srun, scontrol and squeue are stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.disturbed_training import log_of
from tests.support.launching import ROOT, SCONTROL, SCRIPT, ended_with_the_test, of, ranks, stand_in_environment, start
from tests.support.pretraining import ENCODER, STREAM, free_port, options
from tests.support.small_corpus import write_corpus


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return stand_in_environment(tmp_path)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    yield from ended_with_the_test()


def job(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], *arguments: str, **more: str
) -> subprocess.Popen[str]:
    """A job as SLURM starts it: a copy of the script in another folder, with SLURM's environment variables."""
    script = shutil.copy(ROOT / "launch/pretrain.sbatch", tmp_path / "slurm_script")
    told = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "20012345", "SLURM_JOB_NODELIST": "node-[7,9]", "SLURM_NTASKS": "4"}
    told |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_CPUS_PER_TASK": "3", "STATE": "RUNNING"}
    return start(["bash", str(script), *(arguments or ("--config", "a b.yaml"))], environment | told | more, started)


def requeued(tmp_path: Path) -> list[str]:
    file = tmp_path / "requeued"
    return file.read_text().splitlines() if file.exists() else []


def test_slurm_ranks_save_and_the_job_is_queued_again(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = job(tmp_path, environment, started)
    each = ranks(tmp_path, 4)
    assert of(each, "MASTER_ADDR") == ["node-7"] * 4
    assert of(each, "MASTER_PORT") == ["22345"] * 4
    assert of(each, "OMP_NUM_THREADS") == ["3"] * 4
    assert [rank["arguments"] for rank in each] == [["--config", "a b.yaml"]] * 4
    options, command = json.loads((tmp_path / "srun.json").read_text())
    assert options == {"kill-on-bad-exit": 0, "wait": 180, "cpus-per-task": 3}
    assert command[:3] == ["python", "-u", str(ROOT / SCRIPT)]
    os.kill(each[2]["pid"], signal.SIGTERM)  # the first rank that gets the signal
    assert process.wait(30) == 75, process.communicate()
    assert len(list(tmp_path.glob("saved-*"))) == 4
    assert requeued(tmp_path) == ["requeue 20012345"]


@pytest.mark.parametrize(
    ("codes", "expected", "again"),
    [
        ({"0": [0, 75], "1": [0.2, 75], "2": [0.4, 75], "3": [1, 75]}, 75, True),  # not all at once: none is killed
        ({"0": [0, 0], "1": [0, 0], "2": [0, 0], "3": [0.5, 0]}, 0, False),
        ({"0": [0, 2], "1": [0, 2], "2": [0, 2], "3": [0, 2]}, 2, False),
        ({"0": [0.5, 1], "1": [0.5, 1], "2": [0.5, 1], "3": [0.5, 1]}, 1, False),
        pytest.param({"0": [0.5, 74], "1": [0.5, 74], "2": [0.5, 74], "3": [0.5, 74]}, 74, True, marks=pytest.mark.slow),
        pytest.param({"1": [0, 1]}, 137, True, marks=pytest.mark.slow),  # the others wait for it for ever, and are killed
    ],
)
def test_slurm_queues_again_after_75_and_after_failures_that_may_pass(
    tmp_path: Path,
    environment: dict[str, str],
    started: list[subprocess.Popen[str]],
    codes: dict[str, Any],
    expected: int,
    again: bool,
) -> None:
    run = ("--data", "corpus", "--output", str(tmp_path / "run"))
    process = job(tmp_path, environment, started, *run, CODES=json.dumps(codes))
    assert process.wait(60) == expected, process.communicate()
    assert requeued(tmp_path) == ["requeue 20012345"] * again


@pytest.mark.slow
def test_slurm_does_not_queue_again_what_fails_twice_at_the_same_step(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    run = ("--data", "corpus", "--output", str(tmp_path / "run"))
    codes = json.dumps({str(n): [0.5, 74] for n in range(4)})
    for expected in (1, 1):
        process = job(tmp_path, environment, started, *run, CODES=codes)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 74
        assert len(requeued(tmp_path)) == expected
    assert "not worth starting again: the newest checkpoint is of step 0" in output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"SLURM_RESTART_COUNT": "99"}, ""),
        ({"SLURM_RESTART_COUNT": "100"}, "not queued again after 100 restarts"),
        ({"SLURM_RESTART_COUNT": "3", "MAX_RESTARTS": "3"}, "not queued again after 3 restarts"),
        ({"STATE": "COMPLETING"}, "the job is COMPLETING: SLURM queues it again after a preemption"),
        ({"STATE": ""}, "the job is gone"),
        ({"SCONTROL_CODE": "1"}, "could not be queued again"),
    ],
)
def test_slurm_does_not_queue_again_for_ever(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], more: dict[str, str], said: str
) -> None:
    process = job(tmp_path, environment, started, CODES=json.dumps({str(n): [0, 75] for n in range(4)}), **more)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said in output
    assert len(requeued(tmp_path)) == ("the job is" not in said and "restarts" not in said)


def test_slurm_script_outlives_a_signal_to_itself(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    """A preemption may signal the script as well as the ranks."""
    process = job(tmp_path, environment, started)
    each = ranks(tmp_path, 4)
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(each[0]["pid"], signal.SIGTERM)
    assert process.wait(30) == 75
    assert requeued(tmp_path) == ["requeue 20012345"]


def test_slurm_directives() -> None:
    text = (ROOT / "launch/pretrain.sbatch").read_text()
    options = dict(line.split()[1].lstrip("-").partition("=")[::2] for line in text.splitlines() if line.startswith("#SBATCH"))
    assert options["gpus-per-node"] == options["ntasks-per-node"], "one rank a GPU"
    assert options["signal"] == "TERM@180", "to the ranks; with B: it would be to the script"
    assert {"requeue", "open-mode", "time", "nodes", "cpus-per-task"} <= options.keys()
    before = text[: text.index("\nproject=")]
    assert all(line.startswith("#") or not line for line in before.splitlines()), "SLURM reads directives up to the first command"


def test_ranks_of_srun_find_each_other(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "bin" / "scontrol").write_text("#!/usr/bin/env bash\necho 127.0.0.1\n")
    more = {"ENGINE": str(ROOT), "SLURM_NTASKS": "2", "OMP_NUM_THREADS": "1", "MASTER_PORT": free_port()}
    process = job(tmp_path, environment, started, **more)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [json.loads((tmp_path / f"gathered-{n}.json").read_text()) for n in range(2)] == [[0, 1], [0, 1]]


@pytest.mark.slow
def test_a_real_run_resumes_from_job_to_job(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    """With the real training: two ranks, which are asked to stop; then one rank to the end."""
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus", {"modis": 9, "landsat": 7, "sentinel2": 8})
    run = tmp_path / "run"
    arguments = ["--data", str(corpus), "--output", str(run), "--precision", "fp32", "--num-steps", "40", "--log-every", "1"]
    arguments += [*options(ENCODER, "encoder"), *options(STREAM, "stream")]
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL.replace("node-7 node-9", "127.0.0.1"))
    more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = job(tmp_path, environment | more, started, *arguments, SLURM_NTASKS="2", MASTER_PORT=free_port())
    deadline = time.monotonic() + 90
    while len(log_of(run)) < 3:
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    (srun,) = [p for p in psutil.Process(first.pid).children() if "srun" in " ".join(p.cmdline())]
    srun.children()[1].terminate()
    output, _ = first.communicate(timeout=90)
    assert first.returncode == 75, output
    (stopped,) = re.findall(r"asked to stop: saved after step (\d+) of 40", output)
    assert requeued(tmp_path) == ["requeue 20012345"]
    again = job(tmp_path, environment | more, started, *arguments, SLURM_NTASKS="1", SLURM_RESTART_COUNT="1")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert f"resuming after step {stopped} of 40" in output
    assert sorted(log_of(run)) == list(range(1, 41))
    assert (run / "encoder.safetensors").is_file()
    assert requeued(tmp_path) == ["requeue 20012345"]
