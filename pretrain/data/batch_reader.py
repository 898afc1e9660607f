"""From what a draw names to the arrays of a batch: read, tested, laid side by side in one piece of memory.

Nothing of torch is needed here, so a process that only reads starts in half a second and stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import xxhash

from pretrain.data.batch_memory import BatchMemory
from pretrain.data.draws import Draw, StreamConfig
from pretrain.data.reader import Frames, SampleReader
from pretrain.data.sample_table import SampleTable
from pretrain.data.storage import SampleCache, Storage

_MANY_FRAMES = 1 << 20  # more than a year of any sensor has
_ALIGNED = 64  # bytes: a line of the processor's cache


@dataclass(frozen=True)
class BatchArrays:
    """The numbers of B samples with T frames each; see `pretrain.data.batch.Batch`, whose tensors lie over these."""

    pixels: np.ndarray
    valid: np.ndarray
    dates: np.ndarray
    day_of_year: np.ndarray
    land_cover: np.ndarray
    orientation: np.ndarray
    usable: np.ndarray

    @staticmethod
    def nbytes(table: SampleTable, size: int, num_frames: int) -> int:
        """Bytes of memory that the arrays of `size` samples of a table take."""
        return sum(_room(dtype, shape) for dtype, shape in _described(table, size, num_frames))

    @classmethod
    def over(cls, memory: np.ndarray, table: SampleTable, size: int, num_frames: int) -> BatchArrays:
        """The arrays in memory uint8 (nbytes,)."""
        arrays, start = [], 0
        for dtype, shape in _described(table, size, num_frames):
            stop = start + dtype.itemsize * int(np.prod(shape))
            arrays.append(memory[start:stop].view(dtype).reshape(shape))
            start += _room(dtype, shape)
        return cls(*arrays)

    def by_name(self) -> dict[str, np.ndarray]:
        """The arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _described(table: SampleTable, size: int, num_frames: int) -> tuple[tuple[np.dtype, tuple[int, ...]], ...]:
    """Dtype and shape of each array."""
    return (
        (table.dtype, (size, num_frames, *table.frame_shape)),
        (np.dtype(bool), (size, num_frames, *table.frame_shape[1:])),
        (np.dtype(np.int32), (size, num_frames)),
        (np.dtype(np.int16), (size, num_frames)),
        (np.dtype(np.int64), (size, table.codes)),
        (np.dtype(np.uint8), (size,)),
        (np.dtype(bool), (size,)),
    )


def _room(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return -(-dtype.itemsize * int(np.prod(shape)) // _ALIGNED) * _ALIGNED


@dataclass(frozen=True)
class BatchContent:
    """What of a batch is no array: B keys, B digests (see `Batch`), and why samples are damaged, by their place."""

    keys: list[str]
    digests: list[int]
    damaged: dict[int, str]


@dataclass(frozen=True)
class Group:
    """What the draws of one read share: the frames of all of them, their names in ascending order, and what is damaged."""

    frames: Frames
    names: np.ndarray
    damaged: dict[int, str]


class BatchReader:
    """Reads what is drawn from one split of a corpus. Threads may share it."""

    def __init__(self, tables: dict[str, SampleTable], fingerprint: str, config: StreamConfig) -> None:
        """`tables` of the sources; the `fingerprint` of the corpus names its part of a cache."""
        cache = SampleCache(config.cache / fingerprint, config.cache_keep_free_gb) if config.cache else None
        self._tables, self._storage, self._memory = tables, Storage(cache), BatchMemory()
        self._readers = {
            source: SampleReader(table, self._storage, self._memory, config.check_reads) for source, table in tables.items()
        }

    def read(self, draw: Draw, memory: np.ndarray, group: Group | None = None) -> BatchContent:
        """Fill the memory of a batch, uint8 (BatchArrays.nbytes,), from the shards or from what was read of its group.

        Raises what storage that cannot be reached raises.
        """
        table, (size, num_frames) = self._tables[draw.source], draw.frames.shape
        arrays = BatchArrays.over(memory, table, size, num_frames)
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.by_name().items() if name in _BY_FRAME}
        into = Frames(**flat, land_cover=arrays.land_cover)
        if group is None:
            damaged = self._readers[draw.source].read(draw.samples, np.full(size, num_frames), draw.frames.reshape(-1), into)
        else:
            damaged = group.damaged
            places = np.searchsorted(group.names, _names(np.arange(size)[:, None], draw.frames).reshape(-1))
            for name, out in flat.items():
                getattr(group.frames, name).take(places, 0, out, "clip")
            into.land_cover[:] = group.frames.land_cover
        days = arrays.dates.astype("datetime64[D]")
        arrays.day_of_year[:] = (days - days.astype("datetime64[Y]")).astype(np.int16) + np.int16(1)
        arrays.orientation[:] = draw.orientation
        arrays.usable[:] = True
        arrays.usable[list(damaged)] = False
        keys = table.keys[draw.samples].tolist()
        digests = [xxhash.xxh3_64_intdigest(key + row.tobytes()) for key, row in zip(keys, arrays.dates, strict=True)]
        return BatchContent([key.decode() for key in keys], digests, damaged)

    def read_group(self, draws: Sequence[Draw]) -> Group:
        """The frames of draws of the same samples, each once. Raises what storage that cannot be reached raises."""
        source, samples = draws[0].source, draws[0].samples
        table = self._tables[source]
        drawn = np.concatenate([draw.frames for draw in draws], axis=1)
        names = np.unique(_names(np.arange(len(samples))[:, None], drawn))
        rows, frames = np.divmod(names, _MANY_FRAMES)
        into = Frames(
            self._memory.empty(table.dtype, (len(names), *table.frame_shape)),
            self._memory.empty(np.dtype(bool), (len(names), *table.frame_shape[1:])),
            np.empty(len(names), np.int32),
            np.empty((len(samples), table.codes), np.int64),
        )
        return Group(into, names, self._readers[source].read(samples, np.bincount(rows, minlength=len(samples)), frames, into))

    def close(self) -> None:
        """Close all shards. The reader stays usable."""
        self._storage.close()


_BY_FRAME = ("pixels", "valid", "dates")


def _names(rows: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """One number for the place of a sample in a batch and one of its frames, in the order of both."""
    return rows * _MANY_FRAMES + frames
