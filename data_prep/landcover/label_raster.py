"""Reads label rasters on the grid of a source."""

from __future__ import annotations

from typing import Self

import numpy as np
from affine import Affine

from common.grid import Grid, corner_distance_px, grid_in_crs, grid_summary
from common.rasters import Raster
from data_prep.archive.scene import SCENE_FILE, Label, Scene

TOLERANCE = 0.02  # largest distance, in pixels, between edges of label and image that count as equal


class LabelRaster:
    """A label raster of a scene, open for reading on the grid of a source.

    Labels are never resampled: the raster's pixels must coincide with those of the source, but its extent may differ.
    Raises ValueError when the scene has no such label, when the pixels do not coincide, when the raster cannot be read, and when
    it holds no whole numbers.
    """

    def __init__(self, scene: Scene, name: str, grid: Grid) -> None:
        origin = f"{scene.folder / SCENE_FILE}, label {name}"
        if name not in scene.labels:
            raise ValueError(f"{origin}: scene {scene.name} has no label {name!r}; it has {', '.join(scene.labels) or 'none'}")
        self._label = scene.labels[name]
        self._raster = Raster(self._label.path, f"{origin}:")
        try:
            if not np.issubdtype(self._raster.dtype, np.integer):
                raise ValueError(
                    f"{origin}: {self._label.path} holds {self._raster.dtype}; expected whole numbers, the codes of classes"
                )
            limits = np.iinfo(self._raster.dtype)
            if not limits.min <= self._label.nodata <= limits.max:
                raise ValueError(
                    f"{origin}: no data is {self._label.nodata}, a number that {self._label.path} of {self._raster.dtype} does "
                    f"not hold; state one from {limits.min} to {limits.max}"
                )
            self._row, self._col = _first_pixel(self._raster.grid, grid, origin)
        except ValueError:
            self.__exit__()
            raise

    def read(self, row: int, col: int, size: int, year: int) -> np.ndarray:
        """Codes (size, size) of the window of the source that starts at (row, col); no data outside the raster.

        `year`: that of the images. A label that is of another year, as scene.yaml states, has no data there.
        """
        top, left = row + self._row, col + self._col
        height, width = self._raster.grid.shape
        rows, cols = (max(top, 0), min(top + size, height)), (max(left, 0), min(left + size, width))
        codes = np.full((size, size), self._label.nodata, dtype=self._raster.dtype)
        if self._label.year not in (None, year):
            return codes
        if rows[1] > rows[0] and cols[1] > cols[0]:
            inside = codes[rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left]
            inside[:] = read_codes(self._raster, self._label, rows[0], cols[0], *inside.shape)
        return codes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._raster.__exit__()


def read_codes(
    raster: Raster, label: Label, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
) -> np.ndarray:
    """A window (height, width) of the codes of a label, by default all; `label.nodata` where the raster has no data.

    Raises ValueError when the no-data number that the raster states is a class, and scene.yaml does not say what no data is.
    """
    codes = raster.read(label.nodata, row, col, height, width)
    if raster.nodata is None or raster.nodata == label.nodata:
        return codes
    if raster.nodata in label.classes:
        if label.nodata_stated:
            return codes
        raise ValueError(
            f"{label.path} states that {raster.nodata:g} means no data, but scene.yaml names it as class "
            f"{label.classes[int(raster.nodata)]!r}; say there which code means not labelled (`nodata: {label.nodata}` if every "
            "pixel is labelled), or remove the class"
        )
    missing = np.isnan(codes) if np.isnan(raster.nodata) else codes == raster.nodata
    return np.where(missing, np.array(label.nodata), codes)


def _first_pixel(label: Grid, grid: Grid, origin: str) -> tuple[int, int]:
    """Row and column of the label at the first pixel of `grid`. Raises ValueError unless the pixels of both coincide."""
    placed = grid_in_crs(label, grid.crs)
    if placed is not None:
        first = ~placed.transform @ grid.transform
        row, col = round(first.f), round(first.c)
        there = placed.transform @ Affine.translation(col, row)
        if corner_distance_px(Grid(crs=grid.crs, transform=there, height=grid.height, width=grid.width), grid) <= TOLERANCE:
            return row, col
    raise ValueError(
        f"{origin}: its pixels ({grid_summary(label)}) are not those of the images ({grid_summary(grid)}), and labels are not "
        "resampled; name a label on the grid of the source"
    )
