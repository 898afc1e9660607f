"""The drawn frames of samples, read straight into the memory of a batch and tested while the processor's cache still holds them.

What is small in a sample (checksums, dates, land cover, the header of the pixels) lies side by side in its shard: it is read at
once, of all samples first. Then come the frames, sample by sample, with one read a run of neighbouring ones. Where frames are so
small that a call takes longer than their bytes do, a sample is read whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from operator import add

import numpy as np

from data_prep.readers.storage import is_url
from data_prep.shard_file import checksum_seed, frame_checksum
from pretrain.batch import BatchMemory
from pretrain.indexed_shards import CHECKSUMS, DATES, LAND_COVER, MEMBERS, PIXELS, VALID, SampleTable
from pretrain.shard_storage import DamagedSampleError, Read, SampleBytes, Storage, Wanted

# A call of preadv takes 0.7 us, in which 10 kB come from the page cache; some three frames lie between two runs of drawn ones.
_SMALL_FRAME_BYTES = 3_000
_NOTHING = memoryview(b"")
_DAYS, _COUNTS, _SUMS = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.uint64)


@dataclass(frozen=True)
class Frames:
    """F frames of B samples, one sample after the other, in memory that `SampleReader.read` fills.

    Attributes:
        pixels: (F, C, H, W), the sensor's dtype.
        valid: (F, H, W) bool.
        dates: (F,) int32, days since 1970-01-01.
        land_cover: (B, codes) int64.
    """

    pixels: np.ndarray
    valid: np.ndarray
    dates: np.ndarray
    land_cover: np.ndarray

    def part(self, sample: int, rows: slice) -> Frames:
        """One sample, whose frames are `rows`."""
        return Frames(self.pixels[rows], self.valid[rows], self.dates[rows], self.land_cover[sample : sample + 1])

    def clear(self) -> None:
        """All zeros."""
        for array in (self.pixels, self.valid, self.dates, self.land_cover):
            array[:] = 0


class SampleReader:
    """Reads frames of the samples of one source. Threads may share it."""

    def __init__(self, table: SampleTable, storage: Storage, memory: BatchMemory, check: bool) -> None:
        """`check` compares all that is read with the checksums beside it."""
        self._table, self._storage, self._memory, self._check = table, storage, memory, check
        bands, height, width = table.frame_shape
        self._frame_bytes = (bands * height * width * table.dtype.itemsize, height * width)  # of PIXELS and VALID
        self._whole = self._frame_bytes[PIXELS] <= _SMALL_FRAME_BYTES

    def read(
        self, samples: np.ndarray, counts: np.ndarray, frames: np.ndarray, into: Frames, again: bool = False
    ) -> dict[int, str]:
        """Read frames (F,) of samples (B,), of which each has as many as `counts` (B,) says, one sample after the other.

        Returns why samples are damaged, by their place in `samples`; theirs is zeros. With `again` no cache is trusted.
        """
        table = self._table
        rows = np.repeat(np.arange(len(samples)), counts)  # the sample of each frame
        layout = _Layout(table, samples, self._frame_bytes, self._whole)
        _, room = self._memory.empty(np.dtype(np.uint8), (layout.room_bytes,))
        small = layout.small_reads(room)
        large: list[list[Read]] = [[] for _ in small] if self._whole else self._frame_reads(layout, rows, frames, into)
        shards = [str(table.shards[number]) for number in table.shard[samples].tolist()]
        keys = table.keys[samples].tolist()
        begins, ends = layout.begin.tolist(), layout.end.tolist()
        opened = self._storage.open(list(map(Wanted, shards, begins, ends, map(add, small, large))), again)
        damaged: dict[int, str] = {}
        for i, sample in enumerate(opened):
            try:
                for buffer, offset, *_ in small[i]:
                    sample.read_into(buffer, offset)
                self._expect_headers(layout, room, i)
            except DamagedSampleError as error:
                damaged[i] = str(error).format(shard=shards[i], key=keys[i].decode())
        written = layout.take(room, CHECKSUMS, rows, frames, np.empty(len(frames), _SUMS))
        layout.take(room, DATES, rows, frames, into.dates)
        layout.take(room, LAND_COVER, np.arange(len(samples))[:, None], np.arange(table.codes), into.land_cover)
        compare = _Comparison(into, written) if self._check else None
        stops = np.cumsum(counts)
        for i, (start, stop) in enumerate(zip((stops - counts).tolist(), stops.tolist(), strict=True)):
            if i not in damaged:
                try:
                    if self._whole:
                        layout.take_frames(room, PIXELS, i, frames[start:stop], into.pixels[start:stop])
                        layout.take_frames(room, VALID, i, frames[start:stop], into.valid[start:stop])
                    if compare is None:
                        for buffer, offset, *_ in large[i]:
                            opened[i].read_into(buffer, offset)
                    else:
                        compare(keys[i], into.land_cover[i], opened[i], large[i] or [(_NOTHING, 0, start, stop)])
                except DamagedSampleError as error:
                    damaged[i] = str(error).format(shard=shards[i], key=keys[i].decode())
            if i in damaged:
                part = into.part(i, slice(start, stop))
                part.clear()
                if is_url(shards[i]) and not again:  # it may have been damaged on the way here, or in the cache
                    del damaged[i]
                    for why in self.read(samples[[i]], counts[[i]], frames[start:stop], part, again=True).values():
                        damaged[i] = why
        return damaged

    def _frame_reads(self, layout: _Layout, rows: np.ndarray, frames: np.ndarray, into: Frames) -> list[list[Read]]:
        """Reads of each sample's frames to their places: neighbouring ones lie side by side in the shard and in memory."""
        reads: list[list[Read]] = [[] for _ in layout.lengths]
        first = np.flatnonzero((np.diff(frames, prepend=-2) != 1) | (np.diff(rows, prepend=-1) != 0))
        last = np.append(first[1:], len(frames))
        for member, content in ((VALID, into.valid), (PIXELS, into.pixels)):  # with its pixels a frame is complete
            size, memory = self._frame_bytes[member], _bytes_of(content)
            offsets = layout.data[rows[first], member] + frames[first] * size
            runs = (rows[first].tolist(), first.tolist(), last.tolist(), offsets.tolist())
            for row, start, stop, offset in zip(*runs, strict=True):
                done = (start, stop) if member == PIXELS else (0, 0)
                reads[row].append((memory[start * size : stop * size], offset, *done))
        return reads

    def _expect_headers(self, layout: _Layout, room: np.ndarray, sample: int) -> None:
        """Raises DamagedSampleError unless the headers of the members are those of arrays as the index says."""
        length = int(layout.lengths[sample])
        for member, dtype, shape in (
            (PIXELS, self._table.dtype, (length, *self._table.frame_shape)),
            (DATES, _DAYS, (length,)),
            (LAND_COVER, _COUNTS, (self._table.codes,)),
            (CHECKSUMS, _SUMS, (length,)),
        ):
            if not _is_header(layout.header(room, member, sample), dtype, shape):
                raise DamagedSampleError(
                    f"{{shard}}: {{key}}.{MEMBERS[member]} is not {dtype}{shape} as the index says; run data_prep/verify.py"
                )


