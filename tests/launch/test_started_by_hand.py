"""Ranks without a launcher of ours, as Kubernetes starts them: by hand with torchrun's environment variables, and by torchrun."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launching import ROOT, SCRIPT, alive, ended_with_the_test, start, wait_for
from tests.support.pretraining import free_port
from tests.support.steps_of_ranks import saved_steps
from tests.support.stopped_runs import stand_in


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    yield from ended_with_the_test()


def train(run: Path) -> list[str]:
    run.mkdir()
    return [str(ROOT / SCRIPT), "--data", "corpus", "--output", str(run)]


def test_two_processes_with_the_variables_of_torchrun(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    run = tmp_path / "run"
    command = [sys.executable, *train(run)]
    meeting = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    environment = stand_in(tmp_path) | {"SAVE_S": "0"} | meeting
    ranks = [start(command, environment | {"RANK": str(number)}, started, cwd=tmp_path) for number in range(2)]
    wait_for((run / "step.json").exists, 120)
    ranks[1].terminate()  # one pod is evicted
    assert [rank.wait(60) for rank in ranks] == [75, 75]
    assert len(saved_steps(run)) > 0


@pytest.mark.slow
def test_torchrun(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    run = tmp_path / "run"
    options = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", free_port()]
    process = start(["torchrun", *options, *train(run)], stand_in(tmp_path) | {"SAVE_S": "0"}, started, cwd=tmp_path)
    wait_for((run / "step.json").exists, 180)
    (rank, *_) = [
        int(p) for p in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=True).stdout.split()
    ]
    process.terminate()
    assert process.wait(90) == 1
    assert len(saved_steps(run)) > 0
    assert not alive(rank)
