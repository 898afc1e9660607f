"""Reader of Zarr cubes: one group per source, with all bands in one array, in Zarr version 2 or 3."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import zarr

from common.grid import Grid, grid_from_centres, grid_from_transform
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.file_metadata import band_positions, crs_attribute, decode_dates, text
from data_prep.readers.offsets import Offset, stated_offsets
from data_prep.readers.radiometry import check_quality_type, check_stored, harmonised_series
from data_prep.readers.zarr_chunks import ChunkCheckingStore
from data_prep.readers.zarr_store import open_store

DIMENSIONS = ("time", "band", "y", "x")
UNREADABLE_METADATA = (ValueError, TypeError, KeyError)  # Zarr raises them for invalid JSON and for unknown values in it


class ZarrCube:
    """A group with the arrays `reflectance` (time, band, y, x), quality (time, y, x), `time`, `band`, `x` and `y`.

    Options of scene.yaml:
        path: path or fsspec URL of the group, in Zarr version 2 or 3.
        offset: number to add to the stored numbers, -1000 for Sentinel-2 from processing baseline 04.00 on; or numbers by the
            date from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}`. Required where archives of the sensor differ in it.
        reflectance, time, band, x, y: names of these arrays, when they differ from the above. `x` and `y` hold the coordinates
            of pixel centres. They may be missing if the group has an attribute `transform` (six numbers in rasterio's order).
        quality: name of the quality array; by default that of the sensor's quality layer.
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
        self._store = ChunkCheckingStore(open_store(path, storage_options))
        try:
            # A Zarr group unpickles only with an object codec, which is not used here; arrays of names are plain strings.
            self._group = zarr.open_group(self._store, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise ValueError(f"{path}: no Zarr group there") from error
        except UNREADABLE_METADATA as error:
            raise ValueError(f"{path}: metadata of the group cannot be read: {error}") from error
        self._reflectance = self._array(reflectance, DIMENSIONS)
        self._quality = self._array(quality or sensor.quality.name, ("time", "y", "x"))
        fill = self._reflectance.attrs.get("_FillValue")
        check_stored(self._reflectance.dtype, fill if isinstance(fill, int | float) else None, sensor, f"{path}/{reflectance}")
        check_quality_type(self._quality.dtype, f"{path}/{self._quality.basename}")
        frames, _, height, width = self._reflectance.shape
        if self._quality.shape != (frames, height, width):
            raise ValueError(f"{path}: quality has shape {self._quality.shape}; expected {(frames, height, width)}")

        self.dates = self._dates(time, frames)
        self._offsets = stated_offsets(offset, sensor, self.dates, path)
        names = [str(name) for name in bands] if bands is not None else [text(name) for name in self._coordinate(band)]
        if len(names) != self._reflectance.shape[1]:
            raise ValueError(f"{path}: {len(names)} band names {names} for {self._reflectance.shape[1]} bands")
        positions = band_positions(names, sensor, path)
        # Where the store has the band order of the sensor, a slice is much faster than a list of indices.
        self._bands = slice(None) if positions == list(range(len(names))) else np.array(positions)
        self.grid = self._grid(x, y, crs, (height, width))
        self.chunk = min(self._reflectance.chunks[2], height), min(self._reflectance.chunks[3], width)

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        rows, cols = slice(row, row + height), slice(col, col + width)
        pixels = self._read(self._reflectance, (times, self._bands, rows, cols))
        quality = self._read(self._quality, (times, rows, cols))
        return harmonised_series(pixels, quality, self.dates[times], self.sensor, self._offsets[times])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._group.store.close()

    def _read(self, array: zarr.Array[Any], part: tuple[Any, ...]) -> np.ndarray:
        try:
            return np.asarray(array.oindex[part])
        except (RuntimeError, ValueError, EOFError, zlib.error) as error:  # what the codecs raise
            raise ValueError(
                f"{self._path}/{array.basename}: a chunk cannot be decoded, it is damaged or cut off: {error}"
            ) from error

    def _get(self, name: str) -> Any:
        try:
            return self._group.get(name)
        except UNREADABLE_METADATA as error:
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

    def _dates(self, name: str, frames: int) -> np.ndarray:
        if name not in self._group:
            raise ValueError(f"{self._path}: a series without time: no array {name!r} with the day of each image")
        dates = decode_dates(self._coordinate(name), dict(self._group[name].attrs), f"{self._path}/{name}")
        if len(dates) != frames:
            raise ValueError(f"{self._path}: {len(dates)} dates for {frames} images")
        return dates

    def _grid(self, x: str, y: str, crs: Any, shape: tuple[int, int]) -> Grid:
        attributes: dict[str, Any] = dict(self._group.attrs)
        mapping: dict[str, Any] = dict(self._group["spatial_ref"].attrs) if "spatial_ref" in self._group else {}
        crs = crs or attributes.get("crs") or mapping.get("crs_wkt") or mapping.get("spatial_ref")
        if crs is None:
            raise ValueError(f"{self._path}: no coordinate reference system: no attribute crs; give `crs: EPSG:n` in scene.yaml")
        if "transform" in attributes:
            return grid_from_transform(attributes["transform"], crs_attribute(crs), shape, self._path)
        grid = grid_from_centres(self._coordinate(x), self._coordinate(y), crs_attribute(crs), self._path)
        if grid.shape != shape:
            raise ValueError(f"{self._path}: {grid.height} y and {grid.width} x coordinates for images of {shape}")
        return grid