class _Layout:
    """Where the members of B samples lie in their shards, and in memory those that are read at once: in the "room".

    A block of the room is what lies from a sample's first small member to the data of its pixels (or its end, when it is read
    whole), another one what small members lie behind the pixels: none in shards written by data_prep.

    Attributes:
        lengths: (B,) frames of the year.
        begin, end: (B,) bytes of the shard between which the members lie.
        data: (B, members) offsets of the arrays in the shard, behind their headers.
        room_bytes: size of the room.
    """

    def __init__(self, table: SampleTable, samples: np.ndarray, frame_bytes: tuple[int, int], whole: bool) -> None:
        self._offsets, self.lengths = table.offsets[samples], table.frames[samples].astype(np.int64)
        ends = self._offsets + table.sizes[samples]
        sizes = self.lengths[:, None] * np.array([*frame_bytes, _DAYS.itemsize, 0, _SUMS.itemsize])
        sizes[:, LAND_COVER] = table.codes * _COUNTS.itemsize
        self.data = ends - sizes
        self.begin, self.end = self._offsets.min(axis=1), ends.max(axis=1)
        behind = self._offsets > self._offsets[:, [PIXELS]]
        if whole:
            behind[:] = False
            self._starts, self._stops = np.stack([self.begin] * 2, axis=1), np.stack([self.end, self.begin], axis=1)
        else:
            behind[:, VALID] = False
            before = np.where(behind, self._offsets[:, [PIXELS]], self._offsets)
            before[:, VALID] = self._offsets[:, PIXELS]
            after = np.where(behind, self._offsets, np.iinfo(np.int64).max).min(axis=1)
            self._starts = np.stack([before.min(axis=1), after], axis=1)
            self._stops = np.stack([self.data[:, PIXELS], np.where(behind, ends, after[:, None]).max(axis=1)], axis=1)
        lengths = self._stops - self._starts
        rounded = -(-lengths.reshape(-1) // 8) * 8  # arrays lie at multiples of 8 bytes, as they do in the shard
        self._room = (np.cumsum(rounded) - rounded).reshape(-1, 2)
        self.room_bytes = int(rounded.sum())
        block = behind.astype(np.int64)
        self._place = self.data - np.take_along_axis(self._starts, block, 1) + np.take_along_axis(self._room, block, 1)

    def small_reads(self, room: np.ndarray) -> list[list[Read]]:
        """Reads of each sample's blocks."""
        memory = room.data
        blocks = zip(self._room.tolist(), self._starts.tolist(), self._stops.tolist(), strict=True)
        return [
            [
                (memory[place : place + stop - start], start, 0, 0)
                for place, start, stop in zip(*of_sample, strict=True)
                if stop > start
            ]
            for of_sample in blocks
        ]

    def header(self, room: np.ndarray, member: int, sample: int) -> bytes:
        """What lies before a member's data."""
        place = int(self._place[sample, member])
        return room[place - int(self.data[sample, member] - self._offsets[sample, member]) : place].tobytes()

    def take(self, room: np.ndarray, member: int, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> np.ndarray:
        """`items` of a member of samples `rows`: fills `out`, of the shape that both broadcast to, and returns it."""
        places = self._place[:, member] // out.itemsize
        return room.view(out.dtype).take(places[rows] + items, None, out, "clip")

    def take_frames(self, room: np.ndarray, member: int, sample: int, frames: np.ndarray, out: np.ndarray) -> None:
        """Frames of a sample that was read whole: fills `out` (frames, ...)."""
        shape = (int(self.lengths[sample]), *out.shape[1:])
        np.ndarray(shape, out.dtype, room.data, int(self._place[sample, member])).take(frames, 0, out, "clip")


class _Comparison:
    """Compares frames that are read with the checksums that were written for them, uint64 (F,)."""

    def __init__(self, into: Frames, written: np.ndarray) -> None:
        self._dates, self._written = into.dates, written.tolist()
        # Of each frame the bytes of its day, its pixels and its validity.
        self._days, self._pixels, self._valid = (
            [data[start : start + size] for start in range(0, len(data), size)]
            for data, size in ((_bytes_of(array), array[0].nbytes) for array in (into.dates, into.pixels, into.valid))
        )

    def __call__(self, key: bytes, land_cover: np.ndarray, sample: SampleBytes, reads: list[Read]) -> None:
        """Read the frames of a sample, and compare each when it is complete. Raises DamagedSampleError."""
        days, pixels, valid, written = self._days, self._pixels, self._valid, self._written
        seed = checksum_seed(key, land_cover)
        wrong = []
        for buffer, offset, first, last in reads:
            if buffer:
                sample.read_into(buffer, offset)
            for frame in range(first, last):
                if frame_checksum(seed, days[frame], pixels[frame], valid[frame]) != written[frame]:
                    wrong.append(frame)
        if wrong:
            count = sum(last - first for *_, first, last in reads)
            raise DamagedSampleError(
                f"{{shard}}: {len(wrong)} of {count} frames read of {{key}} are not as they were written, first that of "
                f"{self._dates[wrong[0]].astype('datetime64[D]')}; run data_prep/verify.py"
            )


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@lru_cache(maxsize=4096)
def _is_header(header: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether `header` is that of a .npy file of this dtype and shape in C order.

    Few headers differ in a corpus (one for each number of frames), so each is parsed once.
    """
    file = BytesIO(header)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return False
        described = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return False
    return described == (shape, False, dtype) and file.tell() == len(header)
