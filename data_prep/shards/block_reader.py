"""Blocks: the parts of a series that are read at once, so that no stored chunk is read twice for the samples of a shard."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import is_infrastructure_error
from data_prep.archive.sensor import Sensor
from data_prep.plan.plan import PlannedSample
from data_prep.readers.base import Series, SeriesReader

# The most that the blocks of a reader hold in memory at a time; a worker's peak is about this and half as much again.
BLOCK_BYTES = 256_000_000

Key = tuple[int, int, int]  # a block: its first row and column, and the year it is restricted to (0: all)


def block_shape(chunk: tuple[int, int], size: int) -> tuple[int, int]:
    """(rows, columns) of the smallest blocks of whole chunks that are not smaller than a window of `size` x `size` pixels.

    Blocks begin at row 0 and column 0. Windows on a grid of `size` lie within one block each where chunks nest in windows or
    windows in chunks; else, and at given sites, a window may reach into the blocks to its right and below.
    """
    rows, cols = (extent * -(-size // extent) for extent in chunk)
    return rows, cols


def _pieces(start: int, size: int, block: int, part: int) -> Iterator[tuple[int, int, int]]:
    """The pixels [start, start + size) of an axis by the parts of blocks they lie in: (first pixel of the part, from, to)."""
    at = start
    while at < start + size:
        block_start = at // block * block
        part_start = block_start + (at - block_start) // part * part
        stop = min(part_start + part, block_start + block, start + size)
        yield part_start, at, stop
        at = stop


@dataclass
class _Extent:
    """What samples need of one block: pixels [top, bottom) x [left, right) at the dates [start, stop)."""

    top: int
    bottom: int
    left: int
    right: int
    start: int
    stop: int

    def num_bytes(self, sensor: Sensor) -> int:
        """Of pixels, quality and valid."""
        pixel_bytes = len(sensor.bands) * np.dtype(sensor.dtype).itemsize + 2
        return (self.bottom - self.top) * (self.right - self.left) * (self.stop - self.start) * pixel_bytes


class BlockReader:
    """Reads the windows of `samples`, all of one series, each block once, and keeps a block until its last window is cut.

    Ask for the samples in their planned order, block by block: then no more than BLOCK_BYTES are held and each chunk is read
    once. Where the part of a block that the samples need is larger than that, blocks are cut at years, then at rows, then at
    columns, and chunks are read as often as they are cut; so they are where windows straddle more blocks than memory holds.
    """

    def __init__(self, reader: SeriesReader, samples: Sequence[PlannedSample]) -> None:
        self._reader = reader
        size = samples[0].size
        self._block_rows, self._block_cols = block_shape(reader.chunk, size)
        self._rows, self._cols, self._is_by_year = self._block_rows, self._block_cols, False
        self._extents = self._needed(samples)
        while max(extent.num_bytes(reader.sensor) for extent in self._extents.values()) > BLOCK_BYTES:
            if not self._is_by_year:
                self._is_by_year = True
            elif self._rows > size:
                self._rows = size * -(-self._rows // (2 * size))
            elif self._cols > size:
                self._cols = size * -(-self._cols // (2 * size))
            else:
                break
            self._extents = self._needed(samples)
        self._uses = Counter(key for sample in samples for key, *_ in self._parts(sample))
        self._blocks: OrderedDict[Key, Series | None] = OrderedDict()

    def read(self, sample: PlannedSample) -> Series:
        """The window of one of the samples. Raises what the reader raises for it."""
        keys = [key for key, *_ in self._parts(sample)]
        blocks = [self._block(key) for key in keys]
        times, size = slice(sample.start, sample.stop), sample.size
        if any(block is None for block in blocks):
            series = self._reader.read(sample.row, sample.col, size, size, times)
        else:
            series = self._cut(sample, [(self._extents[k], b) for k, b in zip(keys, blocks, strict=True) if b is not None])
        for key in keys:
            self._uses[key] -= 1
            if not self._uses[key]:
                self._blocks.pop(key, None)
        return series

    def _parts(self, sample: PlannedSample) -> Iterator[tuple[Key, int, int, int, int]]:
        """The blocks that hold a window, from the upper left, and what it needs of each: top, bottom, left, right."""
        for row, top, bottom in _pieces(sample.row, sample.size, self._block_rows, self._rows):
            for col, left, right in _pieces(sample.col, sample.size, self._block_cols, self._cols):
                yield (row, col, sample.year if self._is_by_year else 0), top, bottom, left, right

    def _needed(self, samples: Sequence[PlannedSample]) -> dict[Key, _Extent]:
        """The part of each block that holds all windows in it."""
        extents: dict[Key, _Extent] = {}
        for sample in samples:
            for key, top, bottom, left, right in self._parts(sample):
                of_block = extents.setdefault(key, _Extent(top, bottom, left, right, sample.start, sample.stop))
                of_block.top, of_block.bottom = min(of_block.top, top), max(of_block.bottom, bottom)
                of_block.left, of_block.right = min(of_block.left, left), max(of_block.right, right)
                of_block.start, of_block.stop = min(of_block.start, sample.start), max(of_block.stop, sample.stop)
        return extents

    def _block(self, key: Key) -> Series | None:
        """What is needed of a block; None where it cannot be read as a whole, so that each window is tried by itself."""
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        extent = self._extents[key]
        held = sum(self._extents[other].num_bytes(self._reader.sensor) for other in self._blocks)
        while self._blocks and held + extent.num_bytes(self._reader.sensor) > BLOCK_BYTES:
            oldest, _ = self._blocks.popitem(last=False)
            held -= self._extents[oldest].num_bytes(self._reader.sensor)
        height, width = extent.bottom - extent.top, extent.right - extent.left
        block = None
        try:
            block = self._reader.read(extent.top, extent.left, height, width, slice(extent.start, extent.stop))
        except Exception as error:
            if is_infrastructure_error(error):
                raise
        self._blocks[key] = block
        return block

    def _cut(self, sample: PlannedSample, blocks: Sequence[tuple[_Extent, Series]]) -> Series:
        """The window put together from the blocks that hold it."""
        size, frames = sample.size, sample.stop - sample.start
        parts: list[tuple[slice, slice, Series]] = []
        for extent, block in blocks:
            top, bottom = max(sample.row, extent.top), min(sample.row + size, extent.bottom)
            left, right = max(sample.col, extent.left), min(sample.col + size, extent.right)
            times = slice(sample.start - extent.start, sample.stop - extent.start)
            rows, cols = slice(top - extent.top, bottom - extent.top), slice(left - extent.left, right - extent.left)
            part = Series(
                pixels=block.pixels[times, :, rows, cols],
                quality=block.quality[times, rows, cols],
                valid=block.valid[times, rows, cols],
                dates=block.dates[times],
            )
            parts.append((slice(top - sample.row, bottom - sample.row), slice(left - sample.col, right - sample.col), part))
        first = parts[0][2]
        if len(parts) == 1:
            return first
        pixels = np.empty((frames, first.pixels.shape[1], size, size), first.pixels.dtype)
        quality = np.empty((frames, size, size), first.quality.dtype)
        valid = np.empty((frames, size, size), np.bool_)
        for rows, cols, part in parts:
            pixels[:, :, rows, cols], quality[:, rows, cols], valid[:, rows, cols] = part.pixels, part.quality, part.valid
        return Series(pixels=pixels, quality=quality, valid=valid, dates=first.dates)
