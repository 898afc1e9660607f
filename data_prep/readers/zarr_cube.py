"""Reader of Zarr cubes, in Zarr version 2 or 3: all bands in one array, or one variable per band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.grid import Grid, stated_grid
from common.north_up import north_up
from common.notes import note
from data_prep.archive.sensor import Quality, Sensor
from data_prep.readers.cube_layers import (
    Bands,
    Chosen,
    CubeArray,
    CubeLayer,
    LayeredCube,
    bands_of_stack,
    stated_offset,
    variable_of,
)
from data_prep.readers.file_metadata import crs_attribute, decode_days, text
from data_prep.readers.offsets import Offset
from data_prep.readers.zarr_groups import StoredArray, ZarrGroup

STACK, VARIABLE = ("time", "band", "y", "x"), ("time", "y", "x")
ABSENT_QUALITY = ("unobserved", "fill_value")


class _Array(CubeArray):
    """An array (time, y, x), or (time, band, y, x)."""

    def __init__(self, stored: StoredArray) -> None:
        self._stored, self.where, self.chunk = stored, stored.where, stored.chunk

    def read_part(self, images: Chosen, bands: Bands, rows: slice, cols: slice) -> np.ndarray:
        return self._stored.read((images, rows, cols) if bands is None else (images, bands, rows, cols))


class _Codes(_Array):
    """A quality array whose absent chunks were not observed, or hold the fill value where no chunk is stored.

    Args:
        stored: the array with absent chunks that read as not observed.
        filled: the array as it is stored.
    """

    def __init__(self, stored: StoredArray, filled: StoredArray, quality: Quality) -> None:
        super().__init__(stored)
        fill = np.array([filled.array.fill_value or 0]).astype(filled.array.dtype)  # Zarr version 2 may have none: 0
        self._filled = filled if quality.clear(fill).any() else None  # where its fill value may be meant: then it is a clear code

    def read_part(self, images: Chosen, bands: Bands, rows: slice, cols: slice) -> np.ndarray:
        codes = super().read_part(images, bands, rows, cols)
        filled = self._filled
        if filled is None:
            return codes
        array, store = filled.array, filled.store
        is_absent = array.path in store.absent
        if array.shards is not None and not is_absent and self._stored.array.fill_value in codes:
            # The code may be stored. Only another fill value tells that a chunk is absent from a shard.
            is_absent = not np.array_equal(filled.read((images, rows, cols)), codes)
        if not is_absent:
            return codes
        self._filled = None  # decided once
        if not store.has_chunks(array):
            self._stored = filled
            return filled.read((images, rows, cols))
        note(
            f"{filled.where}: some chunks are absent and count as not observed, though the fill value {array.fill_value} is a "
            "clear code; if the store leaves out chunks of that code (write_empty_chunks=False), state "
            "`absent_quality: fill_value`"
        )
        return codes


class ZarrCube(LayeredCube):
    """A group with the arrays `reflectance` (time, band, y, x), quality (time, y, x), `time`, `band`, `x` and `y`.

    A group with one variable per band (option `variables`), as xarray writes datasets, has variables (time, y, x) instead. They
    may lie in subgroups and on nested grids; coordinates, `spatial_ref`, `crs` and `transform` are looked for in the group of a
    variable, then in those around it.

    The attributes scale_factor, add_offset and _FillValue (or missing_value, nodata) of the reflectance must agree with the
    sensor. A group does not say which product it is from: bands are told by their names, and by common names and wavelengths
    where attributes or coordinates (common_name, center_wavelength, radiation_wavelength) state them.

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
        variables: variable of each band of the sensor, `{B02: b02, B8A: r20m/b8a, ...}`.
        resampling: how coarser reflectance is resampled to the finest grid: `nearest` (default; it keeps the measured numbers)
            or `bilinear`. Quality is always resampled with nearest neighbours.
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
        variables: Mapping[str, str] | None = None,
        resampling: str = "nearest",
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
        if absent_quality not in ABSENT_QUALITY:
            raise ValueError(f"{path}: absent_quality is {absent_quality!r}; expected one of {', '.join(ABSENT_QUALITY)}")
        self._path, self._sensor, self._crs = path, sensor, crs
        self._names = {"time": time, "x": x, "y": y}
        self._read: dict[str, np.ndarray] = {}  # coordinates by path, as variables share them
        self._group = ZarrGroup(path, storage_options)
        axes = {**self._names, "band": band}
        codes = self._group.array(quality or sensor.quality.name, VARIABLE, axes)
        if variables is None:
            layers = [self._stack_layer(self._group.array(reflectance, STACK, axes), band, bands)]
        else:
            named = variable_of(variables, sensor, path)
            layers = [self._reflectance_layer(self._group.array(name, VARIABLE, axes), of) for of, name in named.items()]
        marked = codes.quality(sensor, codes.attributes)
        array = _Codes(marked, codes, sensor.quality) if absent_quality == ABSENT_QUALITY[0] else _Array(codes)
        self._join(path, sensor, layers, self._layer(codes, array), resampling=resampling, same_day=same_day, offset=offset)

    def __exit__(self, *exception: object) -> None:
        self._group.close()

    def _stack_layer(self, stored: StoredArray, band: str, bands: Sequence[str] | None) -> CubeLayer:
        """The layer of an array with all bands, whose names are `bands`, or the values of the array `band`."""
        names = [str(name) for name in bands] if bands is not None else list(map(text, self._coordinate(stored, band)))
        count, attributes = stored.array.shape[1], self._band_attributes(stored)
        chosen = bands_of_stack(names, count, attributes, self._sensor, self._path, stored.where)
        return self._reflectance_layer(stored, bands=chosen)

    def _reflectance_layer(self, stored: StoredArray, band: str | None = None, bands: Bands = None) -> CubeLayer:
        offset = stated_offset(stored.array.dtype, stored.attributes, self._sensor, stored.where, band)
        return self._layer(stored, _Array(stored.reflectance(self._sensor)), bands=bands, offset=offset)

    def _layer(self, stored: StoredArray, array: CubeArray, **more: Any) -> CubeLayer:
        grid, flips = north_up(self._grid(stored))
        return CubeLayer(array=array, image_dates=self._dates(stored), grid=grid, flips=flips, **more)

    def _coordinate(self, stored: StoredArray, name: str) -> np.ndarray:
        found = self._group.coordinate(stored, name)
        if found.where not in self._read:
            self._read[found.where] = found.read((slice(None),))
        return self._read[found.where]

    def _band_attributes(self, stored: StoredArray) -> dict[str, Any]:
        """Attributes of the reflectance, and the coordinates that it names (CF Conventions 1.11, section 5)."""
        attributes = stored.attributes
        for name in text(attributes.get("coordinates", "")).split():
            if (found := self._group.nearest(stored, name)) is not None and found.array.ndim == 1:
                attributes[name] = self._coordinate(stored, name)
        return attributes

    def _dates(self, stored: StoredArray) -> np.ndarray:
        name, frames = self._names["time"], stored.array.shape[0]
        axis = self._group.nearest(stored, name)
        if axis is None:
            raise ValueError(f"{self._path}: a series without time: no array {name!r} with the day of each image")
        dates = decode_days(self._coordinate(stored, name), axis.attributes, axis.where)
        if len(dates) != frames:
            raise ValueError(f"{stored.where}: {len(dates)} dates for {frames} images")
        return dates

    def _grid(self, stored: StoredArray) -> Grid:
        """The grid of an array as it is stored."""
        mapping = self._group.nearest(stored, text(stored.attributes.get("grid_mapping", "spatial_ref")))
        attributes = self._group.nearest_attributes(stored)
        crs = self._crs or attributes.get("crs")
        if crs is None and mapping is not None:
            crs = mapping.attributes.get("crs_wkt") or mapping.attributes.get("spatial_ref")
        if crs is None:
            raise ValueError(f"{self._path}: no coordinate reference system: no attribute crs; give `crs: EPSG:n` in scene.yaml")
        x, y = (self._pixel_centres(stored, self._names[axis], "transform" not in attributes) for axis in ("x", "y"))
        height, width = stored.array.shape[-2:]
        return stated_grid(attributes, x, y, crs_attribute(crs), (height, width), self._path)

    def _pixel_centres(self, stored: StoredArray, name: str, required: bool) -> np.ndarray | None:
        return self._coordinate(stored, name) if required or self._group.nearest(stored, name) is not None else None
