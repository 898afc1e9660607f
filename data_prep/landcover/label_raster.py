"""Reads label rasters on the grid of a source."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

import numpy as np
from rasterio.crs import CRS

from common.grid import Grid
from common.rasters import RasterOpener
from data_prep.archive.scene import SCENE_FILE, Scene

TOLERANCE = 0.02  # largest distance, in pixels, between edges of label and image that count as equal


class LabelRaster:
    """A label raster of a scene, open for reading on the grid of a source.

    Labels are never resampled: the raster's pixels must coincide with those of the source, but its extent may differ.
    Raises ValueError when they do not coincide, when the raster cannot be read, and when it holds no whole numbers.
    """

    def __init__(self, scene: Scene, name: str, grid: Grid) -> None:
        self._label, self._stack = scene.labels[name], ExitStack()
        origin = f"{scene.folder / SCENE_FILE}, label {name}"
        self._opener = RasterOpener()
        try:
            self._raster = self._stack.enter_context(self._opener.open(self._label.path))
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error
        if not np.issubdtype(np.dtype(self._raster.dtypes[0]), np.integer):
            kind = self._raster.dtypes[0]
            self.__exit__()
            raise ValueError(f"{origin}: {self._label.path} holds {kind}; expected whole numbers, the codes of classes")
        across = ~self._raster.transform @ grid.transform
        self._col, self._row = round(across.c), round(across.f)
        scale = max(abs(across.a - 1) * grid.width, abs(across.e - 1) * grid.height, abs(across.b), abs(across.d))
        miss = max(abs(across.c - self._col), abs(across.f - self._row))
        if self._raster.crs != CRS.from_user_input(grid.crs) or max(scale, miss) > TOLERANCE:
            self.__exit__()
            raise ValueError(
                f"{origin}: its pixels ({abs(self._raster.transform.a):g} from {self._raster.bounds.left:g}, "
                f"{self._raster.bounds.top:g}) are not those of the images ({abs(grid.transform.a):g} from {grid.bounds[0]:g}, "
                f"{grid.bounds[3]:g}), and labels are not resampled; name a label on the grid of the source"
            )

    def read(self, row: int, col: int, size: int) -> np.ndarray:
        """Codes (size, size) of the window of the source that starts at (row, col); no data outside the raster."""
        top, left = row + self._row, col + self._col
        rows, cols = (max(top, 0), min(top + size, self._raster.height)), (max(left, 0), min(left + size, self._raster.width))
        codes = np.full((size, size), self._label.nodata, dtype=self._raster.dtypes[0])
        if rows[1] > rows[0] and cols[1] > cols[0]:
            inside = codes[rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left]
            with self._opener.reading(self._label.path):
                inside[:] = self._raster.read(1, window=(rows, cols))
        return codes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
