"""The stream of batches: shards -> batches, by way of draws, reader and workers.

The content of micro-step k is a pure function of (corpus fingerprint, seed, k), see `pretrain/data/draws.py`. Only the drawn
frames are read, straight into the memory of the batch (`pretrain/data/reader.py`), by processes that read ahead
(`pretrain/data/workers.py`). Pixels stay integers; the device normalises and orients them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np
import torch

from data_prep.corpus.dataset import Corpus
from pretrain.data import pinned_memory
from pretrain.data.batch import Batch, batches_on_device
from pretrain.data.buffers import BatchArrays, Buffer, BufferPool
from pretrain.data.config import StreamConfig
from pretrain.data.draws import Draw, Draws
from pretrain.data.reader import BatchMetadata, BatchReader, EchoGroup
from pretrain.data.storage import DamagedSampleError
from pretrain.data.workers import ReaderProcess

_full_caches: set[Path | None] = set()  # of which this process has warned


@dataclass(frozen=True)
class Skipped:
    """A damaged sample: its source and split, the path or URL of its shard, its key, and the reason."""

    source: str
    split: str
    shard: str
    key: str
    reason: str


class Stream:
    """Batches of one split of a corpus for one rank.

    Attributes:
        split: of the samples.
        draws: the samples and frames of each micro-step, on this rank and on all.

    Raises what `Draws` raises.
    """

    def __init__(self, corpus: Corpus, split: str, config: StreamConfig, rank: int = 0, world_size: int = 1) -> None:
        self._config, self.split, self._rank = config, split, rank
        self.draws = Draws(corpus, split, config, rank, world_size)
        self._reader_arguments = self.draws.tables, corpus.fingerprint, config
        self._reader, self._pool = BatchReader(*self._reader_arguments), BufferPool(shared=config.num_workers > 0)
        self._groups: dict[str, tuple[int, EchoGroup]] = {}  # the last group of each source that was read in this process
        self._damaged: set[str] = set()
        self._skipped: list[Skipped] = []

    def batch(self, micro_step: int) -> Batch:
        """This rank's share of a micro-batch, read in this process.

        Raises ValueError for more damaged samples than `skip_damaged`, and what storage raises that cannot be reached.
        """
        draw = self.draws.share(micro_step)
        memory, _ = self._memory_of(draw)
        return self._checked(draw, memory, self._reader.read(draw, memory, self._group(micro_step)))

    def batches(self, start: int, stop: int, device: torch.device | None = None) -> Generator[Batch, None, None]:
        """This rank's batches of micro-steps start..stop-1, read ahead by `num_workers` processes.

        With a `device`, each is copied there while the device computes on the one before. Raises what `batch` raises.
        """
        steps = range(start, stop)
        if device is not None and device.type == "cuda":
            self._pool.pin_by(pinned_memory.pin)
        batches = self._read_ahead(steps) if self._config.num_workers else (self.batch(step) for step in steps)
        return batches if device is None else batches_on_device(batches, device)

    def first_batches(self) -> Iterator[Batch]:
        """This rank's first batch of each source, read in this process. Raises what `batch` raises."""
        missing = set(self.draws.sources)
        for micro_step in count():
            if not missing:
                return
            source = self.draws.source_of(micro_step)
            if source in missing:
                missing.remove(source)
                yield self.batch(micro_step)

    def _read_ahead(self, micro_steps: range) -> Generator[Batch, None, None]:
        echoing = self._config.data_echoing
        # Groups of all sources end at about the same time, so the next ones are read while batches of the present ones are made.
        ahead = echoing * len(self.draws.sources) if echoing > 1 else 1
        groups: dict[str, tuple[int, ReaderProcess]] = {}  # the latest group of each source, and the process that reads it
        readers: deque[ReaderProcess] = deque()  # the processes that read the micro-steps from the present one on
        requested: deque[tuple[ReaderProcess, Draw, np.ndarray]] = deque()
        with ExitStack() as running:
            workers = min(self._config.num_workers, len(micro_steps))
            processes = [running.enter_context(closing(ReaderProcess(*self._reader_arguments))) for _ in range(workers)]
            turns = cycle(processes)
            for micro_step in micro_steps:
                for later in range(micro_step + len(readers), min(micro_steps.stop, micro_step + ahead)):
                    source, group, _ = self.draws.echo_place(later)
                    if source not in groups or groups[source][0] != group:
                        groups[source] = group, next(turns)
                        if echoing > 1:
                            groups[source][1].read_group((source, group), self.draws.shares_of_group(source, group))
                    readers.append(groups[source][1])
                source, group, number = self.draws.echo_place(micro_step)
                draw = self.draws.share(micro_step)
                memory, buffer = self._memory_of(draw)
                readers[0].read(draw, buffer, (source, group) if echoing > 1 else None, last=number == echoing - 1)
                requested.append((readers.popleft(), draw, memory))
                if len(requested) > len(processes):  # one batch is ready while every process reads another
                    yield self._answered(requested)
            while requested:
                yield self._answered(requested)

    def _answered(self, requested: deque[tuple[ReaderProcess, Draw, np.ndarray]]) -> Batch:
        process, draw, memory = requested.popleft()
        return self._checked(draw, memory, process.answer())

    def _memory_of(self, draw: Draw) -> tuple[np.ndarray, Buffer]:
        return self._pool.bytes(BatchArrays.nbytes(self.draws.tables[draw.source], *draw.frames.shape))

    def _group(self, micro_step: int) -> EchoGroup | None:
        """The frames that a micro-step shares with others, read in this process and kept until the last of them."""
        if self._config.data_echoing == 1:
            return None
        source, number, of_group = self.draws.echo_place(micro_step)
        held, group = self._groups.pop(source, (None, None))
        if group is None or held != number:
            group = self._reader.read_group(self.draws.shares_of_group(source, number))
        if of_group < self._config.data_echoing - 1:
            self._groups[source] = number, group
        return group

    def _checked(self, draw: Draw, memory: np.ndarray, metadata: BatchMetadata) -> Batch:
        """The batch, unless too many samples are damaged. Must be called in the order of micro-steps."""
        if metadata.full_cache and self._rank == 0:
            _warn_of_full_cache(self._config.cache, metadata.full_cache)
        table = self.draws.tables[draw.source]
        shards = table.shard[draw.samples] if metadata.damaged else ()
        new: list[Skipped] = []
        for place, reason in sorted(metadata.damaged.items()):
            key = metadata.keys[place]
            if key not in self._damaged:  # a sample comes again in every epoch
                self._damaged.add(key)
                new.append(Skipped(draw.source, self.split, str(table.shards[shards[place]]), key, reason))
        allowed = self._config.skip_damaged
        if metadata.damaged and len(self._damaged) > allowed:
            before = f"{len(self._damaged)} damaged samples, more than skip_damaged={allowed}; the last: " if allowed else ""
            raise DamagedSampleError(before + metadata.damaged[max(metadata.damaged)])
        self._skipped += new
        arrays = BatchArrays.over(memory, table, *draw.frames.shape)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.by_name().items()}
        return Batch(source=draw.source, legend=table.legend, keys=metadata.keys, digests=metadata.digests, **tensors)

    def take_skipped(self) -> list[Skipped]:
        """Damaged samples since the last call; each is listed when it first occurs."""
        taken, self._skipped = self._skipped, []
        return taken

    def count_as_damaged(self, key: str) -> None:
        """Count a sample that a run has skipped before it resumed. It is not listed again."""
        self._damaged.add(key)

    def close(self) -> None:
        """Close all shards and forget what was read. The stream stays usable."""
        self._groups.clear()
        self._reader.close()


def _warn_of_full_cache(folder: Path | None, reason: str) -> None:
    """Print once why a cache keeps no more samples: each reader process finds out for itself."""
    if folder not in _full_caches:
        _full_caches.add(folder)
        print(f"warning: {reason}", flush=True)
