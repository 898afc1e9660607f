"""A series of raster files with one file per band and date, on one grid or nested grids; GeoTIFF scenes and SAFE share it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from common.crs import crs_text
from common.grid import Grid, nesting_factor
from common.rasters import GDAL_SETTINGS
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.file_names import ImageFiles
from data_prep.readers.folder import Folder
from data_prep.readers.open_files import OpenFiles
from data_prep.readers.radiometry import check_quality_type, check_stored, harmonised_series
from data_prep.readers.resampling import check_resampling, read_nested

MAX_OPEN_FILES = 512  # a process may usually have 1,024 open file descriptors


@dataclass(frozen=True, kw_only=True)
class _OpenRaster:
    """An open file.

    Attributes:
        dataset: rasterio dataset.
        grid: its grid.
        factor: number of pixels of the series that one of its pixels covers along each axis.
    """

    dataset: Any
    grid: Grid
    factor: int


class RasterSeries:
    """Images with one file per band, on the finest of the grids of their files.

    Args:
        folder: folder of the files.
        sensor: meaning of the numbers.
        images: one per date, in ascending order.
        offsets: (T,) or (T, C), added to the stored numbers.
        resampling: how coarser reflectance is resampled to the finest grid, `nearest` or `bilinear`; quality is always
            resampled with nearest neighbours. `nearest` is the default, since it keeps the measured numbers, does not spread
            clouds to clear neighbours, and is how most published series resample bands of 20 m to 10 m.
    """

    def __init__(
        self, folder: Folder, sensor: Sensor, images: Sequence[ImageFiles], offsets: np.ndarray, resampling: str = "nearest"
    ) -> None:
        check_resampling(resampling, str(folder))
        self.sensor = sensor
        self.dates = np.array([image.date for image in images], dtype="datetime64[D]")
        self._folder, self._images, self._offsets = folder, images, offsets
        self._bilinear_nodata = sensor.nodata if resampling == "bilinear" else None
        self._open = OpenFiles(self._opened, lambda opened: opened.dataset.close(), MAX_OPEN_FILES)
        self._quality_files = {file for image in images for file in image.quality}
        first = (*images[0].bands, *images[0].quality)
        with rasterio.Env(**GDAL_SETTINGS):
            grids = []
            for file in first:
                with self._dataset(file) as dataset:
                    grids.append(self._grid_of(dataset, file))
            self.grid = min(grids, key=lambda grid: abs(grid.transform.determinant))
            try:  # the first date already shows an error that concerns all dates
                chunks = [self._chunk(file) for file in first]
            except ValueError:
                self._open.close()
                raise
        rows, cols = np.max(chunks, axis=0).tolist()
        self.chunk = min(rows, self.grid.height), min(cols, self.grid.width)

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        chosen = np.arange(len(self.dates))[times]
        if not len(chosen):
            raise ValueError(f"{self._folder}: no dates chosen to read")
        window = row, col, height, width
        pixels = np.empty((len(chosen), len(self.sensor.bands), height, width), dtype=self.sensor.dtype)
        codes = []
        with rasterio.Env(**GDAL_SETTINGS):
            for frame, time in enumerate(chosen):
                image = self._images[time]
                for channel, file in enumerate(image.bands):
                    pixels[frame, channel] = self._read(file, window, self._bilinear_nodata)
                codes.append(self.sensor.quality.worst([self._read(file, window, None) for file in image.quality]))
        return harmonised_series(pixels, np.stack(codes), self.dates[times], self.sensor, self._offsets[times])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _read(self, file: str, window: tuple[int, int, int, int], bilinear_nodata: int | None) -> np.ndarray:
        opened = self._open[file]

        def read(row: int, col: int, height: int, width: int) -> np.ndarray:
            try:
                return np.asarray(opened.dataset.read(1, window=Window(col, row, width, height)))
            except RasterioIOError as error:
                raise self._folder.unreadable(file, error) from error

        return read_nested(read, opened.grid, opened.factor, window, bilinear_nodata)

    def _chunk(self, file: str) -> tuple[int, int]:
        """(rows, columns) of the series that one tile or strip of `file` covers."""
        opened = self._open[file]
        rows, cols = opened.dataset.block_shapes[0]
        return rows * opened.factor, cols * opened.factor

    def _dataset(self, file: str) -> Any:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            return self._folder.open_raster(file)

    def _opened(self, file: str) -> _OpenRaster:
        """Open `file`. Raises ValueError unless it has one band, the types of the sensor, and a grid that nests in the series."""
        dataset, where = self._dataset(file), self._folder.where(file)
        try:
            if dataset.count != 1:
                raise ValueError(f"{where}: has {dataset.count} bands; expected one file per band, so split it")
            stored = np.dtype(dataset.dtypes[0])
            if file in self._quality_files:
                check_quality_type(stored, where)
            else:
                check_stored(stored, dataset.nodata, self.sensor, where)
            grid = self._grid_of(dataset, file)
            return _OpenRaster(dataset=dataset, grid=grid, factor=nesting_factor(grid, self.grid, where))
        except ValueError:
            dataset.close()
            raise

    def _grid_of(self, dataset: Any, file: str) -> Grid:
        where = self._folder.where(file)
        if dataset.crs is None or dataset.transform.is_identity:
            raise ValueError(f"{where}: is not georeferenced: it needs a coordinate reference system and a transform")
        return Grid(
            crs=crs_text(dataset.crs.to_wkt(), where), transform=dataset.transform, height=dataset.height, width=dataset.width
        )
