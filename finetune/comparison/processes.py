"""Runs of a comparison in processes of their own, several at a time."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import BinaryIO

from common.json_files import write_json
from finetune.comparison.runs import FINISHED, LOG, Run

RUN_SCRIPT = Path(__file__).resolve().parents[1] / "run.py"
POLL_S = 0.2


def run_in_processes(waiting: Sequence[Run], jobs: int) -> Generator[tuple[Run, str | None]]:
    """Run all of `waiting`, at most `jobs` at a time; yields each as it ends, with its error or None.

    Closing the generator terminates the processes that are still running.
    """
    rest = list(waiting)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # tqdm writes its progress bars to the log; one line each half minute is enough.
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // jobs)), "TQDM_MININTERVAL": "30"}
    running: dict[subprocess.Popen[bytes], tuple[Run, float, int]] = {}
    try:
        while rest or running:
            while rest and len(running) < jobs:
                run = rest.pop(0)
                process, log_size = start_run(run, environment)
                running[process] = run, time.monotonic(), log_size
            for process in [process for process in running if process.poll() is not None]:
                run, begin, log_size = running.pop(process)
                if process.returncode == 0:
                    write_json(run.folder / FINISHED, {"identity": run.identity, "seconds": time.monotonic() - begin})
                    yield run, None
                else:
                    yield run, failure_reason(process.returncode, (run.folder / LOG).read_bytes()[log_size:])
            time.sleep(POLL_S)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def start_run(run: Run, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a run's process, which appends to its log; returns the process and the size of the log before.

    Raises ValueError while another process works in the run's folder.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(RUN_SCRIPT), *run.arguments]
    with (run.folder / LOG).open("ab") as log:
        lock_log(log, run.folder)
        log_size = log.tell()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment), log_size


def lock_log(log: BinaryIO, folder: Path) -> None:
    """Lock a run's log. The run's process inherits the lock and holds it until it ends, even if the comparison is killed.

    Raises ValueError while another process works in the folder.
    """
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process still works in {folder}; wait for it, or end it, then start again") from None


def failure_reason(code: int, printed: bytes) -> str:
    """The last error that a failed process printed, else its last line; or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    lines = [line.strip() for line in re.split(r"[\r\n]", printed.decode(errors="replace")) if line.strip()]
    # A progress bar may be printed once more after the error.
    errors = [line for line in lines if re.match(r"(\w+\.py: )?error:|[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [f"exit code {code}"])[-1]
