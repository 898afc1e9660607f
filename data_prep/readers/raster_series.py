"""A series of raster files with one file per band and date; GeoTIFF scenes, SAFE and STAC share it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from common.grid import raster_grid
from common.north_up import north_up
from common.raster_masks import RasterMask
from common.rasters import GDAL_SETTINGS
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import check_band
from data_prep.readers.encoding import Encoding, cf_encoding, check_encoding, check_quality
from data_prep.readers.file_names import ImageFiles
from data_prep.readers.folder import Folder
from data_prep.readers.image_series import AT_ONCE, ImageSeries, OpenLayer
from data_prep.readers.open_files import most_open_files
from data_prep.readers.radiometry import unobserved_code, unobserved_number


class RasterSeries(ImageSeries):
    """Images with one raster file per band, on the finest of the grids of their files.

    Args:
        folder: folder of the files.
        sensor, images, offsets, resampling: see ImageSeries.
    """

    def __init__(
        self,
        folder: Folder,
        sensor: Sensor,
        images: Sequence[ImageFiles],
        offsets: np.ndarray | None,
        resampling: str = "nearest",
    ) -> None:
        self._folder = folder
        with rasterio.Env(**GDAL_SETTINGS):
            at_once = 1 if folder.local else AT_ONCE
            super().__init__(str(folder), sensor, images, offsets, resampling, most_open_files(), at_once)

    def _read_image(self, number: int, window: tuple[int, int, int, int], pixels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        with rasterio.Env(**GDAL_SETTINGS):  # of this thread
            return super()._read_image(number, window, pixels, offsets)

    def _where(self, path: str) -> str:
        return self._folder.where(path)

    def _open_layer(self, path: str, band: str | None) -> OpenLayer:
        """Open a file. Raises ValueError unless it has one band, and the types of the sensor."""
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            dataset = self._folder.open_raster(path)
        where = self._where(path)
        try:
            mask = RasterMask.of(dataset)
            if mask.num_bands != 1:
                raise ValueError(f"{where}: has {dataset.count} bands; expected one file per band, so split it")
            attributes = _attributes(dataset)
            dtype, offset = np.dtype(dataset.dtypes[0]), None
            if band is not None:
                check_band(band, attributes, self.sensor, where)
                offset = check_encoding(_encoding(dataset, attributes, where), self.sensor, where)
                unobserved = unobserved_number(dtype, self.sensor, where)
            else:
                check_quality(dtype, {"_FillValue": dataset.nodata}, self.sensor, where)
                unobserved = unobserved_code(dtype, self.sensor.quality, where)
            grid, flips = north_up(raster_grid(dataset, where))
        except ValueError:
            dataset.close()
            raise

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            part = Window(col, row, width, height)
            try:
                values: np.ndarray = dataset.read(1, window=part)
                unseen = mask.unobserved(part, values)
            except RasterioIOError as error:
                raise self._folder.unreadable(path, error) from error
            if unseen is not None:
                values[unseen] = unobserved
            return values

        rows, cols = dataset.block_shapes[0]
        return OpenLayer(stored=stored, grid=grid, flips=flips, chunk=(rows, cols), offset=offset, close=dataset.close)


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
