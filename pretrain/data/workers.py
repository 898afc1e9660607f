"""Processes that read batches ahead into memory that they share with the one that trains.

Threads would do while frames are large. But frames below some 100 kB are hashed, and all are named, under the one lock of Python,
for which the loop that feeds the GPU waits, too: two threads read chips of 64 px no faster than one did.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from pretrain.data.batch_memory import Block
from pretrain.data.batch_reader import BatchContent, BatchReader, Group
from pretrain.data.draws import Draw, StreamConfig
from pretrain.data.sample_table import SampleTable

_PROJECT = str(Path(__file__).resolve().parents[2])
_SECONDS_TO_LEAVE = 10.0


class ReaderProcess:
    """One process. It answers in the order in which it is asked, and ends when this one does, however that ends."""

    def __init__(self, tables: dict[str, SampleTable], fingerprint: str, config: StreamConfig) -> None:
        """As for the `BatchReader` that it runs."""
        ours, theirs = socket.socketpair()
        with theirs:
            # What a job's scheduler or Ctrl-C sends to all processes is for the one that trains, which decides when to end: a
            # process keeps blocked what is blocked when it starts.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
            try:
                # Not multiprocessing: its children import the main module first, and with it torch and DeepSpeed.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_PROJECT, os.environ.get("PYTHONPATH")]))},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._connection = Connection(ours.detach())
        self._known: weakref.WeakKeyDictionary[Block, int] = weakref.WeakKeyDictionary()
        self._blocks = 0
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        self._send((tables, fingerprint, config))

    def read_group(self, name: object, draws: Sequence[Draw]) -> None:
        """Begin to read what batches share: it is kept as `name` until the last of them."""
        self._send(("group", name, draws))

    def read(self, draw: Draw, block: Block, group: object = None, last: bool = True) -> None:
        """Ask for a batch in a block of shared memory; of a group, whose `last` batch it may be."""
        assert block.file is not None
        known = self._known.get(block)
        if known is None:
            known = self._known[block] = self._blocks
            self._blocks += 1
            self._send(("memory", known))
            send_handle(self._connection, block.file, self._process.pid)
        self._send(("batch", draw, known, group, last))

    def answer(self) -> BatchContent:
        """What of the batch that was asked for first is no array; its arrays are there now. Raises what reading it raised."""
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, BatchContent)
        return answer

    def close(self) -> None:
        """End the process."""
        self._end()

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def _ended(self) -> RuntimeError:
        _wait_for(self._process)
        code = self._process.returncode
        return RuntimeError(
            f"a process that reads batches ended with exit code {code}"
            + (": the system lacked memory, or someone killed it" if code == -signal.SIGKILL else "; its error stands above")
            + ". The run can be started again and goes on after its last checkpoint; fewer num_workers need less memory"
        )


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    _wait_for(process)


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    """Until it has ended, which is by force where it does not by itself."""
    try:
        process.wait(_SECONDS_TO_LEAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _received(connection: Connection) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Messages, with the number of the file that came with one. Ends the process when the other end is closed.

    A thread takes them at once, whatever the process is at: one that asks is not held up by what does not fit into the socket.
    """
    inbox: SimpleQueue[tuple[tuple[Any, ...], int]] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                message = connection.recv()
                inbox.put((message, recv_handle(connection) if message[0] == "memory" else -1))
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        yield inbox.get()


def _serve(connection: Connection) -> None:
    """What the process does."""
    reader = BatchReader(*connection.recv())
    memory: dict[int, mmap] = {}
    groups: dict[object, Future[Group]] = {}
    # Lists of reads come and go by the thousand, and none of them refers to itself: looking for such takes 3 % of the time.
    gc.freeze()
    gc.set_threshold(100_000)
    thread = ThreadPoolExecutor(1, "groups")  # reads the next groups while batches of these are made
    for (kind, *content), file in _received(connection):
        if kind == "memory":
            memory[content[0]] = mmap(file, os.fstat(file).st_size)
            os.close(file)
        elif kind == "group":
            groups[content[0]] = thread.submit(reader.read_group, content[1])
        else:
            draw, block, name, last = content
            answer: object
            try:
                group = None if name is None else (groups.pop(name) if last else groups[name]).result()
                answer = reader.read(draw, np.frombuffer(memory[block], np.uint8), group)
            except Exception as error:  # of any kind: it is raised where the batch is waited for
                answer = _sendable(error)
            connection.send(answer)


def _sendable(error: Exception) -> Exception:
    """The error itself where it can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor or content makes of it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionResetError, BrokenPipeError):  # nobody is there any more
        os._exit(0)
