"""A series of raster files with one file per band and date, on one grid or nested grids; GeoTIFF scenes and SAFE share it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from common.grid import Grid, nesting_factor, raster_grid
from common.north_up import Flips, north_up
from common.raster_masks import RasterMask
from common.rasters import GDAL_SETTINGS
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import check_band
from data_prep.readers.base import Series
from data_prep.readers.encoding import Encoding, cf_encoding, check_encoding, check_quality
from data_prep.readers.file_names import ImageFiles
from data_prep.readers.folder import Folder
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import offset_in_effect
from data_prep.readers.open_files import OpenFiles, most_open_files
from data_prep.readers.radiometry import harmonised_series, unobserved_code, unobserved_number
from data_prep.readers.resampling import check_resampling, read_nested
from data_prep.readers.same_day import ImageDays


@dataclass(frozen=True, kw_only=True)
class _OpenRaster:
    """An open file.

    Attributes:
        dataset: rasterio dataset.
        grid: its grid, north-up.
        flips: how its pixels are flipped for that.
        factor: number of pixels of the series that one of its pixels covers along each axis.
        mask: which of its pixels were not observed.
        unobserved: number or quality code that marks them.
        offset: additive offset of the stored numbers that the file states; None where it states none.
    """

    dataset: Any
    grid: Grid
    flips: Flips
    factor: int
    mask: RasterMask
    unobserved: int
    offset: float | None = None


class RasterSeries:
    """Images with one file per band, on the finest of the grids of their files.

    Args:
        folder: folder of the files.
        sensor: meaning of the numbers.
        images: N images in the order of dates; those of one day become one by `mosaicked`, which prefers the first.
        offsets: (N,) or (N, C), added to the stored numbers. None: each file states its own.
        resampling: how coarser reflectance is resampled to the finest grid, `nearest` or `bilinear`; quality is always
            resampled with nearest neighbours. `nearest` is the default, since it keeps the measured numbers, does not spread
            clouds to clear neighbours, and is how most published series resample bands of 20 m to 10 m.
    """

    def __init__(
        self,
        folder: Folder,
        sensor: Sensor,
        images: Sequence[ImageFiles],
        offsets: np.ndarray | None,
        resampling: str = "nearest",
    ) -> None:
        check_resampling(resampling, str(folder))
        self.sensor = sensor
        self._days = ImageDays(np.array([image.image.date for image in images], dtype="datetime64[D]"))
        self.dates = self._days.dates
        self._folder, self._images = folder, images
        self._offsets = None if offsets is None else np.broadcast_to(offsets.T, (len(sensor.bands), len(images))).T
        self._bilinear_nodata = sensor.nodata if resampling == "bilinear" else None
        self._open = OpenFiles(self._opened, lambda opened: opened.dataset.close(), most_open_files())
        self._first: dict[str, Any] = {}  # files of the first date, which are opened once, before the grid is known
        self._bands = {file: band for image in images for band, file in zip(sensor.bands, image.bands, strict=True)}
        first = (*images[0].bands, *images[0].quality)
        with rasterio.Env(**GDAL_SETTINGS):
            try:  # the first date already shows an error that concerns all dates
                grids = []
                for file in first:
                    self._first[file] = self._dataset(file)
                    grids.append(self._grid_of(self._first[file], file)[0])
                self.grid = min(grids, key=lambda grid: abs(grid.transform.determinant))
                check_pixel_size(self.grid, sensor, str(folder))
                chunks = [self._chunk(file) for file in first]
                for channel, file in enumerate(images[0].bands):
                    self._offset(0, channel, file)
            except ValueError:
                for dataset in self._first.values():
                    dataset.close()
                self._open.close()
                raise
        rows, cols = np.max(chunks, axis=0).tolist()
        self.chunk = min(rows, self.grid.height), min(cols, self.grid.width)

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        chosen = np.arange(len(self._images))[self._days.images(times)]
        if not len(chosen):
            raise ValueError(f"{self._folder}: no dates chosen to read")
        window = row, col, height, width
        pixels = np.empty((len(chosen), len(self.sensor.bands), height, width), dtype=self.sensor.dtype)
        offsets = np.empty(pixels.shape[:2], dtype=np.int64)
        codes = []
        with rasterio.Env(**GDAL_SETTINGS):
            for frame, number in enumerate(chosen):
                image = self._images[number]
                for channel, file in enumerate(image.bands):
                    pixels[frame, channel] = self._read(file, window, self._bilinear_nodata)
                    offsets[frame, channel] = self._offset(number, channel, file)
                codes.append(self.sensor.quality.worst([self._read(file, window, None) for file in image.quality]))
        return harmonised_series(pixels, np.stack(codes), self._days.image_dates[chosen], self.sensor, offsets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _read(self, file: str, window: tuple[int, int, int, int], bilinear_nodata: int | None) -> np.ndarray:
        opened = self._open[file]

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            part = Window(col, row, width, height)
            try:
                values: np.ndarray = opened.dataset.read(1, window=part)
                unseen = opened.mask.unobserved(part, values)
            except RasterioIOError as error:
                raise self._folder.unreadable(file, error) from error
            if unseen is not None:
                values[unseen] = opened.unobserved
            return values

        read = opened.flips.reader(stored, opened.grid.shape)
        return read_nested(read, opened.grid, opened.factor, window, bilinear_nodata)

    def _offset(self, number: int, channel: int, file: str) -> int:
        """The offset of a band of an image. Raises ValueError when it is not known, or the file states another."""
        stated = None if self._offsets is None else int(self._offsets[number, channel])
        return offset_in_effect(stated, self._open[file].offset, self.sensor, self._folder.where(file))

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
        dataset, where = self._first.pop(file, None) or self._dataset(file), self._folder.where(file)
        try:
            mask = RasterMask.of(dataset)
            if mask.num_bands != 1:
                raise ValueError(f"{where}: has {dataset.count} bands; expected one file per band, so split it")
            attributes = _attributes(dataset)
            stored, offset = np.dtype(dataset.dtypes[0]), None
            if file in self._bands:
                check_band(self._bands[file], attributes, self.sensor, where)
                offset = check_encoding(_encoding(dataset, attributes, where), self.sensor, where)
                unobserved = unobserved_number(stored, self.sensor, where)
            else:
                check_quality(stored, {"_FillValue": dataset.nodata}, self.sensor, where)
                unobserved = unobserved_code(stored, self.sensor.quality, where)
            grid, flips = self._grid_of(dataset, file)
            factor = nesting_factor(grid, self.grid, where)
            return _OpenRaster(
                dataset=dataset, grid=grid, flips=flips, factor=factor, mask=mask, unobserved=unobserved, offset=offset
            )
        except ValueError:
            dataset.close()
            raise

    def _grid_of(self, dataset: Any, file: str) -> tuple[Grid, Flips]:
        return north_up(raster_grid(dataset, self._folder.where(file)))


def _attributes(dataset: Any) -> dict[str, Any]:
    """What GDAL knows of the band of a file: tags of the file and of the band, and its description."""
    return {**dataset.tags(), **dataset.tags(1), **dataset.tags(1, ns="IMAGERY"), "description": dataset.descriptions[0]}


def _encoding(dataset: Any, attributes: Mapping[str, Any], where: str) -> Encoding:
    """The encoding of a file: the scale and offset of its band, else those that its tags state in the words of CF.

    An offset of 0 beside a scale counts as not stated: GDAL has it for every band.
    """
    dtype, scale, offset = np.dtype(dataset.dtypes[0]), dataset.scales[0], dataset.offsets[0]
    if (scale, offset) != (1, 0):
        return Encoding(dtype=dtype, nodata=dataset.nodata, scale=scale, offset=offset or None)
    return replace(cf_encoding(dtype, attributes, where), nodata=dataset.nodata)
