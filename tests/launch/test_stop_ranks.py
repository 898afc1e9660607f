"""The ranks of one run on this machine, found by the port at which they meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.stop_ranks import processes_of_run, ranks_of_run
from tests.support.launching import ROOT, wait_for

# A rank with a reader. It ends a second after SIGTERM, at once as ranks do: Python's clean-up no longer handles signals. The
# reader notes a SIGTERM.
RANK = """
import os, signal, subprocess, sys, time
from pathlib import Path
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
reader = "import signal, sys, time; from pathlib import Path; signal.signal(signal.SIGTERM, lambda *_: Path(sys.argv[1]).touch())"
process = subprocess.Popen([sys.executable, "-c", reader + "; time.sleep(60)", sys.argv[1]])
while not told:
    time.sleep(0.02)
time.sleep(1)
process.kill()
process.wait()
os._exit(0)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Port of a run of two ranks on this machine, and the ranks."""
    port = f"1{os.getpid()}"  # of no other run: it is larger than any real port
    command = [sys.executable, "-c", RANK, str(tmp_path / "reader-was-told")]
    ranks = [
        subprocess.Popen(command, env={"MASTER_PORT": port, "LOCAL_RANK": str(number)}, start_new_session=True)
        for number in (0, 1)
    ]
    wait_for(lambda: len(processes_of_run(port)) == 4)
    yield port, ranks
    for rank in ranks:
        if rank.poll() is None:
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def stop(port: str, *name: str) -> int:
    return subprocess.run([sys.executable, str(ROOT / "launch/stop_ranks.py"), port, *name], check=False, timeout=60).returncode


def test_ranks_are_asked_and_waited_for(tmp_path: Path, run: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    port, ranks = run
    assert sorted(ranks_of_run(port)) == sorted(rank.pid for rank in ranks)
    assert stop(f"{port}0") == 0, "another run has no ranks here"
    assert [rank.poll() for rank in ranks] == [None, None]
    assert stop(port) == 1
    assert [rank.wait(5) for rank in ranks] == [0, 0]
    assert not (tmp_path / "reader-was-told").exists()
    assert stop(port) == 0


def test_ranks_are_killed_with_their_readers(run: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    port, ranks = run
    assert stop(port, "KILL") == 1
    assert [rank.wait(5) for rank in ranks] == [-signal.SIGKILL, -signal.SIGKILL]
    wait_for(lambda: not processes_of_run(port), 5)
