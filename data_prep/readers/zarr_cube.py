"""Reader of Zarr cubes: one group per source, with all bands in one array, in Zarr version 2 or 3."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import zarr

from common.errors import is_data_error
from common.grid import Grid, check_centres, grid_from_centres, grid_from_transform
from common.north_up import ReadWindow, north_up
from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import band_positions, check_stacked_bands
from data_prep.readers.base import Series
from data_prep.readers.encoding import cf_encoding, check_encoding, check_quality
from data_prep.readers.file_metadata import crs_attribute, decode_days, text
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import Offset, offsets_in_effect, stated_offsets
from data_prep.readers.radiometry import harmonised_series, unobserved_code, unobserved_number
from data_prep.readers.same_day import ImageDays
from data_prep.readers.zarr_chunks import ChunkCheckingStore, with_fill_value
from data_prep.readers.zarr_store import open_store

DIMENSIONS = ("time", "band", "y", "x")
ABSENT_QUALITY = ("unobserved", "fill_value")
UNREADABLE_METADATA = (ValueError, TypeError, KeyError)  # Zarr raises them for invalid JSON and for unknown values in it


class ZarrCube:
    """A group with the arrays `reflectance` (time, band, y, x), quality (time, y, x), `time`, `band`, `x` and `y`.

    The attributes scale_factor, add_offset and _FillValue of the reflectance must agree with the sensor. A group does not say
    which product it is from: bands are told by their names, and by common names and wavelengths where attributes or coordinates
    (common_name, center_wavelength, radiation_wavelength) state them.

    What an absent chunk holds was not observed, whatever the fill value of the array. A quality array of which no chunk is
    stored has one code, its fill value, if the store can be listed. An absent chunk of the coordinates holds the fill value.

    Options of scene.yaml:
        path: path or fsspec URL of the group, in Zarr version 2 or 3.
        offset: number to add to the stored numbers, -1000 for Sentinel-2 from processing baseline 04.00 on; or numbers by the
            date from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}`. Required where archives of the sensor differ in it
            and the file does not state it (add_offset). It must not contradict the file.
        reflectance, time, band, x, y: names of these arrays, when they differ from the above. `x` and `y` hold the coordinates
            of pixel centres. They may be missing if the group has an attribute `transform` (six numbers in rasterio's order), and
            must not contradict it.
        quality: name of the quality array; by default that of the sensor's quality layer.
        absent_quality: what absent chunks of the quality array hold where others are stored: `unobserved` (default) or
            `fill_value`. Zarr and xarray leave out chunks that hold nothing but the fill value (write_empty_chunks=False); if
            that value is a clear code, only `fill_value` reads such a store right, and a note says so.
        same_day: what is done where several images are of one day: `mosaic` (default) takes at each pixel the first clear
            observation; `error` raises an error.
        bands: list of band names, for groups without an array `band`.
        crs: coordinate reference system, for groups without an attribute `crs` or a CF variable `spatial_ref`.
        storage_options: options of the file system of an fsspec URL, such as credentials.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        offset: Offset = None,
        reflectance: str = "reflectance",
        quality: str | None = None,
        absent_quality: str = ABSENT_QUALITY[0],
        same_day: str = "mosaic",
        time: str = "time",
        band: str = "band",
        x: str = "x",
        y: str = "y",
        bands: Sequence[str] | None = None,
        crs: str | int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sensor = sensor
        self._path = path
        if absent_quality not in ABSENT_QUALITY:
            raise ValueError(f"{path}: absent_quality is {absent_quality!r}; expected one of {', '.join(ABSENT_QUALITY)}")
        self._store = ChunkCheckingStore(open_store(path, storage_options))
        try:
            # A Zarr group unpickles only with an object codec, which is not used here; arrays of names are plain strings.
            self._group = zarr.open_group(self._store, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise ValueError(f"{path}: no Zarr group there") from error
        except UNREADABLE_METADATA as error:
            if not is_data_error(error):
                raise
            raise ValueError(f"{path}: metadata of the group cannot be read: {error}") from error
        self._reflectance = self._array(reflectance, DIMENSIONS)
        self._quality = self._array(quality or sensor.quality.name, ("time", "y", "x"))
        origin, of_quality = f"{path}/{reflectance}", f"{path}/{self._quality.basename}"
        in_file = check_encoding(cf_encoding(self._reflectance.dtype, self._reflectance.attrs, origin), sensor, origin)
        check_quality(self._quality.dtype, self._quality.attrs, sensor, of_quality)
        self._reflectance = with_fill_value(self._reflectance, unobserved_number(self._reflectance.dtype, sensor, origin))
        # The array as it is stored, where its fill value may be meant: then it is a clear code.
        self._filled_quality: zarr.Array[Any] | None = None
        if absent_quality == ABSENT_QUALITY[0]:
            fill = np.array([self._quality.fill_value or 0]).astype(self._quality.dtype)  # Zarr version 2 may have none: 0
            self._filled_quality = self._quality if sensor.quality.clear(fill).any() else None
            self._quality = with_fill_value(self._quality, unobserved_code(self._quality.dtype, sensor.quality, of_quality))
        frames, _, height, width = self._reflectance.shape
        if self._quality.shape != (frames, height, width):
            raise ValueError(f"{path}: quality has shape {self._quality.shape}; expected {(frames, height, width)}")

        self._days = self._image_days(time, frames, same_day)
        self.dates, image_dates = self._days.dates, self._days.image_dates
        stated = stated_offsets(offset, sensor, image_dates, path)
        self._offsets = offsets_in_effect(stated, in_file, sensor, image_dates, origin)
        names = [str(name) for name in bands] if bands is not None else [text(name) for name in self._coordinate(band)]
        if len(names) != self._reflectance.shape[1]:
            raise ValueError(f"{path}: {len(names)} band names {names} for {self._reflectance.shape[1]} bands")
        positions = band_positions(names, sensor, path)
        check_stacked_bands(positions, self._band_attributes(), len(names), sensor, f"{path}/{reflectance}")
        # Where the store has the band order of the sensor, a slice is much faster than a list of indices.
        self._bands = slice(None) if positions == list(range(len(names))) else np.array(positions)
        self.grid, self._flips = north_up(self._grid(x, y, crs, (height, width)))
        check_pixel_size(self.grid, sensor, path)
        self.chunk = min(self._reflectance.chunks[2], height), min(self._reflectance.chunks[3], width)

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        images = self._days.images(times)

        def read(stored: ReadWindow) -> np.ndarray:
            return self._flips.reader(stored, self.grid.shape)(row, col, height, width)

        def pixels(row: int, col: int, height: int, width: int) -> np.ndarray:
            return self._read(self._reflectance, (images, self._bands, slice(row, row + height), slice(col, col + width)))

        def quality(row: int, col: int, height: int, width: int) -> np.ndarray:
            return self._read_quality((images, slice(row, row + height), slice(col, col + width)))

        dates = self._days.image_dates[images]
        return harmonised_series(read(pixels), read(quality), dates, self.sensor, self._offsets[images])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._group.store.close()

    def _read(self, array: zarr.Array[Any], part: tuple[Any, ...]) -> np.ndarray:
        self._store.absent.discard(array.path)
        try:
            return np.asarray(array.oindex[part])
        except (RuntimeError, ValueError, EOFError, zlib.error) as error:  # what the codecs raise
            if not is_data_error(error):
                raise
            raise ValueError(
                f"{self._path}/{array.basename}: a chunk cannot be decoded, it is damaged or cut off: {error}"
            ) from error

    def _read_quality(self, part: tuple[Any, ...]) -> np.ndarray:
        codes = self._read(self._quality, part)
        filled = self._filled_quality
        if filled is None:
            return codes
        is_absent = filled.path in self._store.absent
        if filled.shards is not None and not is_absent and self._quality.fill_value in codes:
            # The code may be stored. Only another fill value tells that a chunk is absent from a shard.
            is_absent = not np.array_equal(self._read(filled, part), codes)
        if not is_absent:
            return codes
        self._filled_quality = None  # decided once
        if not self._store.has_chunks(filled):
            self._quality = filled
            return self._read(filled, part)
        note(
            f"{self._path}/{filled.basename}: some chunks are absent and count as not observed, though the fill value "
            f"{filled.fill_value} is a clear code; if the store leaves out chunks of that code (write_empty_chunks=False), state "
            "`absent_quality: fill_value`"
        )
        return codes

    def _get(self, name: str) -> Any:
        try:
            return self._group.get(name)
        except UNREADABLE_METADATA as error:
            if not is_data_error(error):
                raise
            raise ValueError(f"{self._path}: metadata of {name} cannot be read: {error}") from error

    def _held(self) -> str:
        """The names of the arrays, for messages."""
        return str(sorted(self._group.array_keys())) if self._group.store.supports_listing else "arrays that cannot be listed"

    def _array(self, name: str, dimensions: tuple[str, ...]) -> zarr.Array[Any]:
        found = self._get(name)
        if not isinstance(found, zarr.Array):
            raise ValueError(f"{self._path}: no array {name!r}; it holds {self._held()}")
        # Zarr version 3 stores names of dimensions itself; for version 2, xarray writes them as an attribute.
        names: Any = getattr(found.metadata, "dimension_names", None) or found.attrs.get("_ARRAY_DIMENSIONS")
        if found.ndim != len(dimensions):
            raise ValueError(f"{self._path}/{name}: has shape {found.shape}; expected the axes {dimensions}")
        self._store.watch(found)
        order = [dimension for dimension in names or () if dimension in dimensions]
        if order and order != [dimension for dimension in dimensions if dimension in order]:
            raise ValueError(f"{self._path}/{name}: axes are {tuple(names)}; expected the order {dimensions}, so transpose it")
        return found

    def _coordinate(self, name: str) -> np.ndarray:
        found = self._get(name)
        if not isinstance(found, zarr.Array) or found.ndim != 1:
            raise ValueError(f"{self._path}: no one-dimensional array {name!r}; it holds {self._held()}")
        self._store.watch(found)
        return self._read(found, (slice(None),))

    def _band_attributes(self) -> dict[str, Any]:
        """Attributes of the reflectance, and the coordinates that it names (CF Conventions 1.11, section 5)."""
        attributes: dict[str, Any] = dict(self._reflectance.attrs)
        for name in text(attributes.get("coordinates", "")).split():
            if isinstance(found := self._get(name), zarr.Array) and found.ndim == 1:
                attributes[name] = self._coordinate(name)
        return attributes

    def _image_days(self, name: str, frames: int, same_day: str) -> ImageDays:
        if name not in self._group:
            raise ValueError(f"{self._path}: a series without time: no array {name!r} with the day of each image")
        dates = decode_days(self._coordinate(name), dict(self._group[name].attrs), f"{self._path}/{name}")
        if len(dates) != frames:
            raise ValueError(f"{self._path}: {len(dates)} dates for {frames} images")
        return ImageDays(dates, same_day, f"{self._path}/{name}")

    def _grid(self, x: str, y: str, crs: Any, shape: tuple[int, int]) -> Grid:
        attributes: dict[str, Any] = dict(self._group.attrs)
        mapping: dict[str, Any] = dict(self._group["spatial_ref"].attrs) if "spatial_ref" in self._group else {}
        crs = crs or attributes.get("crs") or mapping.get("crs_wkt") or mapping.get("spatial_ref")
        if crs is None:
            raise ValueError(f"{self._path}: no coordinate reference system: no attribute crs; give `crs: EPSG:n` in scene.yaml")
        if "transform" in attributes:
            grid = grid_from_transform(attributes["transform"], crs_attribute(crs), shape, self._path)
            if isinstance(self._get(x), zarr.Array) and isinstance(self._get(y), zarr.Array):
                check_centres(grid, self._coordinate(x), self._coordinate(y), self._path)
            return grid
        grid = grid_from_centres(self._coordinate(x), self._coordinate(y), crs_attribute(crs), self._path)
        if grid.shape != shape:
            raise ValueError(f"{self._path}: {grid.height} y and {grid.width} x coordinates for images of {shape}")
        return grid
