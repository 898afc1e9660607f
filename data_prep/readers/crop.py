"""A part of any reader's series: the pixels that cover a box of longitudes and latitudes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from common.grid import SAME_PLACE, grid_summary
from data_prep.readers.base import Series, SeriesReader

POINTS = 65  # per side of the box, whose sides are curves in other projections


class Crop:
    """A part of a series, the pixels that cover a box. The option `bbox` of any source in scene.yaml.

    Example: `bbox: [4.1, 50.2, 4.4, 50.4]`: west, south, east and north in degrees (WGS 84). West is larger than east for a box
    that crosses 180 degrees. Where the box extends beyond the series, the part ends at the border of the series.

    Tiles or strips of files are not cut, so those at the border of the part may be read for several windows.
    """

    def __init__(self, reader: SeriesReader, bbox: Any, origin: str) -> None:
        west, south, east, north = _checked(bbox, origin)
        if not reader.grid.georeferenced:
            raise ValueError(f"{origin}: bbox is of no use, since the place of the series on the globe is not known")
        ring = np.linspace(0, 1, POINTS)
        lon = np.concatenate([west + ring * (east - west)] * 2 + [np.full(POINTS, west), np.full(POINTS, east)])
        lat = np.concatenate([np.full(POINTS, south), np.full(POINTS, north)] + [south + ring * (north - south)] * 2)
        cols, rows = reader.grid.pixels_at(lon, lat)
        first_row, end_row = _covered(rows, reader.grid.height)
        first_col, end_col = _covered(cols, reader.grid.width)
        if end_row <= first_row or end_col <= first_col:
            raise ValueError(f"{origin}: bbox {list(bbox)} lies outside of the series, {grid_summary(reader.grid)}")
        self._reader, self._row, self._col = reader, first_row, first_col
        self.sensor, self.dates = reader.sensor, reader.dates
        self.grid = reader.grid.window(first_row, first_col, end_row - first_row, end_col - first_col)
        self.chunk = min(reader.chunk[0], self.grid.height), min(reader.chunk[1], self.grid.width)

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        return self._reader.read(self._row + row, self._col + col, height, width, times)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.__exit__(*exception)


def _checked(bbox: Any, origin: str) -> tuple[float, float, float, float]:
    """West, south, east and north, with east above west. Raises ValueError for anything else than a box in degrees."""
    numbers = isinstance(bbox, list | tuple) and len(bbox) == 4 and all(isinstance(value, int | float) for value in bbox)
    if not numbers or not (-180 <= bbox[0] <= 180 and -180 <= bbox[2] <= 180 and -90 <= bbox[1] < bbox[3] <= 90):
        raise ValueError(f"{origin}: bbox is {bbox!r}; expected [west, south, east, north] in degrees")
    west, south, east, north = map(float, bbox)
    return west, south, east + 360 if east <= west else east, north


def _covered(at: np.ndarray, size: int) -> tuple[int, int]:
    """The first pixel that a box covers along an axis of `size` pixels, and the one after the last.

    `at`: fractional pixels of the border of the box, infinite outside of the domain of the projection. A box that ends at the
    border of a pixel, but for rounding, does not reach into the next one.
    """
    at = at[np.isfinite(at)]
    if not len(at):
        return 0, 0
    return max(0, int(np.floor(at.min() + SAME_PLACE))), min(size, int(np.ceil(at.max() - SAME_PLACE)))
