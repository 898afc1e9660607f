"""Reader of Zarr cubes: one group per source, with all bands in one array, in Zarr version 2 or 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from common.grid import Grid, stated_grid
from common.north_up import ReadWindow, north_up
from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import band_positions, check_stacked_bands
from data_prep.readers.base import Series
from data_prep.readers.encoding import cf_encoding, check_encoding
from data_prep.readers.file_metadata import crs_attribute, decode_dates, text
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import Offset, offsets_in_effect, stated_offsets
from data_prep.readers.radiometry import harmonised_series
from data_prep.readers.zarr_groups import StoredArray, ZarrGroup

DIMENSIONS = ("time", "band", "y", "x")
ABSENT_QUALITY = ("unobserved", "fill_value")


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
        self._group = ZarrGroup(path, storage_options)
        stored = self._group.array(reflectance, DIMENSIONS)
        codes = self._group.array(quality or sensor.quality.name, ("time", "y", "x"))
        origin = stored.where
        in_file = check_encoding(cf_encoding(stored.array.dtype, stored.attributes, origin), sensor, origin)
        self._reflectance = stored.reflectance(sensor)
        self._quality = codes.quality(sensor, codes.attributes)
        # The array as it is stored, where its fill value may be meant: then it is a clear code.
        self._filled_quality: StoredArray | None = None
        if absent_quality == ABSENT_QUALITY[0]:
            fill = np.array([codes.array.fill_value or 0]).astype(codes.array.dtype)  # Zarr version 2 may have none: 0
            self._filled_quality = codes if sensor.quality.clear(fill).any() else None
        else:
            self._quality = codes
        frames, _, height, width = stored.array.shape
        if codes.array.shape != (frames, height, width):
            raise ValueError(f"{path}: quality has shape {codes.array.shape}; expected {(frames, height, width)}")

        self.dates = self._dates(time, frames)
        stated = stated_offsets(offset, sensor, self.dates, path)
        self._offsets = offsets_in_effect(stated, in_file, sensor, self.dates, origin)
        names = [str(name) for name in bands] if bands is not None else [text(name) for name in self._group.coordinate(band)]
        if len(names) != stored.array.shape[1]:
            raise ValueError(f"{path}: {len(names)} band names {names} for {stored.array.shape[1]} bands")
        positions = band_positions(names, sensor, path)
        check_stacked_bands(positions, self._band_attributes(), len(names), sensor, origin)
        # Where the store has the band order of the sensor, a slice is much faster than a list of indices.
        self._bands = slice(None) if positions == list(range(len(names))) else np.array(positions)
        self.grid, self._flips = north_up(self._grid(x, y, crs, (height, width)))
        check_pixel_size(self.grid, sensor, path)
        rows, cols = stored.chunk
        self.chunk = min(rows, height), min(cols, width)

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)

        def read(stored: ReadWindow) -> np.ndarray:
            return self._flips.reader(stored, self.grid.shape)(row, col, height, width)

        def pixels(row: int, col: int, height: int, width: int) -> np.ndarray:
            return self._reflectance.read((times, self._bands, slice(row, row + height), slice(col, col + width)))

        def quality(row: int, col: int, height: int, width: int) -> np.ndarray:
            return self._read_quality((times, slice(row, row + height), slice(col, col + width)))

        return harmonised_series(read(pixels), read(quality), self.dates[times], self.sensor, self._offsets[times])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._group.close()

    def _read_quality(self, part: tuple[Any, ...]) -> np.ndarray:
        codes = self._quality.read(part)
        filled = self._filled_quality
        if filled is None:
            return codes
        array, store = filled.array, filled.store
        is_absent = array.path in store.absent
        if array.shards is not None and not is_absent and self._quality.array.fill_value in codes:
            # The code may be stored. Only another fill value tells that a chunk is absent from a shard.
            is_absent = not np.array_equal(filled.read(part), codes)
        if not is_absent:
            return codes
        self._filled_quality = None  # decided once
        if not store.has_chunks(array):
            self._quality = filled
            return filled.read(part)
        note(
            f"{filled.where}: some chunks are absent and count as not observed, though the fill value {array.fill_value} is a "
            "clear code; if the store leaves out chunks of that code (write_empty_chunks=False), state "
            "`absent_quality: fill_value`"
        )
        return codes

    def _band_attributes(self) -> dict[str, Any]:
        """Attributes of the reflectance, and the coordinates that it names (CF Conventions 1.11, section 5)."""
        attributes = self._reflectance.attributes
        for name in text(attributes.get("coordinates", "")).split():
            if (found := self._group.find(name)) is not None and found.array.ndim == 1:
                attributes[name] = found.read((slice(None),))
        return attributes

    def _dates(self, name: str, frames: int) -> np.ndarray:
        stored = self._group.find(name)
        if stored is None:
            raise ValueError(f"{self._path}: a series without time: no array {name!r} with the day of each image")
        dates = decode_dates(self._group.coordinate(name), stored.attributes, stored.where)
        if len(dates) != frames:
            raise ValueError(f"{self._path}: {len(dates)} dates for {frames} images")
        return dates

    def _grid(self, x: str, y: str, crs: Any, shape: tuple[int, int]) -> Grid:
        attributes = self._group.attributes
        mapping = self._group.find("spatial_ref")
        crs = crs or attributes.get("crs")
        if crs is None and mapping is not None:
            crs = mapping.attributes.get("crs_wkt") or mapping.attributes.get("spatial_ref")
        if crs is None:
            raise ValueError(f"{self._path}: no coordinate reference system: no attribute crs; give `crs: EPSG:n` in scene.yaml")
        transform = attributes.get("transform")
        at_x, at_y = self._coordinates(x, required=transform is None), self._coordinates(y, required=transform is None)
        return stated_grid(transform, at_x, at_y, crs_attribute(crs), shape, self._path)

    def _coordinates(self, name: str, required: bool) -> np.ndarray | None:
        return self._group.coordinate(name) if required or self._group.find(name) is not None else None
