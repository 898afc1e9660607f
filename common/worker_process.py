"""A process that works for another one, in memory that both share, and ends when the other one ends, however that happens.

The other end is a module that is run by name: it serves requests from the connection that `serve` gives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from common.errors import InfrastructureError
from common.stop_signals import STOP_SIGNALS, signals_held_back

BUFFER = "buffer"  # first word of a message that a file follows
_PROJECT = str(Path(__file__).resolve().parents[1])
_SECONDS_TO_LEAVE = 10.0


class WorkerProcess:
    """A process that answers messages in order. A subclass says what it is sent and what it answers.

    Args:
        module: name of the module that the process runs; it calls `serve`.
        does: what the process does, for messages: "reads batches".
        advice: what needs less of it, for messages: "fewer num_workers".
    """

    def __init__(self, module: str, does: str, advice: str) -> None:
        ours, theirs = socket.socketpair()
        # A job's scheduler and Ctrl-C send signals to all processes, but only the training process decides when to end.
        with theirs, signals_held_back(STOP_SIGNALS):
            # Not by multiprocessing, whose children first import the main module, and with it torch and DeepSpeed.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_PROJECT, os.environ.get("PYTHONPATH")]))},
            )
        self._connection = Connection(ours.detach())
        self._does, self._advice = does, advice
        self._end = weakref.finalize(self, _end, self._process, self._connection)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message. Raises what `ended` returns when the process has ended."""
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self.ended() from None

    def send_buffer(self, name: object, file: int) -> None:
        """Send the number of a file of memory, which the process gets as the buffer `name`."""
        self.send((BUFFER, name))
        try:
            send_handle(self._connection, file, self._process.pid)
        except (BrokenPipeError, ConnectionResetError):
            raise self.ended() from None

    def receive(self, timeout_s: float | None) -> Any:
        """The next answer. Raises TimeoutError when there is none in time, and as `send` does."""
        try:
            if not self._connection.poll(timeout_s):
                raise TimeoutError
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self.ended() from None

    def kill(self) -> None:
        """Kill the process; if it waits for a dead mount, the signal waits, too."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ended(self) -> Exception:
        """The error of a process that has ended although it is needed."""
        _wait_for(self._process)
        code = self._process.returncode
        is_killed = code == -signal.SIGKILL
        return (InfrastructureError if is_killed else RuntimeError)(
            f"a process that {self._does} ended with exit code {code}"
            + (": the system lacked memory, or someone killed it" if is_killed else "; its error is printed above")
            + f". Start the run again: it resumes from its last checkpoint; {self._advice} need less memory"
        )


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    _wait_for(process)


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has ended; kill it if it takes too long. One that waits for a dead mount outlives even that."""
    try:
        process.wait(_SECONDS_TO_LEAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_LEAVE)


def serve(work: Callable[[Connection], None]) -> None:
    """Do `work`, which serves requests, on the connection that the command line names. Called by the module of the process."""
    try:
        work(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionResetError, BrokenPipeError):  # the other process has ended
        os._exit(0)


def received(connection: Connection) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Messages, each with the number of the file that came with it, or -1. The process ends when the other end is closed.

    A thread receives them at once, whatever this process is doing: else the sender would wait for messages that do not fit into
    the socket.
    """
    inbox: SimpleQueue[tuple[tuple[Any, ...], int]] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                message = connection.recv()
                inbox.put((message, recv_handle(connection) if message[0] == BUFFER else -1))
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        yield inbox.get()
