"""Chunk groups: whole chunks of a series that are read at once, and into which its windows are ordered."""

from __future__ import annotations

import numpy as np


def chunk_group_shape(chunk: tuple[int, int], size: int) -> tuple[int, int]:
    """Return (rows, columns) of a chunk group: the fewest whole chunks that are at least a window of `size` x `size` pixels.

    Chunk groups tile the grid from row 0 and column 0; each is read at once. Windows on a grid of `size` lie within one chunk
    group each where chunks nest in windows or windows in chunks; elsewhere, and at given sites, a window may reach into the
    chunk groups to its right and below.
    """
    rows, cols = (extent * -(-size // extent) for extent in chunk)
    return rows, cols


def chunk_group_numbers(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a number from 0 for each window that increases where the next window lies in another chunk group, int64 (n,).

    rows, cols: upper left pixels, int64 (n,). shape: (rows, columns) of a chunk group.
    """
    height, width = shape
    positions = np.stack([rows // height, cols // width])
    changes = (np.diff(positions, axis=1) != 0).any(axis=0)
    return np.concatenate([[0], np.cumsum(changes)])
