"""Rasters that are stored from south to north, or from east to west, read as if they were stored north-up.

Rows go north in many rasters that come from netCDF. Readers flip such rasters when they read a window, so that all grids and
arrays of this project are north-up, and maps are written so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from affine import Affine

from common.grid import Grid

ReadWindow = Callable[[int, int, int, int], np.ndarray]  # (row, col, height, width) -> (..., height, width)


@dataclass(frozen=True)
class Flips:
    """The axes along which a stored raster is flipped to be north-up.

    Attributes:
        rows: True where stored rows go north.
        cols: True where stored columns go west.
    """

    rows: bool
    cols: bool

    def reader(self, stored: ReadWindow, shape: tuple[int, int]) -> ReadWindow:
        """A function that reads windows of the north-up raster.

        `stored` reads windows of the raster as it is stored, of `shape` (rows, columns).
        """
        if not (self.rows or self.cols):
            return stored
        down, right = -1 if self.rows else 1, -1 if self.cols else 1

        def read(row: int, col: int, height: int, width: int) -> np.ndarray:
            if self.rows:
                row = shape[0] - row - height
            if self.cols:
                col = shape[1] - col - width
            return np.ascontiguousarray(stored(row, col, height, width)[..., ::down, ::right])

        return read


def north_up(stored: Grid) -> tuple[Grid, Flips]:
    """The north-up grid of a raster with the grid `stored`, and how its pixels are flipped.

    A rotated grid is turned by at most 90 degrees then.
    """
    flips = Flips(rows=stored.transform.e > 0, cols=stored.transform.a < 0)
    transform = stored.transform
    if flips.rows:
        transform = transform @ Affine(1, 0, 0, 0, -1, stored.height)
    if flips.cols:
        transform = transform @ Affine(-1, 0, stored.width, 0, 1, 0)
    return Grid(crs=stored.crs, transform=transform, height=stored.height, width=stored.width), flips
