"""Reads a series by chunk groups, so that no stored chunk is read twice for the samples of a sweep.

A chunk group is some whole chunks that are read at once (`data_prep/plan/windows.py: chunk_group_shape`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import is_data_error
from data_prep.archive.sensor import Sensor
from data_prep.plan.chunk_groups import chunk_group_shape
from data_prep.plan.plan import PlannedSample
from data_prep.readers.base import Series, SeriesReader

Key = tuple[int, int, int]  # a chunk group, or a part of it: first row, first column, and year (0: all years)


@dataclass
class ChunkGroup:
    """The part of a chunk group that samples need: pixels [top, bottom) x [left, right) at the dates [start, stop)."""

    top: int
    bottom: int
    left: int
    right: int
    start: int
    stop: int

    def extend(self, other: ChunkGroup) -> None:
        """Grow to the smallest extent that contains both."""
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.left, self.right = min(self.left, other.left), max(self.right, other.right)
        self.start, self.stop = min(self.start, other.start), max(self.stop, other.stop)

    def num_bytes(self, sensor: Sensor) -> int:
        """Return the bytes of pixels, quality and valid."""
        pixel_bytes = len(sensor.bands) * np.dtype(sensor.dtype).itemsize + 2
        return (self.bottom - self.top) * (self.right - self.left) * (self.stop - self.start) * pixel_bytes


class ChunkReader:
    """Reads the windows of `samples`, all of one series; reads each chunk group once and keeps it until its last window is cut.

    Read the samples in their planned order, which goes by chunk groups: then no more than `most_bytes` are held and each chunk
    is read once. The peak memory of a worker is about one and a half times as much. Where the part of a chunk group that the
    samples need is larger than that, chunk groups are divided by years, then by rows, then by columns, and each chunk is read
    once per part. Chunks are also read again where windows reach into more chunk groups than memory holds.
    """

    def __init__(self, reader: SeriesReader, samples: Sequence[PlannedSample], most_bytes: int) -> None:
        self._reader, self._most_bytes = reader, most_bytes
        size = samples[0].size
        self._group_rows, self._group_cols = chunk_group_shape(reader.chunk, size)
        self._part_rows, self._part_cols, self._is_by_year = self._group_rows, self._group_cols, False
        self._groups = self._needed(samples)
        while max(group.num_bytes(reader.sensor) for group in self._groups.values()) > most_bytes:
            if not self._is_by_year:
                self._is_by_year = True
            elif self._part_rows > size:
                self._part_rows = size * -(-self._part_rows // (2 * size))
            elif self._part_cols > size:
                self._part_cols = size * -(-self._part_cols // (2 * size))
            else:
                break
            self._groups = self._needed(samples)
        self._uses = Counter(key for sample in samples for key, _ in self._overlaps(sample))
        self._held: OrderedDict[Key, Series | None] = OrderedDict()

    def read(self, sample: PlannedSample) -> Series:
        """Read the window of one of the samples. Raises what the reader raises for it."""
        keys = [key for key, _ in self._overlaps(sample)]
        read = [self._read_group(key) for key in keys]
        times, size = slice(sample.start, sample.stop), sample.size
        if any(series is None for series in read):
            window = self._reader.read(sample.row, sample.col, size, size, times)
        else:
            window = _cut(
                sample, [(self._groups[key], series) for key, series in zip(keys, read, strict=True) if series is not None]
            )
        for key in keys:
            self._uses[key] -= 1
            if not self._uses[key]:
                self._held.pop(key, None)
        return window

    def _overlaps(self, sample: PlannedSample) -> Iterator[tuple[Key, ChunkGroup]]:
        """Yield the key of each chunk group that a window overlaps, from the upper left, and the part that the window needs."""
        for row, top, bottom in _pieces(sample.row, sample.size, self._group_rows, self._part_rows):
            for col, left, right in _pieces(sample.col, sample.size, self._group_cols, self._part_cols):
                key = (row, col, sample.year if self._is_by_year else 0)
                yield key, ChunkGroup(top, bottom, left, right, sample.start, sample.stop)

    def _needed(self, samples: Sequence[PlannedSample]) -> dict[Key, ChunkGroup]:
        """Return the part of each chunk group that contains all windows in it."""
        groups: dict[Key, ChunkGroup] = {}
        for sample in samples:
            for key, part in self._overlaps(sample):
                groups.setdefault(key, part).extend(part)
        return groups

    def _read_group(self, key: Key) -> Series | None:
        """Read a chunk group; None when it cannot be read as a whole, so that each window is tried on its own."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        group = self._groups[key]
        self._make_room(group.num_bytes(self._reader.sensor))
        height, width = group.bottom - group.top, group.right - group.left
        series = None
        try:
            series = self._reader.read(group.top, group.left, height, width, slice(group.start, group.stop))
        except Exception as error:
            if not is_data_error(error):
                raise
        self._held[key] = series
        return series

    def _make_room(self, num_bytes: int) -> None:
        """Drop the chunk groups that were used longest ago until `num_bytes` more fit."""
        held = sum(self._groups[key].num_bytes(self._reader.sensor) for key in self._held)
        while self._held and held + num_bytes > self._most_bytes:
            oldest, _ = self._held.popitem(last=False)
            held -= self._groups[oldest].num_bytes(self._reader.sensor)


def _pieces(start: int, size: int, group: int, part: int) -> Iterator[tuple[int, int, int]]:
    """Divide the pixels [start, start + size) of an axis by parts of chunk groups; yield (first pixel of the part, from, to)."""
    at = start
    while at < start + size:
        group_start = at // group * group
        part_start = group_start + (at - group_start) // part * part
        stop = min(part_start + part, group_start + group, start + size)
        yield part_start, at, stop
        at = stop


def _cut(sample: PlannedSample, groups: Sequence[tuple[ChunkGroup, Series]]) -> Series:
    """Put the window together from the chunk groups that it overlaps.

    It is a copy, in the order of its axes: checksums, statistics and the tar would each make one of a view.
    """
    size, frames = sample.size, sample.stop - sample.start
    parts: list[tuple[slice, slice, Series]] = []
    for group, series in groups:
        top, bottom = max(sample.row, group.top), min(sample.row + size, group.bottom)
        left, right = max(sample.col, group.left), min(sample.col + size, group.right)
        times = slice(sample.start - group.start, sample.stop - group.start)
        rows, cols = slice(top - group.top, bottom - group.top), slice(left - group.left, right - group.left)
        part = Series(
            pixels=series.pixels[times, :, rows, cols],
            quality=series.quality[times, rows, cols],
            valid=series.valid[times, rows, cols],
            dates=series.dates[times],
        )
        parts.append((slice(top - sample.row, bottom - sample.row), slice(left - sample.col, right - sample.col), part))
    first = parts[0][2]
    if len(parts) == 1:
        pixels, quality, valid = map(np.ascontiguousarray, (first.pixels, first.quality, first.valid))
        return Series(pixels=pixels, quality=quality, valid=valid, dates=first.dates)
    pixels = np.empty((frames, first.pixels.shape[1], size, size), first.pixels.dtype)
    quality = np.empty((frames, size, size), first.quality.dtype)
    valid = np.empty((frames, size, size), np.bool_)
    for rows, cols, part in parts:
        pixels[:, :, rows, cols], quality[:, rows, cols], valid[:, rows, cols] = part.pixels, part.quality, part.valid
    return Series(pixels=pixels, quality=quality, valid=valid, dates=first.dates)
