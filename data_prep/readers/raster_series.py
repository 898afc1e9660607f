"""A series of raster files with one file per band and date, on one grid or nested grids; GeoTIFF scenes and SAFE share it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from common.crs import crs_text
from common.grid import Grid, nesting_factor
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.folder import GDAL_SETTINGS, Folder
from data_prep.readers.open_files import OpenFiles
from data_prep.readers.radiometry import check_quality_type, check_stored, harmonised_series
from data_prep.readers.resampling import check_resampling, read_nested

MAX_OPEN_FILES = 512  # a process may usually have 1,024 open file descriptors
INCOMPLETE = ("refuse", "leave_out")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file, with what its name says about it.

    Attributes:
        path: path relative to the folder.
        layer: name of a band or of a quality layer.
        date: day of the image.
        tile, baseline: tile and processing baseline; None where names do not contain them.
    """

    path: str
    layer: str
    date: np.datetime64
    tile: str | None = None
    baseline: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The files of one image.

    Attributes:
        date: day of the image.
        bands: one path per band, in the order of the sensor, relative to the folder.
        quality: paths of the quality layers; the worst code of them counts.
    """

    date: np.datetime64
    bands: tuple[str, ...]
    quality: tuple[str, ...]


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


def parse_date(text: str, date_format: str, where: str) -> np.datetime64:
    """The date in the name of a file. Raises ValueError when it does not fit `date_format`."""
    try:
        return np.datetime64(datetime.strptime(text, date_format).date(), "D")
    except ValueError as error:
        raise ValueError(f"{where}: date {text!r} does not fit date_format {date_format!r}") from error


def named_pattern(pattern: str, groups: set[str], origin: str) -> re.Pattern[str]:
    """Compile a regular expression for file names. Raises ValueError unless it is valid and has the named groups."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{origin}: pattern {pattern!r} is not a regular expression: {error}") from error
    if not groups <= set(expression.groupindex):
        wanted = " and ".join(f"(?P<{group}>...)" for group in sorted(groups, reverse=True))
        raise ValueError(f"{origin}: pattern {pattern!r} must have the named groups {wanted}")
    return expression


def check_one_tile(tiles: Iterable[str | None], origin: str) -> None:
    """Raises ValueError when file names contain more than one tile: a series lies on one grid."""
    counts = Counter(tile for tile in tiles if tile is not None)
    if len(counts) > 1:
        found = ", ".join(f"{tile} ({count} files)" for tile, count in sorted(counts.items()))
        raise ValueError(f"{origin}: holds the tiles {found}; a series lies on one grid, so keep one tile a folder")


def group_into_images(
    files: Iterable[FoundFile], layers: Mapping[str, Sequence[str]], sensor: Sensor, incomplete: str, origin: str
) -> list[ImageFiles]:
    """Group files into images, in the order of dates.

    Args:
        files: files of all dates.
        layers: names in files of each band and of the quality layer of the sensor.
        sensor: sensor of the images.
        incomplete: "leave_out" leaves out dates that lack a layer, with a warning; "refuse" raises ValueError for them.
        origin: begins error messages.

    Raises ValueError when two files have one layer and date, when there are several tiles, and when a date lacks a layer.
    """
    if incomplete not in INCOMPLETE:
        raise ValueError(f"{origin}: incomplete is {incomplete!r}; expected one of {', '.join(INCOMPLETE)}")
    found: dict[np.datetime64, dict[str, FoundFile]] = {}
    for file in files:
        of_date = found.setdefault(file.date, {})
        if file.layer in of_date:
            raise ValueError(
                f"{origin}: two files for {file.layer} of {file.date}, {of_date[file.layer].path} and {file.path}; "
                "mosaic overlapping orbits, keep one processing of a date, and one tile a folder"
            )
        of_date[file.layer] = file
    check_one_tile((file.tile for of_date in found.values() for file in of_date.values()), origin)
    images, lacking = [], []
    for date in sorted(found):
        of_date = found[date]
        missing = [name for names in layers.values() for name in names if name not in of_date]
        if missing:
            lacking.append(f"{', '.join(missing)} of {date}")
            continue
        *bands, quality = [tuple(of_date[name].path for name in layers[layer]) for layer in (*sensor.bands, sensor.quality.name)]
        images.append(ImageFiles(date=date, bands=tuple(path for paths in bands for path in paths), quality=quality))
    if lacking and (incomplete == "refuse" or not images):
        raise ValueError(
            f"{origin}: {len(lacking)} of {len(found)} dates are incomplete, missing: {'; '.join(lacking[:5])}"
            f"{' ...' if len(lacking) > 5 else ''}; fetch the files again, or leave such dates out with `incomplete: leave_out`"
        )
    if lacking:
        warnings.warn(
            f"{origin}: {len(lacking)} of {len(found)} dates left out, as `incomplete: leave_out` says, missing: "
            + "; ".join(lacking),
            stacklevel=2,
        )
    return images
