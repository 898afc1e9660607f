"""Shards -> batches. What micro-step k holds is a pure function of (corpus fingerprint, seed, k).

The order is the same on any number of ranks and workers and starts anywhere at once (`pretrain/order.py`). All ranks are on
one source in a micro-step: DeepSpeed's ZeRO 1 and 2 silently mix gradients when ranks take different branches. Only the
drawn frames are read, straight into the batch. Pixels stay integers: normalise and `orient` on the device.

Workers are threads: bytes are read outside the interpreter lock, and a batch need not be copied between processes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from data_prep.corpus import Corpus
from pretrain.batch import Batch, BatchMemory, on_device, orient
from pretrain.indexed_shards import SampleTable
from pretrain.order import drawn_frames, mix, mixture_cycle, named_key, shuffled
from pretrain.sample_reader import Frames, SampleReader
from pretrain.shard_storage import DamagedSampleError, SampleCache, Storage

__all__ = ["Batch", "Draw", "Skipped", "Stream", "StreamConfig", "orient"]


_DRAWN_AT_ONCE = 512  # samples: one at a time, or a small batch, takes a hundred calls of numpy as well
_MANY_FRAMES = 1 << 20  # more than a year of any sensor has
_DRAWN = ("frames", "orientation")  # what each draw of a sample has of its own


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What goes into a batch.

    Attributes:
        num_frames: frames drawn from the year of each sample, in the order of time.
        global_batch_size: samples a micro-step over all ranks; one number, or one for each source so that steps cost alike.
        mixture: weight of each source, the share of micro-steps that it gets; default: all sources of the corpus equally.
        augment: draw one of the 8 flips and rotations for each sample.
        num_workers: threads that read ahead on each rank; 0 reads in the caller.
        check_reads: compare all that is read with the checksums that the shards hold.
        draws_per_read: batches in a row (of a source) that hold the same samples with other frames and orientations, from one
            read; an epoch shows every sample so many times. For storage that is slower than the card: data echoing (Choi et al.
            2019, arXiv 1907.05550), which found up to some 4 repetitions nearly as good as new samples.
        skip_damaged: damaged samples that a rank passes over, counting each once, before it stops; 0 stops at the first.
        cache: folder of this machine in which samples of a corpus at a URL are kept for later epochs; default: none.
        cache_keep_free_gb: what the cache leaves free of its disk, in GB.
        seed: of order, frames and orientations.
    """

    num_frames: int = 16
    global_batch_size: dict[str, int] | int = 32
    mixture: dict[str, float] | None = None
    augment: bool = True
    num_workers: int = 2
    check_reads: bool = True
    draws_per_read: int = 1
    skip_damaged: int = 0
    cache: Path | None = None
    cache_keep_free_gb: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; expected 0 (read in the caller) or more threads")
        if self.draws_per_read < 1:
            raise ValueError(f"draws_per_read is {self.draws_per_read}; expected 1 (every batch is read) or more")
        if self.skip_damaged < 0:
            raise ValueError(f"skip_damaged is {self.skip_damaged}; expected 0 (stop at the first damaged sample) or more")
        if not self.cache_keep_free_gb >= 0:
            raise ValueError(f"cache_keep_free_gb is {self.cache_keep_free_gb}; expected 0 or more GB")


@dataclass(frozen=True)
class Draw:
    """What is read for B positions of a micro-step: sample numbers within the source (B,), frames (B, T), orientation (B,)."""

    source: str
    samples: np.ndarray
    frames: np.ndarray
    orientation: np.ndarray


@dataclass(frozen=True)
class Skipped:
    """A damaged sample: the path or URL of its shard, its key, and what is wrong."""

    shard: str
    key: str
    reason: str


