"""Labels made of points, each of which labels the pixel in which it lies, or a square around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import shapely

from common.grid import Grid
from data_prep.archive.label import Points
from data_prep.archive.scene import Label
from data_prep.landcover.label_base import LabelCounts, is_of_other_year, smallest_dtype
from data_prep.landcover.label_features import NO_YEAR, load_features


class PointLabel:
    """A label of points on a grid; see `LabelReader`.

    Pixels that points of different classes label are not labelled. The arguments and errors are those of `ParcelLabel`.
    """

    def __init__(self, label: Label, grid: Grid, origin: str, season_begin: tuple[int, int] | None, own_file: bool) -> None:
        self._found = load_features(label, grid, origin, season_begin, own_file)
        self.label, self.grid, self.dtype = self._found.label, grid, smallest_dtype(self._found.label)
        years = [year for year in np.unique(self._found.years).tolist() if year != NO_YEAR]
        self.years: tuple[int, ...] = tuple(years) if label.year is None else (label.year,)
        at = np.floor(shapely.get_coordinates(self._found.geometry)).astype(np.int64).reshape(-1, 2)
        self._cols, self._rows = at.T
        self._pixels: dict[int | None, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None, year: int | None = None
    ) -> np.ndarray:
        """See `LabelReader`."""
        height, width = height or self.grid.height, width or self.grid.width
        codes = np.full((height, width), self.label.nodata, self.dtype)
        rows, cols, found = self._labelled(year)
        here = (rows >= row) & (rows < row + height) & (cols >= col) & (cols < col + width)
        codes[rows[here] - row, cols[here] - col] = found[here]
        return codes

    def counts(self, year: int | None = None) -> LabelCounts:
        """See `LabelReader`."""
        _, lowest, highest = self._squares(year)
        return replace(self._found.counts_of_year(year), overlap_px=int((lowest != highest).sum()))

    def _labelled(self, year: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and codes of the labelled pixels of a year."""
        pixels, lowest, highest = self._squares(year)
        agree = lowest == highest
        return pixels[agree] // self.grid.width, pixels[agree] % self.grid.width, lowest[agree]

    def _squares(self, year: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the pixels in the squares of a year's points, ascending, and the lowest and highest code of each."""
        if year not in self._pixels:
            assert isinstance(self.label.features, Points)
            reach = self.label.features.square_px // 2
            some = self._found.of_year(year) if not is_of_other_year(self.label, year) else np.zeros(0, np.int64)
            shift = np.arange(-reach, reach + 1)
            rows, cols, codes = (
                part.ravel()
                for part in np.broadcast_arrays(
                    self._rows[some][:, None, None] + shift[:, None],
                    self._cols[some][:, None, None] + shift,
                    self._found.codes[some][:, None, None],
                )
            )
            inside = (rows >= 0) & (rows < self.grid.height) & (cols >= 0) & (cols < self.grid.width)
            pixels, owner = np.unique(rows[inside] * self.grid.width + cols[inside], return_inverse=True)
            limits = np.iinfo(np.int32)
            lowest, highest = np.full(len(pixels), limits.max, np.int32), np.full(len(pixels), limits.min, np.int32)
            np.minimum.at(lowest, owner, codes[inside])
            np.maximum.at(highest, owner, codes[inside])
            self._pixels[year] = pixels, lowest, highest
        return self._pixels[year]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
