"""The memory of batches: reused as soon as nothing refers to it, shared with the processes that fill it, divided into arrays."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from pretrain.data.sample_table import SampleTable

_ALIGNMENT = 64  # bytes, a cache line of the processor


@dataclass(frozen=True, eq=False)
class Buffer:
    """A piece of memory, which this process has mapped.

    Attributes:
        pages: the memory.
        file: number of the file that another process maps to share the memory; None for private memory.
    """

    pages: mmap.mmap
    file: int | None

    def __del__(self) -> None:
        if self.file is not None:
            os.close(self.file)


class BufferPool:
    """Buffers, each of which is reused when nothing refers to its array, or to a view of it, any more.

    Fresh memory costs a page fault every 4 KiB, which takes longer than copying the page: it would halve the stream's speed.
    """

    def __init__(self, shared: bool = False) -> None:
        """`shared`: other processes can map the memory. It does not lie in /dev/shm, which is small in containers."""
        self._shared = shared
        self._free: dict[int, list[Buffer]] = {}
        self._pin: Callable[[int, int], Callable[[], None]] | None = None
        self._pinned: weakref.WeakSet[Buffer] = weakref.WeakSet()

    def pin_by(self, pin: Callable[[int, int], Callable[[], None]]) -> None:
        """Pin each buffer that is used from now on, once: `pin(address, bytes)` returns the function that ends this."""
        self._pin = pin

    def empty(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of arbitrary content."""
        return self.bytes(dtype.itemsize * int(np.prod(shape)))[0].view(dtype).reshape(shape)

    def bytes(self, size: int) -> tuple[np.ndarray, Buffer]:
        """An array uint8 (size,) of arbitrary content, and its buffer, which no other array gets while this one is in use."""
        capacity = max(8, size)
        step = 1 << max(0, capacity.bit_length() - 3)  # few sizes, an eighth to a quarter apart, so that buffers fit again
        capacity = -(-capacity // step) * step
        free = self._free.setdefault(capacity, [])
        try:
            buffer = free.pop()  # append and pop are atomic, so threads need no lock
        except IndexError:
            buffer = _shared_buffer(capacity) if self._shared else _private_buffer(capacity)
        if self._pin is not None and buffer not in self._pinned:
            memory = np.frombuffer(buffer.pages, np.uint8)
            weakref.finalize(buffer, self._pin(memory.ctypes.data, memory.nbytes)).atexit = False
            self._pinned.add(buffer)
        array = np.ndarray((size,), np.uint8, buffer.pages)
        # Every view, and every tensor over a view, holds this array; when it is deleted the buffer is free.
        weakref.finalize(array, free.append, buffer).atexit = False
        return array, buffer


def _private_buffer(size: int) -> Buffer:
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return Buffer(pages, None)


def _shared_buffer(size: int) -> Buffer:
    file = os.memfd_create("batch")
    os.ftruncate(file, size)
    return Buffer(mmap.mmap(file, size), file)


@dataclass(frozen=True)
class BatchArrays:
    """The numbers of B samples with T frames each. The tensors of a `pretrain.data.batch.Batch` share their memory."""

    pixels: np.ndarray
    valid: np.ndarray
    dates: np.ndarray
    day_of_year: np.ndarray
    land_cover: np.ndarray
    orientation: np.ndarray
    usable: np.ndarray
    land_cover_map: np.ndarray | None = None

    @staticmethod
    def nbytes(table: SampleTable, size: int, num_frames: int) -> int:
        """Bytes of memory for the arrays of `size` samples of a table."""
        return sum(_aligned_bytes(dtype, shape) for dtype, shape in _dtypes_and_shapes(table, size, num_frames))

    @classmethod
    def over(cls, memory: np.ndarray, table: SampleTable, size: int, num_frames: int) -> BatchArrays:
        """The arrays that lie one after the other in memory uint8 (nbytes,)."""
        arrays, start = [], 0
        for dtype, shape in _dtypes_and_shapes(table, size, num_frames):
            stop = start + dtype.itemsize * int(np.prod(shape))
            arrays.append(memory[start:stop].view(dtype).reshape(shape))
            start += _aligned_bytes(dtype, shape)
        return cls(*arrays)

    def by_name(self) -> dict[str, np.ndarray]:
        """The arrays that there are by their names."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}


def _dtypes_and_shapes(table: SampleTable, size: int, num_frames: int) -> tuple[tuple[np.dtype, tuple[int, ...]], ...]:
    """Dtype and shape of each array of `size` samples, in order."""
    of_map = () if table.map_layout is None else ((table.map_layout.dtype, (size, *table.map_layout.shape)),)
    return (
        (table.dtype, (size, num_frames, *table.frame_shape)),
        (np.dtype(bool), (size, num_frames, *table.frame_shape[1:])),
        (np.dtype(np.int32), (size, num_frames)),
        (np.dtype(np.int16), (size, num_frames)),
        (np.dtype(np.int64), (size, table.codes)),
        (np.dtype(np.uint8), (size,)),
        (np.dtype(bool), (size,)),
        *of_map,
    )


def _aligned_bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Bytes of an array, up to where the next one may begin."""
    return -(-dtype.itemsize * int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT
