"""Helpers of the tests of readers: random series, and the check that windows equal slices of the written arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor, load_sensors

SENSORS = load_sensors()
CRS = "EPSG:32631"
TRANSFORM = Affine(30.0, 0.0, 500_000.0, 0.0, -30.0, 4_000_000.0)
HEIGHT, WIDTH, FRAMES = 24, 20, 7
DATES = np.datetime64("2021-01-03") + np.array([0, 8, 16, 40, 48, 56, 300]).astype("timedelta64[D]")
DAYS = DATES.astype("datetime64[D]").astype(np.int64)
BOX = 0, 0, HEIGHT, WIDTH


def scene(folder: Path, source: str, **options: Any) -> Scene:
    return Scene(name="s", region="r", split="train", folder=folder, sources={source: options}, land_cover=None, labels={})


def numbers(sensor: Sensor, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random stored numbers (T, C, H, W) with some no data, and quality codes (T, H, W)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 9000, (FRAMES, len(sensor.bands), HEIGHT, WIDTH)).astype(sensor.dtype)
    pixels[rng.random(pixels.shape) < 0.02] = sensor.nodata
    return pixels, rng.integers(0, 12, (FRAMES, HEIGHT, WIDTH)).astype(np.uint8)


def assert_windows_equal(
    reader: Any, pixels: np.ndarray, quality: np.ndarray, dates: np.ndarray = DATES, tries: int = 12
) -> None:
    """Assert that random windows, at slices and arrays of dates, equal slices of the arrays."""
    rng = np.random.default_rng(1)
    sensor: Sensor = reader.sensor
    frames, _, rows, cols = pixels.shape
    np.testing.assert_array_equal(reader.dates, dates)
    for _ in range(tries):
        row, col = int(rng.integers(0, rows - 1)), int(rng.integers(0, cols - 1))
        height, width = int(rng.integers(1, rows - row + 1)), int(rng.integers(1, cols - col + 1))
        chosen = np.sort(rng.choice(frames, rng.integers(1, frames + 1), replace=False))
        for times in (chosen, slice(int(chosen[0]), int(chosen[-1]) + 1)):
            got = reader.read(row, col, height, width, times)
            box = (slice(row, row + height), slice(col, col + width))
            expected = pixels[times][:, :, *box]
            np.testing.assert_array_equal(got.pixels, expected)
            assert got.pixels.dtype == np.dtype(sensor.dtype)
            np.testing.assert_array_equal(got.quality, quality[times][:, *box])
            np.testing.assert_array_equal(got.valid, sensor.valid(expected, quality[times][:, *box]))
            np.testing.assert_array_equal(got.dates, dates[times])
    with pytest.raises(ValueError, match=f"leaves a grid of {rows} x {cols}"):
        reader.read(0, cols - 1, 1, 2, slice(None))


def write_raster(path: Path, values: np.ndarray, transform: Affine = TRANSFORM, driver: str = "GTiff", **options: Any) -> None:
    """Write one band (H, W) or several (C, H, W) with a GDAL driver."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values if values.ndim == 3 else values[None]
    profile = {"driver": driver, "count": len(bands), "height": values.shape[-2], "width": values.shape[-1], "crs": CRS}
    with rasterio.open(path, "w", dtype=values.dtype, transform=transform, **{**profile, **options}) as file:
        file.write(bands)


def coarse(values: np.ndarray, factor: int = 2) -> np.ndarray:
    """Every `factor`-th pixel, as the content of a coarser band with the same upper left corner."""
    return np.ascontiguousarray(values[..., ::factor, ::factor])


def repeated(values: np.ndarray, factor: int = 2) -> np.ndarray:
    """Each pixel `factor` x `factor` times, by the Kronecker product."""
    return np.kron(values, np.ones((factor, factor), dtype=values.dtype))


def naive_bilinear(values: np.ndarray, factor: int, nodata: int) -> np.ndarray:
    """Bilinear resampling pixel by pixel, from distances between pixel centres."""
    height, width = values.shape
    result = np.full((height * factor, width * factor), nodata, dtype=values.dtype)
    for row in range(height * factor):
        for col in range(width * factor):
            if values[row // factor, col // factor] == nodata:
                continue
            y, x = (row + 0.5) / factor - 0.5, (col + 0.5) / factor - 0.5
            total = weights = 0.0
            for r in range(int(np.floor(y)), int(np.floor(y)) + 2):
                for c in range(int(np.floor(x)), int(np.floor(x)) + 2):
                    value = int(values[min(max(r, 0), height - 1), min(max(c, 0), width - 1)])
                    if value != nodata:
                        weight = (1 - abs(y - r)) * (1 - abs(x - c))
                        total, weights = total + weight * value, weights + weight
            result[row, col] = round(total / weights)
    return result
