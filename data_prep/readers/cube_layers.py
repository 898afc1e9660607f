"""Cubes of HDF5, netCDF-4 and Zarr: all bands in one array, or one variable per band, on one grid or nested grids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from common.grid import Grid, nesting_factor
from common.north_up import Flips
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import band_positions, check_band, check_stacked_bands
from data_prep.readers.base import Series
from data_prep.readers.encoding import cf_encoding, check_encoding
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import Offset, offsets_in_effect, stated_offsets
from data_prep.readers.radiometry import harmonised_series
from data_prep.readers.resampling import check_resampling, read_nested
from data_prep.readers.same_day import ImageDays

Chosen = slice | np.ndarray  # which images
Bands = slice | np.ndarray | None  # which bands of (time, band, y, x); None for an array (time, y, x)


class CubeArray(ABC):
    """A stored array (time, y, x), or (time, band, y, x), whose parts that were never written read as not observed.

    Attributes:
        where: path or URL of the file or group and name of the array, for messages.
        chunk: (rows, columns) that are stored together.
    """

    where: str
    chunk: tuple[int, int]

    @abstractmethod
    def read_part(self, images: Chosen, bands: Bands, rows: slice, cols: slice) -> np.ndarray:
        """Read a part: (N, bands, rows, columns), without an axis of bands where `bands` is None."""


@dataclass(frozen=True, kw_only=True)
class CubeLayer:
    """Some channels of the series, stored in one array.

    Attributes:
        array: reads the array.
        image_dates: (N,) datetime64[D], the days of its images.
        grid: grid of the array, north-up.
        flips: how its pixels are flipped for that.
        bands: indices of the bands to read; None for an array without an axis of bands.
        offset: additive offset of the stored numbers that the array states; None where it states none.
        factor: number of pixels of the series' grid that one of its pixels covers along each axis.
    """

    array: CubeArray
    image_dates: np.ndarray
    grid: Grid
    flips: Flips
    bands: Bands = None
    offset: float | None = None
    factor: int = 1

    def read(self, window: tuple[int, int, int, int], images: Chosen, bilinear_nodata: int | None = None) -> np.ndarray:
        """Read a window (row, col, height, width) of the series' grid: (N, channels, height, width)."""

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            part = self.array.read_part(images, self.bands, slice(row, row + height), slice(col, col + width))
            return part if self.bands is not None else part[:, None]

        return read_nested(self.flips.reader(stored, self.grid.shape), self.grid, self.factor, window, bilinear_nodata)


class LayeredCube:
    """A series whose bands lie in one array or several, on the finest of their grids. A subclass finds the arrays."""

    def _join(
        self,
        origin: str,
        sensor: Sensor,
        layers: Sequence[CubeLayer],
        quality: CubeLayer,
        *,
        resampling: str,
        same_day: str,
        offset: Offset,
    ) -> None:
        """Set the series up.

        Args:
            origin: begins error messages.
            sensor: meaning of the numbers.
            layers: one with all bands in the order of the sensor, or one for each band.
            quality: the quality layer.
            resampling: how coarser reflectance is resampled to the finest grid, `nearest` or `bilinear`.
            same_day: what is done where several images are of one day; see ImageDays.
            offset: that of scene.yaml.

        Raises ValueError when grids do not nest, dates differ, and offsets are not known or contradict each other.
        """
        check_resampling(resampling, origin)
        self.sensor = sensor
        self._bilinear_nodata = sensor.nodata if resampling == "bilinear" else None
        every = [*layers, quality]
        self.grid = min((layer.grid for layer in every), key=lambda grid: abs(grid.transform.determinant))
        check_pixel_size(self.grid, sensor, origin)
        *self._layers, self._quality = [
            replace(layer, factor=nesting_factor(layer.grid, self.grid, layer.array.where)) for layer in every
        ]
        rows, cols = np.max([np.multiply(layer.array.chunk, layer.factor) for layer in self._layers], axis=0).tolist()
        self.chunk = min(rows, self.grid.height), min(cols, self.grid.width)
        image_dates = layers[0].image_dates
        for layer in every:
            if not np.array_equal(layer.image_dates, image_dates):
                raise ValueError(f"{layer.array.where}: its dates differ from those of {layers[0].array.where}")
        self._days = ImageDays(image_dates, same_day, origin)
        self.dates = self._days.dates
        stated = stated_offsets(offset, sensor, image_dates, origin)
        # (N, 1) of one array with all bands, or (N, C) of variables, each of which may state its own.
        self._offsets = np.stack(
            [offsets_in_effect(stated, layer.offset, sensor, image_dates, layer.array.where) for layer in self._layers], axis=1
        )

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        window, images = (row, col, height, width), self._days.images(times)
        parts = [layer.read(window, images, self._bilinear_nodata) for layer in self._layers]
        quality = self._quality.read(window, images)[:, 0]
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return harmonised_series(pixels, quality, self._days.image_dates[images], self.sensor, self._offsets[images])

    def __enter__(self) -> Self:
        return self


def bands_of_stack(
    names: Sequence[str], count: int, attributes: Mapping[str, Any], sensor: Sensor, origin: str, where: str
) -> slice | np.ndarray:
    """Which bands of an array with `count` bands, which has `names`, are those of the sensor, in its order.

    Raises ValueError unless there are as many names as bands, with those of the sensor, and `attributes` fit them.
    """
    if len(names) != count:
        raise ValueError(f"{origin}: {len(names)} band names {list(names)} for {count} bands")
    positions = band_positions(names, sensor, origin)
    check_stacked_bands(positions, attributes, count, sensor, where)
    # Where the file has the band order of the sensor, a slice is much faster than a list of indices.
    return slice(None) if positions == list(range(count)) else np.array(positions)


def stated_offset(
    dtype: np.dtype, attributes: Mapping[str, Any], sensor: Sensor, where: str, band: str | None = None
) -> float | None:
    """The additive offset that the attributes of an array of reflectance state; None where they state none.

    Raises ValueError when they, or its type, do not fit the sensor, or the `band` that it holds.
    """
    if band is not None:
        check_band(band, attributes, sensor, where)
    return check_encoding(cf_encoding(dtype, attributes, where), sensor, where)


def variable_of(variables: Mapping[str, str], sensor: Sensor, origin: str) -> dict[str, str]:
    """The variable of each band, in the order of the sensor. Raises ValueError when the option `variables` lacks one."""
    band_positions(list(variables), sensor, f"{origin}, option variables")
    return {band: variables[band] for band in sensor.bands}
