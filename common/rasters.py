"""Raster files of one layer, read north-up whatever the order of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import rasterio
from rasterio.windows import Window

from common.grid import raster_grid
from common.north_up import north_up


class Raster:
    """The first band of a raster file, open for reading.

    Raises ValueError, which begins with `what` the raster is, when it is missing, cannot be read or is not georeferenced.

    Attributes:
        grid: its grid, north-up.
        dtype: type of its numbers.
    """

    def __init__(self, path: Path, what: str) -> None:
        if not path.is_file():
            raise ValueError(f"{what} {path} does not exist")
        try:
            self._dataset = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise ValueError(f"{what} {path} cannot be read: {error}") from error
        try:
            self.grid, self._flips = north_up(raster_grid(self._dataset, f"{what} {path}"))
        except ValueError:
            self._dataset.close()
            raise
        self.dtype = np.dtype(self._dataset.dtypes[0])

    def read(self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None) -> np.ndarray:
        """A window (height, width) of the band; by default all of it."""

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            return np.asarray(self._dataset.read(1, window=Window(col, row, width, height)))

        height, width = height or self.grid.height, width or self.grid.width
        return self._flips.reader(stored, self.grid.shape)(row, col, height, width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._dataset.close()
