"""Reads windows of a series that extend beyond its grid."""

from __future__ import annotations

import numpy as np

from data_prep.readers.base import SeriesReader


def read_padded(reader: SeriesReader, window: tuple[int, int, int, int], times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read a window (row, col, height, width) of a reader's grid; pad it with no data where it extends beyond the grid.

    `times`: indices of the reader's dates. Returns pixels (T, C, height, width) in the sensor's dtype, and valid bool (T, height,
    width).
    """
    row, col, height, width = window
    sensor = reader.sensor
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + height, reader.grid.height), min(col + width, reader.grid.width)
    pixels = np.full((len(times), len(sensor.bands), height, width), sensor.nodata, dtype=sensor.dtype)
    valid = np.zeros((len(times), height, width), dtype=bool)
    if len(times) and bottom > top and right > left:
        series = reader.read(top, left, bottom - top, right - left, times)
        inside = np.s_[..., top - row : bottom - row, left - col : right - col]
        pixels[inside], valid[inside] = series.pixels, series.valid
    return pixels, valid
