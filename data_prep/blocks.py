"""Blocks: the parts of a series that are read at once, so that no stored chunk is read twice for the samples of a shard."""

from __future__ import annotations


def block_shape(chunk: tuple[int, int], size: int) -> tuple[int, int]:
    """(rows, columns) of the smallest blocks of whole chunks that are not smaller than a window of `size` x `size` pixels.

    Blocks begin at row 0 and column 0. Windows on a grid of `size` lie within one block each where chunks nest in windows or
    windows in chunks; else, and at given sites, a window may reach into the blocks to its right and below.
    """
    rows, cols = (extent * -(-size // extent) for extent in chunk)
    return rows, cols
