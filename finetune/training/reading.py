"""Batches of windows as tensors on the device, read ahead of the training by processes.

A batch is a pure function of its draw, so that it is the same, bit for bit, however many processes read it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Self

import numpy as np
import torch

from finetune.data.batch_workers import BatchProcess
from finetune.data.batches import BatchDraw, BatchLayout, read_batch
from finetune.data.stored_windows import StoredWindows
from finetune.data.window_dataset import LabelledWindows
from pretrain.data import pinned_memory
from pretrain.data.batch import batches_on_device
from pretrain.data.buffers import BufferPool


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """One rank's slice of a batch of windows.

    Attributes:
        data: normalised pixels of each source, float32 (B, T, C, H, W).
        label: class indices int64 (B, H, W), `IGNORE` where not labelled.
        names: of the windows.
        draw: what it is.
    """

    data: dict[str, torch.Tensor]
    label: torch.Tensor
    names: list[str]
    draw: BatchDraw

    def to(self, device: torch.device) -> Self:
        """The batch on `device`. The copy is asynchronous from pinned memory."""
        data = {source: pixels.to(device, non_blocking=True) for source, pixels in self.data.items()}
        return replace(self, data=data, label=self.label.to(device, non_blocking=True))

    def tensors(self) -> Iterable[torch.Tensor]:
        """All its tensors."""
        return [*self.data.values(), self.label]


class BatchReading:
    """Reads batches of several sets of windows; use it in a `with`, which ends its processes.

    Args:
        num_workers: processes that read ahead; 0 reads in this process. They read windows of a store only.
        device: to which batches are copied; a GPU gets each while it computes on the one before.
    """

    def __init__(self, num_workers: int, device: torch.device) -> None:
        self._device, self._num_workers = device, num_workers
        self._pool = BufferPool(shared=num_workers > 0)
        if device.type == "cuda":
            self._pool.pin_by(pinned_memory.pin)
        self._running = ExitStack()
        self._processes: list[BatchProcess] = []
        self._known: dict[tuple[int, bool], tuple[str, LabelledWindows]] = {}  # names of windows in the processes
        self._abandoned: list[np.ndarray] = []  # memory into which processes may still write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()
        self._processes = []

    def batches(
        self, windows: LabelledWindows, draws: Iterable[BatchDraw], augmented: bool
    ) -> Generator[WindowBatch, None, None]:
        """The batches of `draws`, all of which are `augmented` or none, in their order.

        Processes read ahead of the caller, as far as `draws` reach. Raises what reading raises.
        """
        layout = BatchLayout.of(windows, augmented)
        if self._num_workers:
            batches = self._ahead(self._opened(windows, layout, augmented), layout, iter(draws))
        else:
            batches = self._here(windows, layout, draws)
        return batches_on_device(batches, self._device)

    def _here(
        self, windows: LabelledWindows, layout: BatchLayout, draws: Iterable[BatchDraw]
    ) -> Generator[WindowBatch, None, None]:
        for draw in draws:
            memory, _ = self._pool.bytes(layout.nbytes(len(draw.indices)))
            yield _batch(draw, layout, memory, read_batch(windows, draw, layout, memory))

    def _ahead(self, name: str, layout: BatchLayout, draws: Iterator[BatchDraw]) -> Generator[WindowBatch, None, None]:
        requested: deque[tuple[BatchProcess, int, BatchDraw, np.ndarray]] = deque()
        try:
            for process in cycle(self._processes):
                draw = next(draws, None)
                if draw is not None:
                    memory, buffer = self._pool.bytes(layout.nbytes(len(draw.indices)))
                    requested.append((process, process.request(name, draw, buffer), draw, memory))
                    if len(requested) <= len(self._processes):  # one batch is ready while every process reads another
                        continue
                if not requested:
                    return
                answering, number, draw, memory = requested.popleft()
                yield _batch(draw, layout, memory, answering.answer(number))
        finally:
            self._abandoned += [memory for _, _, _, memory in requested]

    def _opened(self, windows: LabelledWindows, layout: BatchLayout, augmented: bool) -> str:
        """The name of windows in the processes, which start when they are first needed, and see the windows as they are now."""
        assert isinstance(windows, StoredWindows), "processes read windows of a store only"
        if not self._processes:
            self._processes = [self._running.enter_context(BatchProcess()) for _ in range(self._num_workers)]
        key = id(windows), augmented
        if key not in self._known:
            self._known[key] = str(len(self._known)), windows
            for process in self._processes:
                process.open(self._known[key][0], windows, layout)
        return self._known[key][0]


def _batch(draw: BatchDraw, layout: BatchLayout, memory: np.ndarray, names: list[str]) -> WindowBatch:
    frames, label = layout.over(memory, len(draw.indices))
    data = {source: torch.from_numpy(pixels) for source, pixels in frames.items()}
    return WindowBatch(data=data, label=torch.from_numpy(label), names=names, draw=draw)
