"""Reading: from a draw to the arrays of a batch.

The drawn frames are read straight into the memory of the batch, and compared with their checksums while the processor's cache
still holds them. The small members of a sample (checksums, dates, land cover and its map, the header of the pixels) lie side by
side in its shard: those of all samples are read first, at once. Then the frames follow, sample by sample, with one read for each
run of neighbouring ones. Where frames are so small that a call takes longer than their bytes, a sample is read whole.

Nothing here needs torch, so a process that only reads starts in half a second and stays small.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import add

import numpy as np
import xxhash

from common.storage import is_url
from data_prep.shards.frame_checksums import checksum, checksum_seed
from pretrain.data.buffers import BatchArrays, BufferPool
from pretrain.data.config import StreamConfig
from pretrain.data.draws import Draw
from pretrain.data.sample_table import (
    CHECKSUMS,
    CHECKSUMS_DTYPE,
    DATES,
    DATES_DTYPE,
    LAND_COVER,
    LAND_COVER_DTYPE,
    LAND_COVER_MAP,
    MEMBERS,
    PIXELS,
    VALID,
    SampleLayout,
    SampleTable,
)
from pretrain.data.storage import DamagedSampleError, Read, SampleBytes, SampleCache, Storage, Wanted

# A call of preadv takes 0.7 us, in which 10 kB come from the page cache; about three frames lie between two runs of drawn ones.
_SMALL_FRAME_BYTES = 3_000
_MANY_FRAMES = 1 << 20  # more frames than a year of any sensor has
_NOTHING = memoryview(b"")
_BY_FRAME = ("pixels", "valid", "dates")  # the arrays of a batch that have a row for each frame


@dataclass(frozen=True)
class BatchMetadata:
    """Metadata of a batch: its keys, their digests, the reasons of damaged samples, and the state of the cache.

    Attributes:
        keys: B keys of the corpus.
        digests: B numbers, see `pretrain.data.batch.Batch`.
        damaged: the reason for each damaged sample, by its place in the batch.
        full_cache: why the cache did not keep samples, of this batch or an earlier one; empty if it kept all.
    """

    keys: list[str]
    digests: list[int]
    damaged: dict[int, str]
    full_cache: str


@dataclass(frozen=True)
class EchoGroup:
    """The frames of a group of batches that share samples (data echoing): each frame that any of them holds, once.

    Attributes:
        frames: of all draws of the group.
        ids: `_frame_ids` of the frames, ascending.
        damaged: the reason for each damaged sample, by its place in the batches.
    """

    frames: Frames
    ids: np.ndarray
    damaged: dict[int, str]


class BatchReader:
    """Reads the drawn samples of one split of a corpus. Threads may share it."""

    def __init__(self, tables: dict[str, SampleTable], fingerprint: str, config: StreamConfig) -> None:
        """`tables`: by source. The `fingerprint` of the corpus names its folder in a cache."""
        cache = SampleCache(config.cache / fingerprint, config.cache_keep_free_gb) if config.cache else None
        self._tables, self._storage, self._pool = tables, Storage(cache), BufferPool()
        self._readers = {
            source: SampleReader(table, self._storage, self._pool, config.check_reads) for source, table in tables.items()
        }

    def read(self, draw: Draw, memory: np.ndarray, group: EchoGroup | None = None) -> BatchMetadata:
        """Fill the memory of a batch, uint8 (BatchArrays.nbytes,), from the shards, or from the frames of its group.

        Raises what storage raises that cannot be reached.
        """
        table, (size, num_frames) = self._tables[draw.source], draw.frames.shape
        arrays = BatchArrays.over(memory, table, size, num_frames)
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.by_name().items() if name in _BY_FRAME}
        into = Frames(**flat, land_cover=arrays.land_cover, land_cover_map=arrays.land_cover_map)
        if group is None:
            damaged = self._readers[draw.source].read(draw.samples, np.full(size, num_frames), draw.frames.reshape(-1), into)
        else:
            damaged = group.damaged
            rows = np.searchsorted(group.ids, _frame_ids(np.arange(size)[:, None], draw.frames).reshape(-1))
            for name, out in flat.items():
                getattr(group.frames, name).take(rows, 0, out, "clip")
            into.land_cover[:] = group.frames.land_cover
            if into.land_cover_map is not None:
                into.land_cover_map[:] = group.frames.land_cover_map
        days = arrays.dates.astype("datetime64[D]")
        arrays.day_of_year[:] = (days - days.astype("datetime64[Y]")).astype(np.int16) + np.int16(1)
        arrays.orientation[:] = draw.orientation
        arrays.usable[:] = True
        arrays.usable[list(damaged)] = False
        keys = table.keys[draw.samples].tolist()
        digests = [xxhash.xxh3_64_intdigest(key + row.tobytes()) for key, row in zip(keys, arrays.dates, strict=True)]
        return BatchMetadata([key.decode() for key in keys], digests, damaged, self._storage.full_cache)

    def read_group(self, draws: Sequence[Draw]) -> EchoGroup:
        """Read the frames of draws of the same samples, each frame once. Raises what storage raises that cannot be reached."""
        source, samples = draws[0].source, draws[0].samples
        table = self._tables[source]
        drawn = np.concatenate([draw.frames for draw in draws], axis=1)
        ids = np.unique(_frame_ids(np.arange(len(samples))[:, None], drawn))
        rows, frames = np.divmod(ids, _MANY_FRAMES)
        layout = table.map_layout
        into = Frames(
            self._pool.empty(table.dtype, (len(ids), *table.frame_shape)),
            self._pool.empty(np.dtype(bool), (len(ids), *table.frame_shape[1:])),
            np.empty(len(ids), DATES_DTYPE),
            np.empty((len(samples), table.codes), LAND_COVER_DTYPE),
            None if layout is None else np.empty((len(samples), *layout.shape), layout.dtype),
        )
        damaged = self._readers[source].read(samples, np.bincount(rows, minlength=len(samples)), frames, into)
        return EchoGroup(into, ids, damaged)

    def close(self) -> None:
        """Close all shards. The reader stays usable."""
        self._storage.close()


def _frame_ids(rows: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """One number for each pair of a sample's place in a batch and one of its frames, in the order of both."""
    return rows * _MANY_FRAMES + frames


