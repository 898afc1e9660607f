"""The interface of a land-cover reader, and the window of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from common.grid import Grid
from data_prep.readers.base import Series


@dataclass(frozen=True, kw_only=True)
class SampleWindow:
    """The window of one sample in the images of its source.

    Attributes:
        source: source name.
        file: path of the sample's HDF5 file where the scene is a collection of such files, else None.
        grid: grid of all pixels of the source.
        row, col, size: first row, first column and side of the window in pixels of `grid`.
        year: calendar year of the sample.
    """

    source: str
    file: str | None
    grid: Grid
    row: int
    col: int
    size: int
    year: int

    @property
    def footprint(self) -> Grid:
        """Return the grid of the window's pixels."""
        return self.grid.window(self.row, self.col, self.size, self.size)


class LandCoverReader(Protocol):
    """Land cover of one scene, open for reading.

    Attributes:
        needs_images: True when the land cover comes from the images of the window; else `series` may be None.
    """

    needs_images: bool

    def codes(self, window: SampleWindow, series: Series | None) -> np.ndarray:
        """Fine land-cover codes of cells that fill the window, integers (..., rows, columns). `series`: images of the window."""
        ...

    def pixel_codes(self, window: SampleWindow, series: Series | None, codes: np.ndarray) -> np.ndarray:
        """Fine land-cover code of each pixel of the window, integers (H, W). `codes`: those of the window by `codes`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
