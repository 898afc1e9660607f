"""Rasters that are made to be shown: a true-colour image of one date, a label as class indices, the errors of a map.

They are written strip by strip into a folder that lasts as long as the command, with overviews, so that memory does not grow with
the scene. Each is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from common.atomic_files import whole_file
from common.grid import Grid
from data_prep.landcover.label_base import LabelReader
from data_prep.readers.base import SeriesReader
from finetune.mapping.cog import GDAL_CACHE_MB
from finetune.scoring.error_map import NOT_SCORED, error_map
from finetune.task import IGNORE, Task

STRIP_PX = 512  # rows that are read together
PLACES = 3  # along each side of a scene, at which the clearness and the brightness of its images are measured
PLACE_PX = 32
NO_CLASS = 255
OVERVIEW_SMALLEST_PX = 256


def clear_shares(reader: SeriesReader, times: np.ndarray) -> np.ndarray:
    """Share of clear pixels of each image at `PLACES` x `PLACES` places of the scene: float64 (T,)."""
    clear = [reader.read(*place, times).valid for place in _places(reader.grid)]
    return np.concatenate([valid.reshape(len(times), -1) for valid in clear], axis=1).mean(axis=1)


def write_true_color(path: Path, reader: SeriesReader, time: int) -> None:
    """Write one image in natural colours: RGB with an alpha band, transparent where nothing was observed.

    Clouds stay. Brightness is stretched from the 2nd to the 98th percentile of the clear pixels at some places.
    """
    sensor, times = reader.sensor, np.array([time])
    bands = [sensor.bands.index(band) for band in sensor.rgb]
    samples = [reader.read(*place, times) for place in _places(reader.grid)]
    seen = [sensor.observed(series.pixels)[0] for series in samples]
    clear = [series.valid[0] for series in samples]
    used = clear if any(mask.any() for mask in clear) else seen
    values = np.concatenate([series.pixels[0][bands][:, mask] for series, mask in zip(samples, used, strict=True)], axis=1)
    low, high = np.percentile(values, (2, 98), axis=1) if values.size else (np.zeros(3), np.ones(3))
    low, spread = low[:, None, None], np.where(high > low, high - low, 1)[:, None, None]

    def strips() -> Iterator[tuple[Window, np.ndarray]]:
        for window in _windows(reader.grid):
            series = reader.read(window.row_off, window.col_off, window.height, window.width, times)
            share = (series.pixels[0][bands].astype(np.float32) - low) / spread
            alpha = np.where(sensor.observed(series.pixels), 255, 0)
            yield window, np.concatenate([np.clip(255 * share, 0, 255).round(), alpha]).astype(np.uint8)

    _write(path, reader.grid, 4, strips(), Resampling.average, None)


def write_label(path: Path, label: LabelReader, task: Task, year: int | None) -> None:
    """Write a label of a year as class indices uint8 of a task, `NO_CLASS` where not labelled.

    Raises ValueError as `Task.class_indices` does.
    """

    def strips() -> Iterator[tuple[Window, np.ndarray]]:
        for window in _windows(label.grid):
            yield window, label_classes(label, task, window, year)[None]

    _write(path, label.grid, 1, strips(), Resampling.mode, NO_CLASS)


def write_errors(path: Path, label: LabelReader, task: Task, year: int | None, map_path: Path) -> None:
    """Write the outcomes of a map on the grid of its label, uint8 as `error_map` gives them."""

    def strips() -> Iterator[tuple[Window, np.ndarray]]:
        with rasterio.open(map_path) as predicted:
            for window in _windows(label.grid):
                classes = label_classes(label, task, window, year).astype(np.int16)
                classes[classes == NO_CLASS] = IGNORE
                yield window, error_map(task, classes, predicted.read(1, window=window))[None]

    _write(path, label.grid, 1, strips(), Resampling.mode, NOT_SCORED)


def label_classes(label: LabelReader, task: Task, window: Window, year: int | None) -> np.ndarray:
    """Class indices of a window of a label and year: uint8 (height, width), `NO_CLASS` where not labelled."""
    codes = label.read(window.row_off, window.col_off, window.height, window.width, year)
    classes = task.class_indices(codes, label.label)
    return np.where(classes == IGNORE, NO_CLASS, classes).astype(np.uint8)


def _windows(grid: Grid) -> Iterator[Window]:
    """Parts of a grid of at most STRIP_PX rows and 4 * STRIP_PX columns, row by row."""
    for row in range(0, grid.height, STRIP_PX):
        for col in range(0, grid.width, 4 * STRIP_PX):
            yield Window(col, row, min(4 * STRIP_PX, grid.width - col), min(STRIP_PX, grid.height - row))


def _places(grid: Grid) -> list[tuple[int, int, int, int]]:
    """Small windows (row, col, height, width) that are spread over a grid."""
    height, width = min(PLACE_PX, grid.height), min(PLACE_PX, grid.width)
    rows = sorted(set(np.linspace(0, grid.height - height, PLACES).astype(int).tolist()))
    cols = sorted(set(np.linspace(0, grid.width - width, PLACES).astype(int).tolist()))
    return [(row, col, height, width) for row in rows for col in cols]


def _write(
    path: Path,
    grid: Grid,
    bands: int,
    strips: Iterator[tuple[Window, np.ndarray]],
    overviews: Resampling,
    nodata: int | None,
) -> None:
    """Write strips (bands, height, width) as a tiled GeoTIFF with overviews; the file appears only when it is complete."""
    profile: Mapping[str, object] = {
        "driver": "GTiff",
        "count": bands,
        "dtype": "uint8",
        "compress": "deflate",
        "zlevel": 1,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "interleave": "pixel",
        "nodata": nodata,
        **({"photometric": "RGB", "alpha": "unassociated"} if bands == 4 else {}),
        **grid.profile(),
    }
    with whole_file(path) as temporary:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), rasterio.open(temporary, "w", **profile) as raster:
            for window, pixels in strips:
                raster.write(pixels, window=window)
        factors: list[int] = []
        while max(grid.shape) / 2 ** len(factors) > OVERVIEW_SMALLEST_PX:
            factors.append(2 ** (len(factors) + 1))
        if factors:
            with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), rasterio.open(temporary, "r+") as raster:
                raster.build_overviews(factors, overviews)