@dataclass(frozen=True)
class Frames:
    """F frames of B samples, one sample after the other, in memory that `SampleReader.read` fills.

    Attributes:
        pixels: (F, C, H, W), the sensor's dtype.
        valid: (F, H, W) bool.
        dates: (F,) int32, days since 1970-01-01.
        land_cover: (B, codes) int64.
        land_cover_map: (B, ...) as `MapLayout` says, or None for samples without a map.
    """

    pixels: np.ndarray
    valid: np.ndarray
    dates: np.ndarray
    land_cover: np.ndarray
    land_cover_map: np.ndarray | None

    def part(self, sample: int, rows: slice) -> Frames:
        """One sample, whose frames are `rows`."""
        alone = slice(sample, sample + 1)
        of_map = None if self.land_cover_map is None else self.land_cover_map[alone]
        return Frames(self.pixels[rows], self.valid[rows], self.dates[rows], self.land_cover[alone], of_map)

    def clear(self, not_mapped: int) -> None:
        """Set everything to zero, and the map to `not_mapped`."""
        for array in (self.pixels, self.valid, self.dates, self.land_cover):
            array[:] = 0
        if self.land_cover_map is not None:
            self.land_cover_map[:] = not_mapped


class SampleReader:
    """Reads frames of the samples of one source. Threads may share it."""

    def __init__(self, table: SampleTable, storage: Storage, pool: BufferPool, check: bool) -> None:
        """`check`: compare everything that is read with its stored checksums."""
        self._table, self._storage, self._pool, self._check = table, storage, pool, check
        bands, height, width = table.frame_shape
        self._frame_bytes = (bands * height * width * table.dtype.itemsize, height * width)  # of PIXELS and VALID
        self._whole = self._frame_bytes[PIXELS] <= _SMALL_FRAME_BYTES
        self._dtypes_and_shapes = {
            PIXELS: (table.dtype, table.frame_shape),
            DATES: (DATES_DTYPE, ()),
            LAND_COVER: (LAND_COVER_DTYPE, ()),
            CHECKSUMS: (CHECKSUMS_DTYPE, ()),
        }
        self._lengths = {LAND_COVER: table.codes}  # of members whose length is not the number of frames
        self._not_mapped = 0
        if table.map_layout is not None:
            first, *others = table.map_layout.shape
            self._dtypes_and_shapes[LAND_COVER_MAP] = (table.map_layout.dtype, tuple(others))
            self._lengths[LAND_COVER_MAP] = first
            self._not_mapped = table.map_layout.nothing
        # Few headers of a corpus differ (one for each number of frames), so each is parsed once.
        self._headers: dict[int, dict[bytes, tuple[np.dtype, tuple[int, ...]] | None]] = {
            member: {} for member in self._dtypes_and_shapes
        }

    def read(
        self, samples: np.ndarray, counts: np.ndarray, frames: np.ndarray, into: Frames, again: bool = False
    ) -> dict[int, str]:
        """Read frames (F,) of samples (B,), one sample after the other; `counts` (B,): number of frames of each.

        Returns the reason for each damaged sample, by its place in `samples`; its numbers are zeros. With `again` no cache is
        used.
        """
        table = self._table
        rows = np.repeat(np.arange(len(samples)), counts)  # the sample of each frame
        stops = np.cumsum(counts)
        parts = list(map(slice, (stops - counts).tolist(), stops.tolist()))  # the frames of each sample
        layout = SampleLayout(table, samples, self._frame_bytes, self._whole)
        memory, _ = self._pool.bytes(layout.nbytes)
        small = layout.small_reads(memory)
        large: list[list[Read]] = [[] for _ in small] if self._whole else self._frame_reads(layout, rows, frames, into)
        shards = [str(table.shards[number]) for number in table.shard[samples].tolist()]
        keys = table.keys[samples].tolist()
        begins, ends = layout.begin.tolist(), layout.end.tolist()
        opened = self._storage.open(list(map(Wanted, shards, begins, ends, map(add, small, large))), again)

        damaged = _read_small(opened, small)
        for i, wrong in self._wrong_headers(layout, memory).items():
            damaged.setdefault(i, f"{shards[i]}: {keys[i].decode()}.{wrong} as the index says; run data_prep/verify.py")
        written = self._take_small(layout, memory, rows, frames, into)
        if self._whole:
            for i, part in enumerate(parts):
                layout.take_frames(memory, PIXELS, i, frames[part], into.pixels[part])
                layout.take_frames(memory, VALID, i, frames[part], into.valid[part])
            large = [[(_NOTHING, 0, part.start, part.stop)] for part in parts]
        reading, maps = _FrameReading(into, written, self._whole), into.land_cover_map
        for i in range(len(samples)):
            if i not in damaged:
                seed = checksum_seed(keys[i], into.land_cover[i], None if maps is None else maps[i]) if self._check else 0
                reason = reading.damage(opened[i], large[i], shards[i], keys[i], seed)
                if reason is not None:
                    damaged[i] = reason
        for i in list(damaged):
            alone = into.part(i, parts[i])
            alone.clear(self._not_mapped)
            if is_url(shards[i]) and not again:  # the bytes may have been damaged in transit or in the cache
                del damaged[i]
                for reason in self.read(samples[[i]], counts[[i]], frames[parts[i]], alone, again=True).values():
                    damaged[i] = reason
        return damaged

    def _frame_reads(self, layout: SampleLayout, rows: np.ndarray, frames: np.ndarray, into: Frames) -> list[list[Read]]:
        """Reads of each sample's frames into `into`: neighbouring frames lie side by side in the shard and in memory."""
        first = np.flatnonzero((np.diff(frames, prepend=-2) != 1) | (np.diff(rows, prepend=-1) != 0))
        last = np.append(first[1:], len(frames))
        reads: list[list[Read]] = []
        for member, content in ((VALID, into.valid), (PIXELS, into.pixels)):  # a frame is complete with its pixels
            size, memory = self._frame_bytes[member], _bytes_of(content)
            offsets = layout.data[rows[first], member] + frames[first] * size
            done = (first, last) if member == PIXELS else (first, first)
            runs = (values.tolist() for values in (first * size, last * size, offsets, *done))
            reads.append([(memory[a:b], offset, c, d) for a, b, offset, c, d in zip(*runs, strict=True)])
        ends = np.cumsum(np.bincount(rows[first], minlength=len(layout.lengths))).tolist()
        valid, pixels = reads
        return [valid[begin:end] + pixels[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    def _take_small(
        self, layout: SampleLayout, memory: np.ndarray, rows: np.ndarray, frames: np.ndarray, into: Frames
    ) -> np.ndarray | None:
        """Copy dates, land cover and maps to `into`; returns the frames' checksums, uint64 (F,), when they are to be compared."""
        layout.take(memory, DATES, rows, frames, into.dates)
        layout.take(memory, LAND_COVER, np.arange(len(into.land_cover))[:, None], np.arange(self._table.codes), into.land_cover)
        if into.land_cover_map is not None:
            layout.take_whole(memory, LAND_COVER_MAP, into.land_cover_map)
        return layout.take(memory, CHECKSUMS, rows, frames, np.empty(len(frames), CHECKSUMS_DTYPE)) if self._check else None

    def _wrong_headers(self, layout: SampleLayout, memory: np.ndarray) -> dict[int, str]:
        """By sample, the member whose header does not fit the index."""
        wrong: dict[int, str] = {}
        for member, known in self._headers.items():
            dtype, frame_shape = self._dtypes_and_shapes[member]
            for i, header in enumerate(layout.headers(memory, member)):
                if header not in known:
                    known[header] = _parse_header(header)
                length = self._lengths.get(member, layout.lengths[i])
                if known[header] != (dtype, (length, *frame_shape)):
                    wrong[i] = f"{MEMBERS[member]} is not {dtype}{(length, *frame_shape)}"
        return wrong


def _read_small(opened: list[SampleBytes], reads: list[list[Read]]) -> dict[int, str]:
    """Do the reads of the small members of each sample; returns the reason for each damaged sample."""
    damaged: dict[int, str] = {}
    for i, sample in enumerate(opened):
        try:
            for buffer, offset, _, _ in reads[i]:
                sample.read_into(buffer, offset)
        except DamagedSampleError as error:
            damaged[i] = str(error)
    return damaged


class _FrameReading:
    """Reads frames and compares them with their stored checksums, uint64 (F,), unless those are None."""

    def __init__(self, into: Frames, written: np.ndarray | None, complete: bool) -> None:
        """`complete`: all frames are in memory already."""
        self._dates, self._written = into.dates, None if written is None else written.tolist()
        if self._written is not None:
            # Small frames (the complete ones) are copied in less time than views of them are made.
            parts = _copies if complete else _views
            self._days, self._pixels, self._valid = _copies(into.dates), parts(into.pixels), parts(into.valid)

    def damage(self, sample: SampleBytes, reads: list[Read], shard: str, key: bytes, seed: int) -> str | None:
        """Read the frames of a sample; returns what is wrong with it, or None. `seed`: of the sample's checksums."""
        try:
            wrong = self._wrong_frames(sample, reads, seed)
        except DamagedSampleError as error:
            return str(error)
        if not wrong:
            return None
        day = self._dates[wrong[0]].astype("datetime64[D]")
        count = sum(last - first for _, _, first, last in reads)
        return (
            f"{shard}: {len(wrong)} of {count} frames read of {key.decode()} are not as they were written, first that of {day}; "
            "run data_prep/verify.py"
        )

    def _wrong_frames(self, sample: SampleBytes, reads: list[Read], seed: int) -> list[int]:
        """Read the frames of a sample, and compare each as soon as it is complete. Returns those that are wrong."""
        # With about 24 reads and 16 frames per sample, calls of `SampleBytes.read_into` and of a function for the checksum would
        # take as long as the work itself, so both are written out here.
        wrong: list[int] = []
        file, read_into, preadv, written = sample.file, sample.read_into, os.preadv, self._written
        if written is not None:
            days, pixels, valid = self._days, self._pixels, self._valid
        for buffer, offset, first, last in reads:
            if buffer:
                try:
                    done = 0 if file is None else preadv(file, (buffer,), offset)
                except OSError:
                    done = 0
                if done < len(buffer):
                    read_into(buffer, offset)  # which tries again, or names the damage
            if written is not None:
                for frame in range(first, last):
                    if checksum(valid[frame], checksum(pixels[frame], checksum(days[frame], seed))) != written[frame]:
                        wrong.append(frame)
        return wrong


def _copies(array: np.ndarray) -> list[bytes]:
    """The bytes of each frame of (F, ...)."""
    frames: list[bytes] = array.reshape(-1).view(f"V{array[0].nbytes}").tolist()
    return frames


def _views(array: np.ndarray) -> list[memoryview]:
    """A view of the bytes of each frame of (F, ...)."""
    data, size = _bytes_of(array), array[0].nbytes
    return [data[start : start + size] for start in range(0, len(data), size)]


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _parse_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Dtype and shape from the header of a .npy file in C order; None for anything else."""
    file = BytesIO(header)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return None
    return None if fortran_order or file.tell() < len(header) else (dtype, shape)
