"""Readers: one file a container. Each gives the grid and dates of a series and reads windows of it.

A reader is opened where it is used (fsspec, h5py and GDAL handles do not survive a fork) and knows nothing of shards.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np

from data_prep.grid import Grid
from data_prep.sample import Series
from data_prep.sensors import Sensor


class SeriesReader(Protocol):
    """One source of one scene, open for reading.

    Attributes:
        sensor: meaning of the numbers.
        grid: grid of the whole scene in this source's pixels.
        dates: (T,) datetime64[D], strictly increasing.
    """

    sensor: Sensor
    grid: Grid
    dates: np.ndarray

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
