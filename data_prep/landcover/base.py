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


class LandCoverReader(Protocol):
    """Land cover of one scene, open for reading."""

    def codes(self, window: SampleWindow, series: Series) -> np.ndarray:
        """Fine land-cover codes in the window: integers of any shape, which the legend counts. `series`: images of the window."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
