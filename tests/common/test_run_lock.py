"""The lock of a run: of several jobs one has it, and what a killed job left behind stops nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common import run_lock
from common.exit_codes import INFRASTRUCTURE, USER_ERROR, exit_code
from common.run_lock import Owner, RunLock
from tests.support.pretraining import python_environment

# A job: says what became of its lock, and holds it until its stdin is closed.
JOB = """
import sys
from pathlib import Path
from common import run_lock
run_lock.BEAT_S = 0.1
lock = run_lock.RunLock(Path(sys.argv[1]) / ".lock", Path(sys.argv[1]))
sys.stdin.readline()  # begin
try:
    lock.acquire()
    print("has it", flush=True)
    sys.stdin.read()
    lock.check()
    lock.release()
except (ValueError, OSError) as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


def start(run: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment() | environment,
    )


def begin(job: subprocess.Popen[str]) -> None:
    assert job.stdin is not None
    job.stdin.write("begin\n")
    job.stdin.flush()


def said(job: subprocess.Popen[str]) -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `tmp_path`."""
    job = start(tmp_path)
    begin(job)
    assert said(job) == "has it"
    yield job
    job.kill()
    job.communicate()


def lock_of(run: Path) -> RunLock:
    return RunLock(run / ".lock", run)


def acquired(run: Path) -> RunLock:
    lock = lock_of(run)
    lock.acquire()
    return lock


def lock_files(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob(".lock*"))


def test_of_two_processes_the_second_is_refused_until_the_first_ends(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"is in use by process {holder.pid} on .*, since 20..-.*: wait until it ends"
    ) as raised:
        lock_of(tmp_path).acquire()
    assert exit_code(raised.value) == USER_ERROR
    holder.communicate()  # closes its stdin: it releases the lock
    assert lock_files(tmp_path) == []
    with acquired(tmp_path) as lock:
        lock.check()
        assert lock_files(tmp_path) == [".lock-1"]
    assert lock_files(tmp_path) == []


def test_a_killed_process_of_this_machine_is_known_at_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()  # nobody waits for it yet: it stays as a zombie
    time.sleep(0.2)
    begin_time = time.monotonic()
    with acquired(tmp_path) as lock:
        lock.check()
        assert lock_files(tmp_path) == [".lock-2"]
    assert time.monotonic() - begin_time < 2


def write_lock(run: Path, beat: int = 7, **changes: object) -> Path:
    """The file of an owner like this process, but for some changes."""
    path = run / ".lock-1"
    path.write_text(json.dumps({**asdict(replace(Owner.this_process(), **changes)), "beat": beat}))  # type: ignore[arg-type]
    return path


def test_a_process_number_that_was_given_again_is_no_owner(tmp_path: Path) -> None:
    write_lock(tmp_path, started=Owner.this_process().started - 3600)
    with acquired(tmp_path) as lock:
        lock.check()


def test_a_silent_owner_on_another_machine_is_replaced_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_lock, "WATCH_S", 1.0)
    monkeypatch.setattr(run_lock, "_POLL_S", 0.05)
    write_lock(tmp_path, host="node-7", machine="another", process=4711, job="99")
    begin_time = time.monotonic()
    with acquired(tmp_path) as lock:
        assert 1 <= time.monotonic() - begin_time < 5
        assert "in use by process 4711 on node-7 (SLURM job 99), since 20" in capsys.readouterr().out
        assert lock_files(tmp_path) == [".lock-2"]
        lock.check()


def test_an_owner_on_another_machine_whose_counter_rises_is_left_alone(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder's own heartbeat, seen from a machine that cannot see the process."""
    monkeypatch.setattr(run_lock, "_machine", lambda: "another")
    with pytest.raises(ValueError, match=f"is in use by process {holder.pid} on "):
        lock_of(tmp_path).acquire()
    assert lock_files(tmp_path) == [".lock-1"]


def test_a_requeued_job_takes_its_lock_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    write_lock(tmp_path, host="node-7", machine="another")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    begin_time = time.monotonic()
    with acquired(tmp_path):
        assert time.monotonic() - begin_time < 2


def test_a_step_of_the_same_job_on_another_node_may_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(run_lock, "WATCH_S", 1.0)
    write_lock(tmp_path, host="node-7", machine="another")
    begin_time = time.monotonic()
    with acquired(tmp_path):
        assert time.monotonic() - begin_time >= 1


def test_a_process_of_the_same_job_that_lives_here_keeps_its_lock(tmp_path: Path) -> None:
    first, second = start(tmp_path, SLURM_JOB_ID="4242"), start(tmp_path, SLURM_JOB_ID="4242")
    begin(first)
    assert said(first) == "has it"
    begin(second)
    assert "(SLURM job 4242)" in said(second)
    for job in (first, second):
        job.communicate()


def test_who_lost_its_lock_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended job whose counter stood still: another one has taken over when it wakes."""
    suspended = acquired(tmp_path)
    monkeypatch.setattr(run_lock, "_machine", lambda: "another")
    monkeypatch.setattr(run_lock, "WATCH_S", 0.2)
    with acquired(tmp_path) as other:
        with pytest.raises(OSError, match="belongs to another job now") as raised:
            suspended.check()
        assert exit_code(raised.value) == INFRASTRUCTURE
        suspended.release()
        other.check()
    assert lock_files(tmp_path) == []


def test_a_running_owner_notices_by_itself(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    (tmp_path / ".lock-2").write_text("{}")
    time.sleep(0.5)  # some beats
    (tmp_path / ".lock-2").unlink()
    output, _ = holder.communicate()
    assert "InfrastructureError: " in output


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_many_that_begin_together_one_wins(tmp_path: Path, left_behind: bool) -> None:
    if left_behind:
        write_lock(tmp_path, process=2**22 - 1, started=1.0)  # of a process that is no more
    jobs = [start(tmp_path) for _ in range(6)]
    time.sleep(1)  # all have started Python
    for job in jobs:
        begin(job)
    lines = [said(job) for job in jobs]
    waiting = [said(job) if " if it lives" in line else line for job, line in zip(jobs, lines, strict=True)]
    assert sorted(line.partition(":")[0] for line in waiting) == ["InUseError"] * 5 + ["has it"]
    for job in jobs:
        job.communicate()
    assert lock_files(tmp_path) == []


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        lock_of(tmp_path).acquire()
    assert lock_files(tmp_path) == []
