"""Processes that read batches of windows ahead of training, into memory that they share with it. They load no torch."""

from __future__ import annotations

import os
import pickle
import socket
import weakref
from collections import deque
from mmap import mmap
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from common.errors import InfrastructureError, sendable
from common.worker_process import BUFFER, WorkerProcess, received, serve
from finetune.data.batches import BatchDraw, BatchLayout, read_batch
from finetune.data.stored_windows import StoredWindows
from pretrain.data.buffers import Buffer

READ_TIMEOUT_S = 600.0  # that a batch may take, as on a mount that does not answer


class BatchProcess(WorkerProcess):
    """A process that reads batches. It answers requests in order, which may be asked for in another."""

    def __init__(self) -> None:
        super().__init__(__name__, "reads batches of windows", "fewer num_workers")
        self._requested: deque[int] = deque()
        self._answers: dict[int, Any] = {}
        self._number = 0
        self._buffers: weakref.WeakKeyDictionary[Buffer, int] = weakref.WeakKeyDictionary()

    def open(self, name: str, windows: StoredWindows, layout: BatchLayout) -> None:
        """Let the process open a store; its windows have this name from now on."""
        self.send(("windows", name, pickle.dumps((windows, layout))))

    def request(self, name: str, draw: BatchDraw, buffer: Buffer) -> int:
        """Request a batch of windows in a shared buffer; returns the number of the request."""
        assert buffer.file is not None
        self._number += 1
        known = self._buffers.get(buffer)
        if known is None:
            known = self._buffers[buffer] = self._number
            self.send_buffer(known, buffer.file)
        self.send(("batch", name, draw, known))
        self._requested.append(self._number)
        return self._number

    def answer(self, number: int) -> list[str]:
        """Wait for the batch of a request, whose arrays are complete then; returns the names of its windows.

        Raises the exception that reading raised, and InfrastructureError when reading takes longer than `READ_TIMEOUT_S`.
        """
        while number not in self._answers:
            try:
                answer = self.receive(READ_TIMEOUT_S)
            except TimeoutError:
                self.kill()
                raise InfrastructureError(
                    f"process {self.pid} on {socket.gethostname()} has not read a batch of windows within {READ_TIMEOUT_S:g} s; "
                    "does the storage with the windows answer?"
                ) from None
            self._answers[self._requested.popleft()] = answer
        found = self._answers.pop(number)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, list)
        return found


def _serve(connection: Connection) -> None:
    """Serve requests until the connection is closed."""
    buffers: dict[int, mmap] = {}
    to_open: dict[str, bytes] = {}
    opened: dict[str, tuple[StoredWindows, BatchLayout]] = {}
    for (kind, *content), file in received(connection):
        if kind == BUFFER:
            buffers[content[0]] = mmap(file, os.fstat(file).st_size)
            os.close(file)
        elif kind == "windows":
            to_open[content[0]] = content[1]
        else:
            name, draw, number = content
            answer: object
            try:
                if name not in opened:
                    opened[name] = pickle.loads(to_open[name])
                windows, layout = opened[name]
                answer = read_batch(windows, draw, layout, np.frombuffer(buffers[number], np.uint8))
            except Exception as error:  # of any kind: `answer` raises it in the training process
                answer = sendable(error)
            connection.send(answer)


if __name__ == "__main__":
    serve(_serve)
