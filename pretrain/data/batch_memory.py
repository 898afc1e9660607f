"""The memory of batches: used again when nobody refers to it, and shared with the processes that fill it."""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Block:
    """Pages of memory.

    Attributes:
        pages: mapped here.
        file: what another process maps to see the same pages; None for memory of this process alone.
    """

    pages: mmap.mmap
    file: int | None

    def __del__(self) -> None:
        if self.file is not None:
            os.close(self.file)


class BatchMemory:
    """Memory that is used again when its array, and every view of it, is no longer referred to.

    Fresh memory costs a page fault every 4 KiB, which takes longer than copying the page: half of the stream's speed.
    """

    def __init__(self, shared: bool = False) -> None:
        """`shared` memory can be mapped by other processes. It is no file of /dev/shm, which containers make small."""
        self._shared = shared
        self._free: dict[int, list[Block]] = {}

    def empty(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of arbitrary content."""
        return self.bytes(dtype.itemsize * int(np.prod(shape)))[0].view(dtype).reshape(shape)

    def bytes(self, size: int) -> tuple[np.ndarray, Block]:
        """uint8 (size,) of arbitrary content, and the block that it lies in, which is its own while it is referred to."""
        room = max(8, size)
        step = 1 << max(0, room.bit_length() - 3)  # few sizes, an eighth to a quarter apart, so that memory fits again
        room = -(-room // step) * step
        free = self._free.setdefault(room, [])
        try:
            block = free.pop()  # append and pop are atomic, so threads need no lock
        except IndexError:
            block = _shared_block(room) if self._shared else _private_block(room)
        array = np.ndarray((size,), np.uint8, block.pages)
        # Every view, and every tensor over one, holds this array, and only when it goes is the block free.
        weakref.finalize(array, free.append, block).atexit = False
        return array, block


def _private_block(size: int) -> Block:
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return Block(pages, None)


def _shared_block(size: int) -> Block:
    file = os.memfd_create("batch")
    os.ftruncate(file, size)
    return Block(mmap.mmap(file, size), file)