class _Group:
    """What the batches of one read share: frames of B samples, by one of the threads that make them; the others wait."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()
        self.content: tuple[Frames, np.ndarray, dict[int, str]] | None = None


class Stream:
    """Batches of one split of a corpus for one rank.

    Raises ValueError for a source that the corpus or the split does not have, more frames than a sample holds, and a batch
    that cannot be divided among the ranks.
    """

    def __init__(self, corpus: Corpus, split: str, config: StreamConfig, rank: int = 0, world_size: int = 1) -> None:
        self._config = config
        self._rank, self._world_size = rank, world_size
        mixture = dict.fromkeys(sorted(corpus.sensors), 1.0) if config.mixture is None else config.mixture
        unknown = sorted(set(mixture) - set(corpus.sensors))
        if unknown:
            raise ValueError(f"mixture names sources {unknown}; {corpus.folder} holds {sorted(corpus.sensors)}")
        self._cycle = np.array(mixture_cycle(mixture))
        self.sources = sorted(mixture)
        self._batch_size = {source: self._global_batch_size(source) for source in self.sources}
        self._tables = {source: SampleTable(corpus, source, split) for source in self.sources}
        for source, table in self._tables.items():
            if table.shortest < config.num_frames:
                short = int((table.frames < config.num_frames).sum())
                raise ValueError(
                    f"{short} of {len(table)} samples of source {source!r} have fewer than num_frames={config.num_frames} frames "
                    f"(the shortest {table.shortest}); lower num_frames, or shard again with a higher --min_frames"
                )
        names = (corpus.fingerprint, config.seed, split)
        self._mixture_key = named_key(*names, "mixture")
        self._keys = {
            source: {what: named_key(*names, source, what) for what in ("order", *_DRAWN)}
            for source in self.sources
        }
        cache = SampleCache(config.cache / corpus.fingerprint[:16], config.cache_keep_free_gb) if config.cache else None
        self._storage, self._memory = Storage(cache), BatchMemory()
        self._readers = {
            source: SampleReader(table, self._storage, self._memory, config.check_reads) for source, table in self._tables.items()
        }
        self._draws = lru_cache(maxsize=4 * config.draws_per_read * len(self.sources))(self._draw_groups)
        self._groups: dict[str, _Group] = {}
        self._damaged: set[str] = set()
        self._skipped: list[Skipped] = []

    def _global_batch_size(self, source: str) -> int:
        sizes = self._config.global_batch_size
        if isinstance(sizes, dict) and source not in sizes:
            raise ValueError(f"global_batch_size has no entry for source {source!r}, only for {sorted(sizes)}")
        size = sizes[source] if isinstance(sizes, dict) else sizes
        if size < 1 or size % self._world_size:
            nearest = max(1, round(size / self._world_size)) * self._world_size
            raise ValueError(
                f"global_batch_size of source {source!r} is {size}, which {self._world_size} ranks cannot share equally; "
                f"take {nearest} or another number of ranks"
            )
        return size

    def _place(self, micro_step: int) -> tuple[str, int]:
        """The source of a micro-step, and how many micro-steps before it had the same one.

        Each cycle holds every source by its weight, in an order of its own; so only the present cycle is looked at.
        """
        cycles, slot = divmod(micro_step, len(self._cycle))
        present = self._cycle[_cycle_order(cycles, len(self._cycle), self._mixture_key)]
        source = str(present[slot])
        return source, cycles * int((self._cycle == source).sum()) + int((present[:slot] == source).sum())

    def source_of(self, micro_step: int) -> str:
        """The source of a micro-step, on all ranks."""
        return self._place(micro_step)[0]

    def micro_steps_per_epoch(self, source: str) -> float:
        """Micro-steps of `source` until each of its samples has been seen `draws_per_read` times (more)."""
        return self._config.draws_per_read * len(self._tables[source]) / self._batch_size[source]

    def epoch_of(self, micro_step: int) -> float:
        """Epochs of the micro-step's source that lie before it; the whole part is the number of finished ones."""
        source, before = self._place(micro_step)
        return before / self.micro_steps_per_epoch(source)

    def draw(self, micro_step: int) -> Draw:
        """Samples, frames and orientations of the global batch, all ranks one after the other. Reads nothing."""
        return self._draw(micro_step, rank=0, world_size=1)

    def keys(self, micro_step: int) -> list[str]:
        """Keys of the global batch, all ranks one after the other."""
        draw = self.draw(micro_step)
        return [key.decode() for key in self._tables[draw.source].keys[draw.samples]]

    def _draw(self, micro_step: int, rank: int, world_size: int) -> Draw:
        """A contiguous share of the global batch."""
        source, before = self._place(micro_step)
        return self._draw_of_group(source, *divmod(before, self._config.draws_per_read), rank, world_size)

    def _draw_of_group(self, source: str, group: int, number: int, rank: int, world_size: int) -> Draw:
        """Draw `number` of those that share the samples of a group."""
        groups = max(1, _DRAWN_AT_ONCE // (self._batch_size[source] // world_size))
        block, place = divmod(group, groups)
        return Draw(source, *(part[place] for part in self._draws(source, block * groups, groups, number, rank, world_size)))

    def _draw_groups(
        self, source: str, first: int, groups: int, number: int, rank: int, world_size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples (G, B), frames (G, B, T) and orientations (G, B) of one draw of groups first..first+G-1."""
        share = self._batch_size[source] // world_size
        table, keys = self._tables[source], self._keys[source]
        frames_key, orientation_key = (int(mix(number, keys[what])[0]) if number else keys[what] for what in _DRAWN)
        # Group g of a source covers g*B..g*B+B-1 of the endless row of its epochs: every sample exactly once an epoch.
        positions = (first + np.arange(groups))[:, None] * self._batch_size[source] + rank * share + np.arange(share)
        positions = positions.reshape(-1)
        epochs = positions // len(table)
        samples = shuffled(positions, len(table), keys["order"])
        frames = drawn_frames(samples, epochs, table.frames[samples], self._config.num_frames, frames_key)
        orientation = (mix(samples, mix(epochs, orientation_key)) >> np.uint64(61)).astype(np.uint8)
        square = table.frame_shape[1] == table.frame_shape[2]
        allowed = (7 if square else 3) if self._config.augment else 0
        shape = (groups, share)
        return samples.reshape(shape), frames.reshape(*shape, -1), (orientation & np.uint8(allowed)).reshape(shape)

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
        if self._config.num_workers == 0:
            yield from map(self.batch, range(start, stop))
            return
        pool = ThreadPoolExecutor(self._config.num_workers, thread_name_prefix="stream")
        ahead: deque[Future[tuple[Batch, list[Skipped]]]] = deque()
        try:
            for micro_step in range(start, stop):
                ahead.append(pool.submit(self._make, micro_step, self._group_of(micro_step)))
                if len(ahead) > self._config.num_workers:  # one is ready while every worker reads another
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
            group = self._groups[source] = _Group(number)
        if draw == self._config.draws_per_read - 1:
            del self._groups[source]
        return group

    def _make(self, micro_step: int, group: _Group) -> tuple[Batch, list[Skipped]]:
        """This rank's part of a micro-step, and the damaged samples in it."""
        draw = self._draw(micro_step, self._rank, self._world_size)
        table = self._tables[draw.source]
        size, num_frames = draw.frames.shape
        tensors, arrays = {}, {}
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
            damaged = self._copy_from_group(group, draw, into)
        days = arrays["dates"].astype("datetime64[D]")
        arrays["day_of_year"][:] = (days - days.astype("datetime64[Y]")).astype(np.int16) + np.int16(1)
        arrays["orientation"][:] = draw.orientation
        arrays["usable"][:] = True
        arrays["usable"][list(damaged)] = False
        keys = [key.decode() for key in table.keys[draw.samples].tolist()]
        shards = table.shard[draw.samples]
        skipped = [Skipped(str(table.shards[shards[i]]), keys[i], why) for i, why in sorted(damaged.items())]
        return Batch(source=draw.source, legend=table.legend, keys=keys, **tensors), skipped

    def _copy_from_group(self, group: _Group, draw: Draw, into: Frames) -> dict[int, str]:
        """Fill a batch from what was read for its group, of which the first comer reads the frames of all draws."""
        table = self._tables[draw.source]
        with group.lock:
            if group.content is None:
                draws = [
                    self._draw_of_group(draw.source, group.number, number, self._rank, self._world_size)
                    for number in range(self._config.draws_per_read)
                ]
                frames = np.concatenate([each.frames for each in draws], axis=1)
                # (2, F): place in the batch and frame, in ascending order, each once
                drawn = np.unique(np.stack([np.indices(frames.shape)[0], frames]).reshape(2, -1), axis=1)
                count = drawn.shape[1]
                held = Frames(
                    self._memory.empty(table.dtype, (count, *table.frame_shape))[1],
                    self._memory.empty(np.dtype(bool), (count, *table.frame_shape[1:]))[1],
                    np.empty(count, np.int32),
                    np.empty((len(frames), table.codes), np.int64),
                )
                reader = self._readers[draw.source]
                damaged = reader.read(draw.samples, np.bincount(drawn[0], minlength=len(frames)), drawn[1], held)
                group.content = held, drawn[0] * _MANY_FRAMES + drawn[1], damaged
        held, names, damaged = group.content
        places = np.searchsorted(names, (np.arange(len(draw.frames))[:, None] * _MANY_FRAMES + draw.frames).reshape(-1))
        for name in ("pixels", "valid", "dates"):
            getattr(held, name).take(places, 0, getattr(into, name), "clip")
        into.land_cover[:] = held.land_cover
        return damaged

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


@lru_cache(maxsize=16)
def _cycle_order(cycle: int, length: int, key: int) -> np.ndarray:
    """Slots of the mixture's cycle in the order in which this cycle takes them."""
    return shuffled(np.arange(cycle * length, (cycle + 1) * length), length, key)
