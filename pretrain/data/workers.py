"""Worker processes: they read batches ahead, into memory that they share with the training process.

Threads would do for large frames only. Checksums of frames below about 100 kB are computed under Python's global lock, for which
the loop that feeds the GPU waits, too: two threads read chips of 64 px no faster than one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from common.errors import InfrastructureError, sendable
from common.stop_signals import STOP_SIGNALS, signals_held_back
from pretrain.data.buffers import Buffer
from pretrain.data.config import StreamConfig
from pretrain.data.draws import Draw
from pretrain.data.reader import BatchMetadata, BatchReader, EchoGroup
from pretrain.data.sample_table import SampleTable

_PROJECT = str(Path(__file__).resolve().parents[2])
_SECONDS_TO_LEAVE = 10.0
_SHARDS_TO_NAME = 3


class ReaderProcess:
    """A process that reads batches. It answers requests in order, and ends when this process ends, however that happens."""

    def __init__(self, tables: dict[str, SampleTable], fingerprint: str, config: StreamConfig) -> None:
        """The arguments are those of the `BatchReader` that the process runs."""
        ours, theirs = socket.socketpair()
        # A job's scheduler and Ctrl-C send signals to all processes, but only the training process decides when to end.
        with theirs, signals_held_back(STOP_SIGNALS):
            # Not by multiprocessing, whose children first import the main module, and with it torch and DeepSpeed.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_PROJECT, os.environ.get("PYTHONPATH")]))},
            )
        self._connection = Connection(ours.detach())
        self._tables, self._timeout_s = tables, config.read_timeout_s or None
        self._requested: deque[Draw] = deque()
        self._known: weakref.WeakKeyDictionary[Buffer, int] = weakref.WeakKeyDictionary()
        self._num_buffers = 0
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        self._send((tables, fingerprint, config))

    def read_group(self, name: object, draws: Sequence[Draw]) -> None:
        """Begin to read the frames of a group of batches, which the process keeps as `name` until the group's last batch."""
        self._send(("group", name, draws))

    def read(self, draw: Draw, buffer: Buffer, group: object = None, last: bool = True) -> None:
        """Request a batch in a shared buffer; with `group`, from the frames of that group, whose `last` batch it may be."""
        assert buffer.file is not None
        known = self._known.get(buffer)
        if known is None:
            known = self._known[buffer] = self._num_buffers
            self._num_buffers += 1
            self._send(("buffer", known))
            self._send_file(buffer.file)
        self._send(("batch", draw, known, group, last))
        self._requested.append(draw)

    def answer(self) -> BatchMetadata:
        """Wait for the oldest requested batch, whose arrays are complete then.

        Raises the exception that reading raised, and InfrastructureError when reading takes longer than `read_timeout_s`.
        """
        draw = self._requested.popleft()
        try:
            if not self._connection.poll(self._timeout_s):
                raise self._stuck(draw)
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, BatchMetadata)
        return answer

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._end()

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def _send_file(self, file: int) -> None:
        try:
            send_handle(self._connection, file, self._process.pid)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def _stuck(self, draw: Draw) -> InfrastructureError:
        self._process.kill()  # if it waits for a dead mount, the signal waits, too
        table = self._tables[draw.source]
        shards = [str(table.shards[number]) for number in np.unique(table.shard[draw.samples])]
        unnamed = len(shards) - _SHARDS_TO_NAME
        names = ", ".join(shards[:_SHARDS_TO_NAME]) + (f" and {unnamed} more" if unnamed > 0 else "")
        return InfrastructureError(
            f"process {self.pid} on {socket.gethostname()} has not read a batch of {draw.source} within "
            f"{self._timeout_s:g} s (stream.read_timeout_s), from {names}; does this storage answer?"
        )

    def _ended(self) -> Exception:
        _wait_for(self._process)
        code = self._process.returncode
        is_killed = code == -signal.SIGKILL
        return (InfrastructureError if is_killed else RuntimeError)(
            f"a process that reads batches ended with exit code {code}"
            + (": the system lacked memory, or someone killed it" if is_killed else "; its error is printed above")
            + ". Start the run again: it resumes from its last checkpoint; fewer num_workers need less memory"
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


def _received(connection: Connection) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Messages, each with the number of the file that came with it, or -1. The process ends when the other end is closed.

    A thread receives them at once, whatever this process is doing: else the sender would wait for messages that do not fit into
    the socket.
    """
    inbox: SimpleQueue[tuple[tuple[Any, ...], int]] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                message = connection.recv()
                inbox.put((message, recv_handle(connection) if message[0] == "buffer" else -1))
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        yield inbox.get()


def _serve(connection: Connection) -> None:
    """Serve requests until the connection is closed."""
    reader = BatchReader(*connection.recv())
    buffers: dict[int, mmap] = {}
    groups: dict[object, Future[EchoGroup]] = {}
    # Thousands of short lists are made for each batch, and none of them has a cycle of references: looking for cycles takes 3 %
    # of the time.
    gc.freeze()
    gc.set_threshold(100_000)
    thread = ThreadPoolExecutor(1, "groups")  # reads the next groups while batches of the present ones are made
    for (kind, *content), file in _received(connection):
        if kind == "buffer":
            buffers[content[0]] = mmap(file, os.fstat(file).st_size)
            os.close(file)
        elif kind == "group":
            groups[content[0]] = thread.submit(reader.read_group, content[1])
        else:
            draw, number, name, last = content
            answer: object
            try:
                group = None if name is None else (groups.pop(name) if last else groups[name]).result()
                answer = reader.read(draw, np.frombuffer(buffers[number], np.uint8), group)
            except Exception as error:  # of any kind: `answer` raises it in the training process
                answer = sendable(error)
            connection.send(answer)


if __name__ == "__main__":
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionResetError, BrokenPipeError):  # the training process has ended
        os._exit(0)
