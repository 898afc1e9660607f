"""Shards -> batches. What micro-step k holds is a pure function of (corpus fingerprint, seed, k): see `pretrain/draws.py`.

Only the drawn frames are read, straight into the batch. Pixels stay integers: normalise and `orient` on the device. Workers are
threads: bytes are read outside the interpreter lock, and a batch need not be copied between processes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_prep.corpus import Corpus
from pretrain.batch import Batch, BatchMemory, on_device, orient
from pretrain.draws import Draw, Draws, StreamConfig
from pretrain.sample_reader import Frames, SampleReader
from pretrain.shard_storage import DamagedSampleError, SampleCache, Storage

__all__ = ["Batch", "Draw", "Skipped", "Stream", "StreamConfig", "orient"]

_MANY_FRAMES = 1 << 20  # more than a year of any sensor has


@dataclass(frozen=True)
class Skipped:
    """A damaged sample: the path or URL of its shard, its key, and what is wrong."""

    shard: str
    key: str
    reason: str


class _Group:
    """What the batches of one read share: frames of B samples, by one of the threads that make them; the others wait."""

    def __init__(self, source: str, number: int) -> None:
        self.source, self.number = source, number
        self.lock = threading.Lock()
        self.content: tuple[Frames, np.ndarray, dict[int, str]] | None = None


class Stream(Draws):
    """Batches of one split of a corpus for one rank.

    Raises ValueError for a source that the corpus or the split does not have, more frames than a sample holds, and a batch
    that cannot be divided among the ranks.
    """

    def __init__(self, corpus: Corpus, split: str, config: StreamConfig, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(corpus, split, config, rank, world_size)
        cache = SampleCache(config.cache / corpus.fingerprint, config.cache_keep_free_gb) if config.cache else None
        self._storage, self._memory = Storage(cache), BatchMemory()
        self._readers = {
            source: SampleReader(table, self._storage, self._memory, config.check_reads) for source, table in self._tables.items()
        }
        self._groups: dict[str, _Group] = {}
        self._damaged: set[str] = set()
        self._skipped: list[Skipped] = []

    def batch(self, micro_step: int) -> Batch:
        """This rank's part of a micro-step.

        Raises ValueError for more damaged samples than `skip_damaged`, and what storage that cannot be reached raises.
        """
        return self._accept(*self._make(micro_step, self._group_of(micro_step)))

    def batches(self, start: int, stop: int, device: torch.device | None = None) -> Generator[Batch, None, None]:
        """This rank's batches of micro-steps start..stop-1, read ahead by `num_workers` threads.

        With a `device`, each is copied there while the one before it is computed on.
        """
        batches = self._read_ahead(start, stop)
        return batches if device is None else on_device(batches, device)

    def _read_ahead(self, start: int, stop: int) -> Generator[Batch, None, None]:
        workers, draws = self._config.num_workers, self._config.draws_per_read
        if workers == 0:
            yield from map(self.batch, range(start, stop))
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="stream")
        ahead: deque[Future[tuple[Batch, list[Skipped]]]] = deque()
        groups: deque[_Group] = deque()
        # Groups of all sources end at about the same time, so the next ones are read while the batches of these are made.
        further = draws * len(self.sources) if draws > 1 else 1
        try:
            for micro_step in range(start, stop):
                for next_step in range(micro_step + len(groups), min(stop, micro_step + further)):
                    groups.append(self._group_of(next_step))
                    if draws > 1:
                        pool.submit(self._read_group, groups[-1])
                ahead.append(pool.submit(self._make, micro_step, groups.popleft()))
                if len(ahead) > workers:  # one is ready while every worker reads another
                    yield self._accept(*ahead.popleft().result())
            while ahead:
                yield self._accept(*ahead.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _group_of(self, micro_step: int) -> _Group:
        """What a micro-step shares with its neighbours; forgotten here with the last of them, whose maker still holds it."""
        source, before = self._place(micro_step)
        number, draw = divmod(before, self._config.draws_per_read)
        group = self._groups.get(source)
        if group is None or group.number != number:
            group = self._groups[source] = _Group(source, number)
        if draw == self._config.draws_per_read - 1:
            del self._groups[source]
        return group

    def _make(self, micro_step: int, group: _Group) -> tuple[Batch, list[Skipped]]:
        """This rank's part of a micro-step, and the damaged samples in it."""
        draw = self._draw(micro_step, self._rank, self._world_size)
        table = self._tables[draw.source]
        size, num_frames = draw.frames.shape
        tensors: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, dtype, shape in (
            ("pixels", table.dtype, (size, num_frames, *table.frame_shape)),
            ("valid", np.dtype(bool), (size, num_frames, *table.frame_shape[1:])),
            ("dates", np.dtype(np.int32), (size, num_frames)),
            ("day_of_year", np.dtype(np.int16), (size, num_frames)),
            ("land_cover", np.dtype(np.int64), (size, table.codes)),
            ("orientation", np.dtype(np.uint8), (size,)),
            ("usable", np.dtype(bool), (size,)),
        ):
            tensors[name], arrays[name] = self._memory.empty(dtype, shape)
        flat = {name: arrays[name].reshape(-1, *arrays[name].shape[2:]) for name in ("pixels", "valid", "dates")}
        into = Frames(**flat, land_cover=arrays["land_cover"])
        if self._config.draws_per_read == 1:
            damaged = self._readers[draw.source].read(draw.samples, np.full(size, num_frames), draw.frames.reshape(-1), into)
        else:
            held, names, damaged = self._read_group(group)
            places = np.searchsorted(names, _names(np.arange(size)[:, None], draw.frames).reshape(-1))
            for name in flat:
                getattr(held, name).take(places, 0, flat[name], "clip")
            into.land_cover[:] = held.land_cover
        days = arrays["dates"].astype("datetime64[D]")
        arrays["day_of_year"][:] = (days - days.astype("datetime64[Y]")).astype(np.int16) + np.int16(1)
        arrays["orientation"][:] = draw.orientation
        arrays["usable"][:] = True
        arrays["usable"][list(damaged)] = False
        keys = [key.decode() for key in table.keys[draw.samples].tolist()]
        shards = table.shard[draw.samples]
        skipped = [Skipped(str(table.shards[shards[i]]), keys[i], why) for i, why in sorted(damaged.items())]
        return Batch(source=draw.source, legend=table.legend, keys=keys, **tensors), skipped

    def _read_group(self, group: _Group) -> tuple[Frames, np.ndarray, dict[int, str]]:
        """The frames of all draws of a group, their names in ascending order, and what is damaged; read by the first comer."""
        with group.lock:
            if group.content is None:
                table = self._tables[group.source]
                draws = [
                    self._draw_of_group(group.source, group.number, number, self._rank, self._world_size)
                    for number in range(self._config.draws_per_read)
                ]
                samples = draws[0].samples
                drawn = np.concatenate([draw.frames for draw in draws], axis=1)
                names = np.unique(_names(np.arange(len(samples))[:, None], drawn))
                rows, frames = np.divmod(names, _MANY_FRAMES)
                held = Frames(
                    self._memory.empty(table.dtype, (len(names), *table.frame_shape))[1],
                    self._memory.empty(np.dtype(bool), (len(names), *table.frame_shape[1:]))[1],
                    np.empty(len(names), np.int32),
                    np.empty((len(samples), table.codes), np.int64),
                )
                damaged = self._readers[group.source].read(samples, np.bincount(rows, minlength=len(samples)), frames, held)
                group.content = held, names, damaged
            return group.content

    def _accept(self, batch: Batch, skipped: list[Skipped]) -> Batch:
        """The batch, unless it has more damaged samples than may be passed over. Called in the order of micro-steps."""
        new = [sample for sample in skipped if sample.key not in self._damaged]  # a sample comes again in every epoch
        self._damaged.update(sample.key for sample in new)
        self._skipped += new
        allowed = self._config.skip_damaged
        if skipped and len(self._damaged) > allowed:
            before = f"{len(self._damaged)} damaged samples, more than skip_damaged={allowed}; the last: " if allowed else ""
            raise DamagedSampleError(before + skipped[-1].reason)
        return batch

    def take_skipped(self) -> list[Skipped]:
        """Damaged samples met since the last call, each when it was first met."""
        taken, self._skipped = self._skipped, []
        return taken

    def close(self) -> None:
        """Close all shards and forget what was read ahead. The stream stays usable."""
        self._groups.clear()
        self._storage.close()


def _names(rows: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """One number for the place of a sample in a batch and one of its frames, in the order of both."""
    return rows * _MANY_FRAMES + frames
