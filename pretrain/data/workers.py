"""Worker processes: they read batches ahead, into memory that they share with the training process.

Threads would do for large frames only. Checksums of frames below about 100 kB are computed under Python's global lock, for which
the loop that feeds the GPU waits, too: two threads read chips of 64 px no faster than one.
"""

from __future__ import annotations

import gc
import os
import socket
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap
from multiprocessing.connection import Connection

import numpy as np

from common.errors import InfrastructureError, sendable
from common.worker_process import BUFFER, WorkerProcess, received, serve
from pretrain.data.buffers import Buffer
from pretrain.data.config import StreamConfig
from pretrain.data.draws import Draw
from pretrain.data.reader import BatchMetadata, BatchReader, EchoGroup
from pretrain.data.sample_table import SampleTable

_SHARDS_TO_NAME = 3


class ReaderProcess(WorkerProcess):
    """A process that reads batches. It answers requests in order, and ends when this process ends, however that happens."""

    def __init__(self, tables: dict[str, SampleTable], fingerprint: str, config: StreamConfig) -> None:
        """The arguments are those of the `BatchReader` that the process runs."""
        super().__init__(__name__, "reads batches", "fewer num_workers")
        self._tables, self._timeout_s = tables, config.read_timeout_s or None
        self._requested: deque[Draw] = deque()
        self._known: weakref.WeakKeyDictionary[Buffer, int] = weakref.WeakKeyDictionary()
        self._num_buffers = 0
        self.send((tables, fingerprint, config))

    def read_group(self, name: object, draws: Sequence[Draw]) -> None:
        """Begin to read the frames of a group of batches, which the process keeps as `name` until the group's last batch."""
        self.send(("group", name, draws))

    def read(self, draw: Draw, buffer: Buffer, group: object = None, last: bool = True) -> None:
        """Request a batch in a shared buffer; with `group`, from the frames of that group, whose `last` batch it may be."""
        assert buffer.file is not None
        known = self._known.get(buffer)
        if known is None:
            known = self._known[buffer] = self._num_buffers
            self._num_buffers += 1
            self.send_buffer(known, buffer.file)
        self.send(("batch", draw, known, group, last))
        self._requested.append(draw)

    def answer(self) -> BatchMetadata:
        """Wait for the oldest requested batch, whose arrays are complete then.

        Raises the exception that reading raised, and InfrastructureError when reading takes longer than `read_timeout_s`.
        """
        draw = self._requested.popleft()
        try:
            answer = self.receive(self._timeout_s)
        except TimeoutError:
            raise self._stuck(draw) from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, BatchMetadata)
        return answer

    def _stuck(self, draw: Draw) -> InfrastructureError:
        self.kill()
        table = self._tables[draw.source]
        shards = [str(table.shards[number]) for number in np.unique(table.shard[draw.samples])]
        unnamed = len(shards) - _SHARDS_TO_NAME
        names = ", ".join(shards[:_SHARDS_TO_NAME]) + (f" and {unnamed} more" if unnamed > 0 else "")
        return InfrastructureError(
            f"process {self.pid} on {socket.gethostname()} has not read a batch of {draw.source} within "
            f"{self._timeout_s:g} s (stream.read_timeout_s), from {names}; does this storage answer?"
        )


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
    for (kind, *content), file in received(connection):
        if kind == BUFFER:
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
    serve(_serve)
