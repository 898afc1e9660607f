"""Runs of a comparison in processes of their own, several at a time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from common.json_files import write_json
from common.stop_signals import STOP_SIGNALS, signals_held_back
from finetune.comparison.runs import FINISHED, LOG, Run
from finetune.training.checkpoint import NEWEST_CHECKPOINT, PREVIOUS_CHECKPOINT

RUN_SCRIPT = Path(__file__).resolve().parents[1] / "run.py"
SERVER = Path(__file__).with_name("run_server.py")
POLL_S = 0.2


def environment_of_runs(jobs: int) -> dict[str, str]:
    """Environment of each of `jobs` runs at a time: its share of the cores, unless OMP_NUM_THREADS is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # tqdm writes its progress bars to the log; one line each half minute is enough.
    return {"OMP_NUM_THREADS": str(max(1, cores // jobs))} | os.environ | {"TQDM_MININTERVAL": "30"}


def run_in_processes(waiting: Sequence[Run], jobs: int) -> Generator[tuple[Run, str | None]]:
    """Run all of `waiting`, at most `jobs` at a time; yields each as it ends, with its error or None.

    Closing the generator terminates the processes that are still running.
    """
    rest, environment = list(waiting), environment_of_runs(jobs)
    servers: list[RunServer] = []
    try:
        while rest or any(server.run for server in servers):
            for server in [server for server in servers if not server.run][: len(rest)]:
                server.start(rest.pop(0))
            if rest and len(servers) < jobs:
                servers.append(RunServer(environment))
                continue
            for server in servers:
                if (code := server.exit_code()) is not None:
                    run, seconds, printed = server.end()
                    if server.is_lost:
                        server.close()
                        servers = [other for other in servers if other is not server]
                    if code == 0:
                        finish(run, seconds)
                    yield run, failure_reason(code, printed) if code else None
            time.sleep(POLL_S)
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.close()


def finish(run: Run, seconds: float) -> None:
    """Note that a run has finished, and remove its checkpoints, which fill disks and which nobody needs any more."""
    write_json(run.folder / FINISHED, {"identity": run.identity, "seconds": seconds})
    for name in (NEWEST_CHECKPOINT, PREVIOUS_CHECKPOINT):
        (run.folder / "run" / name).unlink(missing_ok=True)


class RunServer:
    """A process of `run_server.py`, which executes one run at a time.

    Attributes:
        run: the run that it executes, or None.
        is_lost: True when its process has ended, which only happens when it is killed.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.run: Run | None = None
        self.is_lost = False
        self._channel, other_end = socket.socketpair()
        command = [sys.executable, str(SERVER), str(RUN_SCRIPT)]
        with other_end, signals_held_back(STOP_SIGNALS):  # a terminal sends its signals to all processes
            self._process = subprocess.Popen(command, stdin=other_end.fileno(), stdout=subprocess.DEVNULL, env=environment)
        self._received = b""
        self._begin = 0.0
        self._log_size = 0

    def start(self, run: Run) -> None:
        """Start a run, which appends to its log. Raises ValueError while another process works in the run's folder."""
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / LOG).open("ab") as log:
            lock_log(log, run.folder)
            self.run, self._begin, self._log_size, self._received = run, time.monotonic(), log.tell(), b""
            with suppress(ConnectionError):  # the server was killed; `exit_code` finds out
                socket.send_fds(self._channel, [json.dumps(run.arguments).encode() + b"\n"], [log.fileno()])

    def exit_code(self) -> int | None:
        """Exit code of the run's process; None as long as it works, and when there is no run."""
        if self.run is None or not select.select([self._channel], [], [], 0)[0]:
            return None
        part = self._channel.recv(1024)
        if not part:
            self.is_lost = True
            return self._process.wait() or 1
        self._received += part
        return int(self._lines[1]) if len(self._lines) > 1 else None

    @property
    def _lines(self) -> list[bytes]:
        """Number of the run's process, and its exit code, as far as they have been received."""
        return self._received.split(b"\n")[:-1]

    def end(self) -> tuple[Run, float, bytes]:
        """The run, which has ended; its duration in seconds; and what it printed."""
        run, self.run = self.run, None
        assert run is not None
        return run, time.monotonic() - self._begin, (run.folder / LOG).read_bytes()[self._log_size :]

    def terminate(self) -> None:
        """Ask the run's process, if there is one, to stop."""
        if self.run is None or self.is_lost:
            return
        while not self._lines and (part := self._channel.recv(1024)):
            self._received += part
        if len(self._lines) == 1:
            with suppress(ProcessLookupError):
                os.kill(int(self._lines[0]), signal.SIGTERM)

    def close(self) -> None:
        """Wait until the run's process has ended, and end the server."""
        self._channel.close()
        self._process.wait()


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
