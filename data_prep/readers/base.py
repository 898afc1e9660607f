"""The interface of all readers, and the series of images that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from common.grid import Grid
from data_prep.archive.sensor import Sensor


@dataclass(frozen=True, kw_only=True)
class Series:
    """Images of one source over one window.

    Attributes:
        pixels: (T, C, H, W), integer dtype of the sensor, without the additive offset of the archive.
        quality: (T, H, W), quality codes as the product stores them.
        valid: (T, H, W) bool, True where the observation is clear and complete.
        dates: (T,) datetime64[D], strictly increasing.
    """

    pixels: np.ndarray
    quality: np.ndarray
    valid: np.ndarray
    dates: np.ndarray

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4:
            raise ValueError(f"pixels have shape {self.pixels.shape}; expected (T, C, H, W)")
        frames, _, height, width = self.pixels.shape
        for name, array in (("quality", self.quality), ("valid", self.valid)):
            if array.shape != (frames, height, width):
                raise ValueError(f"{name} has shape {array.shape}; expected {(frames, height, width)} beside the pixels")
        if self.valid.dtype != np.bool_:
            raise ValueError(f"valid has dtype {self.valid.dtype}; expected bool")
        check_dates(self.dates, frames)


class SeriesReader(Protocol):
    """One source of one scene, open for reading.

    Attributes:
        sensor: meaning of the numbers.
        grid: grid of the whole scene in pixels of the source. It is north-up, also where the pixels are stored from south to
            north or from east to west: a reader flips them (`common/north_up.py`).
        dates: (T,) datetime64[D], strictly increasing.
        chunk: (rows, columns) of the grid that are stored together: a chunk of the store, a tile or strip of a raster. Chunks
            begin at row 0 and column 0; to read a window of whole chunks reads no chunk twice. Of a series that a reader flips,
            they begin at the far end instead: where the grid does not hold whole chunks, such a window touches the next
            chunk, too, and chunks are read twice. Windows are right in any case.
    """

    sensor: Sensor
    grid: Grid
    dates: np.ndarray
    chunk: tuple[int, int]

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at `times`, indices of `dates`. Raises ValueError outside the grid."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def check_dates(dates: np.ndarray, frames: int) -> None:
    """Raises ValueError unless the `dates` of a series are `frames` strictly increasing datetime64[D]."""
    if dates.shape != (frames,) or dates.dtype != np.dtype("datetime64[D]"):
        raise ValueError(f"dates are {dates.dtype}{dates.shape}; expected datetime64[D] ({frames},)")
    if np.isnat(dates).any():
        raise ValueError(f"{int(np.isnat(dates).sum())} of {frames} dates are missing")
    steps = np.diff(dates)
    if (steps <= np.timedelta64(0, "D")).any():
        at = int(np.argmax(steps <= np.timedelta64(0, "D")))
        raise ValueError(f"dates must increase strictly: {dates[at]} is followed by {dates[at + 1]}")
