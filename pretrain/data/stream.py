"""Shards -> batches. What micro-step k holds is a pure function of (corpus fingerprint, seed, k): see `pretrain/data/draws.py`.

Only the drawn frames are read, straight into the memory of the batch, by processes that read ahead: see
`pretrain/data/batch_reader.py`, `pretrain/data/workers.py`. Pixels stay integers: normalise and `orient` on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch

from data_prep.corpus.dataset import Corpus
from pretrain.data.batch import Batch, on_device, orient
from pretrain.data.batch_memory import BatchMemory, Block
from pretrain.data.batch_reader import BatchArrays, BatchContent, BatchReader, Group
from pretrain.data.draws import Draw, Draws, StreamConfig
from pretrain.data.storage import DamagedSampleError
from pretrain.data.workers import ReaderProcess

__all__ = ["Batch", "Draw", "Skipped", "Stream", "StreamConfig", "orient"]


@dataclass(frozen=True)
class Skipped:
    """A damaged sample: the path or URL of its shard, its key, and what is wrong."""

    shard: str
    key: str
    reason: str


class Stream(Draws):
    """Batches of one split of a corpus for one rank.

    Raises ValueError for a source that the corpus or the split does not have, more frames than a sample holds, and a batch
    that cannot be divided among the ranks.
    """

    def __init__(self, corpus: Corpus, split: str, config: StreamConfig, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(corpus, split, config, rank, world_size)
        self._reads = self._tables, corpus.fingerprint, config
        self._reader, self._memory = BatchReader(*self._reads), BatchMemory(shared=config.num_workers > 0)
        self._groups: dict[str, tuple[int, Group]] = {}  # the last one that was read here, of each source
        self._damaged: set[str] = set()
        self._skipped: list[Skipped] = []

    def batch(self, micro_step: int) -> Batch:
        """This rank's part of a micro-step, read here.

        Raises ValueError for more damaged samples than `skip_damaged`, and what storage that cannot be reached raises.
        """
        draw = self._draw(micro_step, self._rank, self._world_size)
        memory, _ = self._memory_of(draw)
        return self._accept(draw, memory, self._reader.read(draw, memory, self._group(micro_step)))

    def batches(self, start: int, stop: int, device: torch.device | None = None) -> Generator[Batch, None, None]:
        """This rank's batches of micro-steps start..stop-1, read ahead by `num_workers` processes.

        With a `device`, each is copied there while the one before it is computed on. Raises what `batch` does.
        """
        steps = range(start, stop)
        batches = self._read_ahead(steps) if self._config.num_workers else (self.batch(step) for step in steps)
        return batches if device is None else on_device(batches, device)

    def _read_ahead(self, micro_steps: range) -> Generator[Batch, None, None]:
        draws = self._config.draws_per_read
        # Groups of all sources end at about the same time, so the next ones are read while the batches of these are made.
        further = draws * len(self.sources) if draws > 1 else 1
        of_source: dict[str, tuple[int, ReaderProcess]] = {}  # its last group, and who reads it
        readers: deque[ReaderProcess] = deque()  # of the micro-steps from the present one on
        asked: deque[tuple[ReaderProcess, Draw, np.ndarray]] = deque()
        with ExitStack() as running:
            count = min(self._config.num_workers, len(micro_steps))
            processes = [running.enter_context(closing(ReaderProcess(*self._reads))) for _ in range(count)]
            turns = cycle(processes)
            for micro_step in micro_steps:
                for later in range(micro_step + len(readers), min(micro_steps.stop, micro_step + further)):
                    source, number, _ = self._place_in_group(later)
                    if source not in of_source or of_source[source][0] != number:
                        of_source[source] = number, next(turns)
                        if draws > 1:
                            of_source[source][1].read_group((source, number), self._draws_of_group(source, number))
                    readers.append(of_source[source][1])
                source, number, nth = self._place_in_group(micro_step)
                draw = self._draw(micro_step, self._rank, self._world_size)
                memory, block = self._memory_of(draw)
                readers[0].read(draw, block, (source, number) if draws > 1 else None, last=nth == draws - 1)
                asked.append((readers.popleft(), draw, memory))
                if len(asked) > len(processes):  # one is ready while every process reads another
                    yield self._answered(asked)
            while asked:
                yield self._answered(asked)

    def _answered(self, asked: deque[tuple[ReaderProcess, Draw, np.ndarray]]) -> Batch:
        process, draw, memory = asked.popleft()
        return self._accept(draw, memory, process.answer())

    def _memory_of(self, draw: Draw) -> tuple[np.ndarray, Block]:
        return self._memory.bytes(BatchArrays.nbytes(self._tables[draw.source], *draw.frames.shape))

    def _place_in_group(self, micro_step: int) -> tuple[str, int, int]:
        """The source of a micro-step, which of its groups that share a read it belongs to, and as which one of them."""
        source, before = self._place(micro_step)
        return source, *divmod(before, self._config.draws_per_read)

    def _draws_of_group(self, source: str, number: int) -> list[Draw]:
        draws = range(self._config.draws_per_read)
        return [self._draw_of_group(source, number, nth, self._rank, self._world_size) for nth in draws]

    def _group(self, micro_step: int) -> Group | None:
        """What a micro-step shares with its neighbours, read here; forgotten with the last of them."""
        source, number, nth = self._place_in_group(micro_step)
        if self._config.draws_per_read == 1:
            return None
        held, group = self._groups.pop(source, (None, None))
        if group is None or held != number:
            group = self._reader.read_group(self._draws_of_group(source, number))
        if nth < self._config.draws_per_read - 1:
            self._groups[source] = number, group
        return group

    def _accept(self, draw: Draw, memory: np.ndarray, content: BatchContent) -> Batch:
        """The batch, unless it has more damaged samples than may be passed over. Called in the order of micro-steps."""
        table = self._tables[draw.source]
        shards = table.shard[draw.samples] if content.damaged else ()
        for place, reason in sorted(content.damaged.items()):
            key = content.keys[place]
            if key not in self._damaged:  # a sample comes again in every epoch
                self._damaged.add(key)
                self._skipped.append(Skipped(str(table.shards[shards[place]]), key, reason))
        allowed = self._config.skip_damaged
        if content.damaged and len(self._damaged) > allowed:
            before = f"{len(self._damaged)} damaged samples, more than skip_damaged={allowed}; the last: " if allowed else ""
            raise DamagedSampleError(before + content.damaged[max(content.damaged)])
        arrays = BatchArrays.over(memory, table, *draw.frames.shape)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.by_name().items()}
        return Batch(source=draw.source, legend=table.legend, keys=content.keys, digests=content.digests, **tensors)

    def take_skipped(self) -> list[Skipped]:
        """Damaged samples met since the last call, each when it was first met."""
        taken, self._skipped = self._skipped, []
        return taken

    def close(self) -> None:
        """Close all shards and forget what was read. The stream stays usable."""
        self._groups.clear()
        self._reader.close()
