"""The drawn frames of samples, read straight into the memory of a batch and tested while the processor's cache still holds them.

What is small in a sample (checksums, dates, land cover, the header of the pixels) lies side by side in its shard: it is read at
once, of all samples first. Then come the frames, sample by sample, with one read a run of neighbouring ones. Where frames are so
small that a call takes longer than their bytes do, a sample is read whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from operator import add

import numpy as np

from common.storage import is_url
from data_prep.shards.frame_checksums import checksum, checksum_seed
from pretrain.data.batch_memory import BatchMemory
from pretrain.data.sample_table import CHECKSUMS, DATES, LAND_COVER, MEMBERS, PIXELS, VALID, SampleTable
from pretrain.data.storage import DamagedSampleError, Read, SampleBytes, Storage, Wanted

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
        self._described = {
            PIXELS: (table.dtype, table.frame_shape),
            DATES: (_DAYS, ()),
            LAND_COVER: (_COUNTS, ()),
            CHECKSUMS: (_SUMS, ()),
        }
        # What headers say. Few differ in a corpus (one for each number of frames), so each is parsed once.
        self._headers: dict[int, dict[bytes, tuple[np.dtype, tuple[int, ...]] | None]] = {
            member: {} for member in self._described
        }

    def read(
        self, samples: np.ndarray, counts: np.ndarray, frames: np.ndarray, into: Frames, again: bool = False
    ) -> dict[int, str]:
        """Read frames (F,) of samples (B,), of which each has as many as `counts` (B,) says, one sample after the other.

        Returns why samples are damaged, by their place in `samples`; theirs is zeros. With `again` no cache is trusted.
        """
        table = self._table
        rows = np.repeat(np.arange(len(samples)), counts)  # the sample of each frame
        layout = _Layout(table, samples, self._frame_bytes, self._whole)
        room, _ = self._memory.bytes(layout.room_bytes)
        small = layout.small_reads(room)
        large: list[list[Read]] = [[] for _ in small] if self._whole else self._frame_reads(layout, rows, frames, into)
        shards = [str(table.shards[number]) for number in table.shard[samples].tolist()]
        keys = table.keys[samples].tolist()
        begins, ends = layout.begin.tolist(), layout.end.tolist()
        opened = self._storage.open(list(map(Wanted, shards, begins, ends, map(add, small, large))), again)
        damaged: dict[int, str] = {}
        for i, sample in enumerate(opened):
            try:
                for buffer, offset, _, _ in small[i]:
                    sample.read_into(buffer, offset)
            except DamagedSampleError as error:
                damaged[i] = str(error)
                continue
        for i, wrong in self._wrong_headers(layout, room).items():
            damaged.setdefault(i, f"{shards[i]}: {keys[i].decode()}.{wrong} as the index says; run data_prep/verify.py")
        written = layout.take(room, CHECKSUMS, rows, frames, np.empty(len(frames), _SUMS)) if self._check else None
        layout.take(room, DATES, rows, frames, into.dates)
        layout.take(room, LAND_COVER, np.arange(len(samples))[:, None], np.arange(table.codes), into.land_cover)
        stops = np.cumsum(counts)
        drawn = list(map(slice, (stops - counts).tolist(), stops.tolist()))
        if self._whole:
            large = [[(_NOTHING, 0, part.start, part.stop)] for part in drawn]
            for i, part in enumerate(drawn):
                layout.take_frames(room, PIXELS, i, frames[part], into.pixels[part])
                layout.take_frames(room, VALID, i, frames[part], into.valid[part])
        read = _FrameReading(into, written, self._whole)
        for i, part in enumerate(drawn):
            if i not in damaged:
                try:
                    wrong_frames = read(opened[i], large[i], keys[i], into.land_cover[i])
                except DamagedSampleError as error:
                    damaged[i] = str(error)
                else:
                    if wrong_frames:
                        damaged[i] = (
                            f"{shards[i]}: {len(wrong_frames)} of {part.stop - part.start} frames read of {keys[i].decode()} are "
                            f"not as they were written, first that of {into.dates[wrong_frames[0]].astype('datetime64[D]')}; "
                            "run data_prep/verify.py"
                        )
            if i in damaged:
                alone = into.part(i, part)
                alone.clear()
                if is_url(shards[i]) and not again:  # it may have been damaged on the way here, or in the cache
                    del damaged[i]
                    for why in self.read(samples[[i]], counts[[i]], frames[part], alone, again=True).values():
                        damaged[i] = why
        return damaged

    def _frame_reads(self, layout: _Layout, rows: np.ndarray, frames: np.ndarray, into: Frames) -> list[list[Read]]:
        """Reads of each sample's frames to their places: neighbouring ones lie side by side in the shard and in memory."""
        first = np.flatnonzero((np.diff(frames, prepend=-2) != 1) | (np.diff(rows, prepend=-1) != 0))
        last = np.append(first[1:], len(frames))
        reads: list[list[Read]] = []
        for member, content in ((VALID, into.valid), (PIXELS, into.pixels)):  # with its pixels a frame is complete
            size, memory = self._frame_bytes[member], _bytes_of(content)
            offsets = layout.data[rows[first], member] + frames[first] * size
            done = (first, last) if member == PIXELS else (first, first)
            runs = (values.tolist() for values in (first * size, last * size, offsets, *done))
            reads.append([(memory[a:b], offset, c, d) for a, b, offset, c, d in zip(*runs, strict=True)])
        ends = np.cumsum(np.bincount(rows[first], minlength=len(layout.lengths))).tolist()
        valid, pixels = reads
        return [valid[begin:end] + pixels[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    def _wrong_headers(self, layout: _Layout, room: np.ndarray) -> dict[int, str]:
        """By sample, which member's header is not that of the array that the index says."""
        wrong: dict[int, str] = {}
        for member, known in self._headers.items():
            dtype, frame_shape = self._described[member]
            for i, header in enumerate(layout.headers(room, member)):
                if header not in known:
                    known[header] = _parse_header(header)
                length = self._table.codes if member == LAND_COVER else layout.lengths[i]
                if known[header] != (dtype, (length, *frame_shape)):
                    wrong[i] = f"{MEMBERS[member]} is not {dtype}{(length, *frame_shape)}"
        return wrong


class _Layout:
    """Where the members of B samples lie in their shards, and in memory those that are read at once: in the "room".

    A block of the room is what lies from a sample's first small member to the data of its pixels (or its end, when it is read
    whole), another one what small members lie behind the pixels: none in shards written by data_prep.

    Attributes:
        lengths: B numbers of frames of the year.
        begin, end: (B,) bytes of the shard between which the members lie.
        data: (B, members) offsets of the arrays in the shard, behind their headers.
        room_bytes: size of the room.
    """

    def __init__(self, table: SampleTable, samples: np.ndarray, frame_bytes: tuple[int, int], whole: bool) -> None:
        self._offsets, lengths = table.offsets[samples], table.frames[samples].astype(np.int64)
        self.lengths = lengths.tolist()
        ends = self._offsets + table.sizes[samples]
        sizes = lengths[:, None] * np.array([*frame_bytes, _DAYS.itemsize, 0, _SUMS.itemsize])
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
        rounded = (
            -(-(self._stops - self._starts).reshape(-1) // 8) * 8
        )  # arrays lie at multiples of 8 bytes, as they do in the shard
        self._room = (np.cumsum(rounded) - rounded).reshape(-1, 2)
        self.room_bytes = int(rounded.sum())
        block = behind.astype(np.int64)
        self._place = self.data - np.take_along_axis(self._starts, block, 1) + np.take_along_axis(self._room, block, 1)
        self._places, self._headers = self._place.tolist(), self.data - self._offsets

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

    def headers(self, room: np.ndarray, member: int) -> list[bytes]:
        """What lies before a member's data, of each sample."""
        lengths, places = self._headers[:, member], self._place[:, member]
        if (lengths != lengths[0]).any():
            return [room[place - length : place].tobytes() for place, length in zip(places, lengths, strict=True)]
        found: list[bytes] = room[places[:, None] + np.arange(-lengths[0], 0)].view(f"V{lengths[0]}")[:, 0].tolist()
        return found

    def take(self, room: np.ndarray, member: int, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> np.ndarray:
        """`items` of a member of samples `rows`: fills `out`, of the shape that both broadcast to, and returns it."""
        places = self._place[:, member] // out.itemsize
        return room.view(out.dtype).take(places[rows] + items, None, out, "clip")

    def take_frames(self, room: np.ndarray, member: int, sample: int, frames: np.ndarray, out: np.ndarray) -> None:
        """Frames of a sample that was read whole: fills `out` (frames, ...)."""
        shape = (self.lengths[sample], *out.shape[1:])
        np.ndarray(shape, out.dtype, room.data, self._places[sample][member]).take(frames, 0, out, "clip")


class _FrameReading:
    """Reads frames and compares them with the checksums that were written for them, uint64 (F,), unless those are None."""

    def __init__(self, into: Frames, written: np.ndarray | None, complete: bool) -> None:
        """`complete` says that all frames are there already."""
        self._written = None if written is None else written.tolist()
        if self._written is not None:
            parts = _copies if complete else _places  # small frames, for such are complete, are copied in less time than named
            self._days, self._pixels, self._valid = _copies(into.dates), parts(into.pixels), parts(into.valid)

    def __call__(self, sample: SampleBytes, reads: list[Read], key: bytes, land_cover: np.ndarray) -> list[int]:
        """Read the frames of a sample, and compare each as soon as it is complete; returns those that are wrong."""
        # Calls are written out where a function of its own, as `SampleBytes.read_into` and `frame_checksum` are, would take as
        # long as what it does: some 24 reads and 16 frames a sample.
        wrong: list[int] = []
        file, read_into, preadv, written = sample.file, sample.read_into, os.preadv, self._written
        if written is not None:
            days, pixels, valid, seed = self._days, self._pixels, self._valid, checksum_seed(key, land_cover)
        for buffer, offset, first, last in reads:
            if buffer:
                try:
                    done = 0 if file is None else preadv(file, (buffer,), offset)
                except OSError:
                    done = 0
                if done < len(buffer):
                    read_into(buffer, offset)  # which knows what to do
            if written is not None:
                for frame in range(first, last):
                    if checksum(valid[frame], checksum(pixels[frame], checksum(days[frame], seed))) != written[frame]:
                        wrong.append(frame)
        return wrong


def _copies(array: np.ndarray) -> list[bytes]:
    """The bytes of each frame of (F, ...)."""
    frames: list[bytes] = array.reshape(-1).view(f"V{array[0].nbytes}").tolist()
    return frames


def _places(array: np.ndarray) -> list[memoryview]:
    """Where the bytes of each frame of (F, ...) are, or will be."""
    data, size = _bytes_of(array), array[0].nbytes
    return [data[start : start + size] for start in range(0, len(data), size)]


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _parse_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Dtype and shape from the header of a .npy file in C order; None when it is none."""
    file = BytesIO(header)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return None
    return None if fortran_order or file.tell() < len(header) else (dtype, shape)
