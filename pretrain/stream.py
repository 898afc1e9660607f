"""Shards -> batches. What micro-step k holds is a pure function of (corpus fingerprint, seed, k).

The order is the same on any number of ranks and workers and starts anywhere at once (`pretrain/order.py`). All ranks are on
one source in a micro-step: DeepSpeed's ZeRO 1 and 2 silently mix gradients when ranks take different branches. Only the
drawn frames are read, by `preadv` straight into the batch. Pixels stay integers: normalise and `orient` on the device.

Workers are threads: `preadv` runs outside the interpreter lock, and a batch need not be copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from data_prep.corpus import Corpus
from pretrain.indexed_shards import CHECKSUMS, DATES, LAND_COVER, PIXELS, VALID, BatchMemory, OpenShard, OpenShards, SampleTable
from pretrain.order import drawn_frames, mix, mixture_cycle, named_key, shuffled


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
        seed: of order, frames and orientations.
    """

    num_frames: int = 16
    global_batch_size: dict[str, int] | int = 32
    mixture: dict[str, float] | None = None
    augment: bool = True
    num_workers: int = 2
    check_reads: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; expected 0 (read in the caller) or more threads")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a micro-step: B samples of one source.

    Attributes:
        source, legend: name of the source, and of the legend that `land_cover` counts.
        keys: B keys of the corpus.
        pixels: (B, T, C, H, W), the sensor's integer dtype, as stored.
        valid: (B, T, H, W) bool, True where the observation is clear.
        dates: (B, T) int32, days since 1970-01-01, ascending.
        day_of_year: (B, T) int16, 1 to 366.
        land_cover: (B, codes of the legend) int64 counts.
        orientation: (B,) uint8, what `orient` applies; 0 leaves a sample as it is.
        usable: (B,) bool, False for a damaged sample that was passed over.
    """

    source: str
    legend: str
    keys: list[str]
    pixels: torch.Tensor
    valid: torch.Tensor
    dates: torch.Tensor
    day_of_year: torch.Tensor
    land_cover: torch.Tensor
    orientation: torch.Tensor
    usable: torch.Tensor

    def split(self, parts: int) -> list[Batch]:
        """Equal consecutive parts. Raises ValueError when the batch cannot be divided so."""
        if len(self.keys) % parts:
            raise ValueError(f"a batch of {len(self.keys)} samples cannot be cut into {parts} equal parts")
        size = len(self.keys) // parts
        slices = [slice(start, start + size) for start in range(0, len(self.keys), size)]
        cut = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor | list)}
        return [replace(self, **{name: value[part] for name, value in cut.items()}) for part in slices]  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, about what was read for them."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, torch.Tensor))

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`; asynchronous when it lies in pinned memory, as it does where there is a GPU."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Draw:
    """What is read for B positions of a micro-step: sample numbers within the source (B,), frames (B, T), orientation (B,)."""

    source: str
    samples: np.ndarray
    frames: np.ndarray
    orientation: np.ndarray


def orient(images: torch.Tensor, orientation: torch.Tensor) -> torch.Tensor:
    """Apply the drawn flips and rotations: images (B, ..., H, W), orientation (B,) -> the same shape and dtype.

    Bit 0 mirrors columns, bit 1 mirrors rows, bit 2 then transposes: together the 8 symmetries of a square. Selects by
    arithmetic, so a GPU need not be waited for. Use it on floats or bool; few operators know uint16.
    """

    def where_bit(bit: int, changed: torch.Tensor) -> torch.Tensor:
        chosen = (orientation >> bit & 1).bool().view(-1, *[1] * (images.ndim - 1))
        return torch.where(chosen, changed, images)

    images = where_bit(0, images.flip(-1))
    images = where_bit(1, images.flip(-2))
    return where_bit(2, images.transpose(-1, -2)) if images.shape[-1] == images.shape[-2] else images


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
        self._batch_size = {source: self.global_batch_size(source) for source in self.sources}
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
            source: {what: named_key(*names, source, what) for what in ("order", "frames", "orientation")}
            for source in self.sources
        }
        self._shards = OpenShards()
        self._memory = BatchMemory()

    def global_batch_size(self, source: str) -> int:
        """Samples of a micro-step of `source` over all ranks."""
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
        """Micro-steps of `source` until each of its samples has been seen once (more)."""
        return len(self._tables[source]) / self._batch_size[source]

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
        share = self._batch_size[source] // world_size
        table, keys = self._tables[source], self._keys[source]
        # Batch b of a source covers b*B..b*B+B-1 of the endless row of its epochs: every sample exactly once an epoch.
        positions = before * self._batch_size[source] + rank * share + np.arange(share)
        epochs = positions // len(table)
        samples = shuffled(positions, len(table), keys["order"])
        frames = drawn_frames(samples, epochs, table.frames[samples], self._config.num_frames, keys["frames"])
        orientation = (mix(samples, mix(epochs, keys["orientation"])) >> np.uint64(61)).astype(np.uint8)
        square = table.frame_shape[1] == table.frame_shape[2]
        allowed = (7 if square else 3) if self._config.augment else 0
        return Draw(source, samples, frames, orientation & np.uint8(allowed))

    def batch(self, micro_step: int) -> Batch:
        """This rank's part of a micro-step. Raises ValueError for a damaged shard."""
        draw = self._draw(micro_step, self._rank, self._world_size)
        table = self._tables[draw.source]
        shards = [self._shards[table.shards[number]] for number in table.shard[draw.samples]]
        pixels = self._read_frames(table, shards, draw, PIXELS, table.dtype, table.frame_shape)
        valid = self._read_frames(table, shards, draw, VALID, np.dtype(bool), table.frame_shape[1:])
        dates, dates_view = self._memory.empty(np.dtype(np.int32), draw.frames.shape)
        land_cover, land_cover_view = self._memory.empty(np.dtype(np.int64), (len(shards), table.codes))
        for i, (shard, sample) in enumerate(zip(shards, draw.samples.tolist(), strict=True)):
            length, drawn = (int(table.frames[sample]),), draw.frames[i]
            dates_view[i] = table.read_whole(shard, sample, DATES, np.dtype(np.int32), length)[drawn]
            land_cover_view[i] = table.read_whole(shard, sample, LAND_COVER, np.dtype(np.int64), (table.codes,))
            if self._config.check_reads:
                written = table.read_whole(shard, sample, CHECKSUMS, np.dtype(np.uint64), length)[drawn]
                content = (land_cover_view[i], dates_view[i], pixels[i].numpy(), valid[i].numpy())
                table.expect_checksums(written, sample, *content)
        days = dates_view.astype("datetime64[D]")
        day_of_year = (days - days.astype("datetime64[Y]")).astype(np.int16) + np.int16(1)
        return Batch(
            source=draw.source,
            legend=table.legend,
            keys=[key.decode() for key in table.keys[draw.samples]],
            pixels=pixels,
            valid=valid,
            dates=dates,
            day_of_year=torch.from_numpy(day_of_year),
            land_cover=land_cover,
            orientation=torch.from_numpy(draw.orientation),
            usable=torch.ones(len(shards), dtype=torch.bool),
        )

    def _read_frames(
        self, table: SampleTable, shards: list[OpenShard], draw: Draw, member: int, dtype: np.dtype, frame_shape: tuple[int, ...]
    ) -> torch.Tensor:
        """The drawn frames of one member of every sample: (B, T, *frame_shape)."""
        tensor, array = self._memory.empty(dtype, (*draw.frames.shape, *frame_shape))
        if not array.size:
            return tensor
        item = array[0, 0].nbytes
        data = table.offsets[draw.samples, member] + table.sizes[draw.samples, member] - table.frames[draw.samples] * item
        for shard, sample, stop in zip(shards, draw.samples.tolist(), data.tolist(), strict=True):
            start = int(table.offsets[sample, member])
            header = bytearray(max(0, stop - start))
            shard.read_into(memoryview(header), start)
            table.expect_header(bytes(header), sample, member, dtype, (int(table.frames[sample]), *frame_shape))
        # Neighbouring frames lie side by side in the shard and in the batch: one read a run.
        first = np.flatnonzero(np.diff(draw.frames, axis=1, prepend=-2) != 1)
        last = np.append(first[1:], draw.frames.size)
        rows = first // draw.frames.shape[1]
        offsets = data[rows] + draw.frames.reshape(-1)[first] * item
        memory = array.reshape(-1).view(np.uint8).data
        for row, start, stop, offset in zip(
            rows.tolist(), (first * item).tolist(), (last * item).tolist(), offsets.tolist(), strict=True
        ):
            shards[row].read_into(memory[start:stop], offset)
        return tensor

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This rank's batches of micro-steps start..stop-1, read ahead by `num_workers` threads."""
        if self._config.num_workers == 0:
            yield from map(self.batch, range(start, stop))
            return
        pool = ThreadPoolExecutor(self._config.num_workers, thread_name_prefix="stream")
        ahead: deque[Future[Batch]] = deque()
        try:
            for micro_step in range(start, stop):
                ahead.append(pool.submit(self.batch, micro_step))
                if len(ahead) > self._config.num_workers:  # one is ready while every worker reads another
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Close all shards. The stream stays usable and opens them again."""
        self._shards.clear()


@lru_cache(maxsize=16)
def _cycle_order(cycle: int, length: int, key: int) -> np.ndarray:
    """Slots of the mixture's cycle in the order in which this cycle takes them."""
    return shuffled(np.arange(cycle * length, (cycle + 1) * length), length, key)
