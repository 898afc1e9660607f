"""Reader of HDF5 and netCDF-4 cubes: all bands in one dataset, or one variable per band in one or more files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import h5py
import numpy as np

from common.grid import Grid, stated_grid
from common.north_up import Flips, north_up
from data_prep.archive.sensor import Sensor
from data_prep.readers.axes import check_order
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
from data_prep.readers.encoding import check_quality
from data_prep.readers.file_metadata import crs_attribute, decode_days, text, texts
from data_prep.readers.hdf5_files import WrittenParts, attribute, dataset_name, held_names, open_hdf5
from data_prep.readers.offsets import Offset
from data_prep.readers.radiometry import unobserved_code, unobserved_number


class _Dataset(CubeArray):
    """A dataset (time, y, x), or (time, band, y, x); `unobserved` marks what was never written."""

    def __init__(self, dataset: h5py.Dataset, unobserved: int) -> None:
        self._parts, self.where = WrittenParts(dataset, unobserved), dataset_name(dataset)
        rows, cols = dataset.chunks[-2:] if dataset.chunks else (1, dataset.shape[-1])  # without chunks stored row by row
        self.chunk = rows, cols

    def read_part(self, images: Chosen, bands: Bands, rows: slice, cols: slice) -> np.ndarray:
        # h5py reads single indices slowly and only in ascending order: read the span that contains them, then choose.
        shape = self._parts.dataset.shape
        chosen = np.arange(shape[0])[images]
        first, last = (int(chosen.min()), int(chosen.max())) if len(chosen) else (0, -1)
        all_bands = () if bands is None else (slice(0, shape[1]),)
        pixels = self._parts.read((slice(first, last + 1), *all_bands, rows, cols))[chosen - first]
        return pixels if bands is None else np.asarray(pixels[:, bands])


class Hdf5Cube(LayeredCube):
    """One HDF5 or netCDF-4 file, or several on nested grids, as one series on the finest of their grids.

    A stacked file has a dataset `reflectance` (T, C, H, W), a dataset `dates` (T,), and the attributes `crs`, `transform` (six
    numbers in rasterio's order) and `bands`, on the dataset or on the file.

    A file with one variable per band (option `variables`) has variables (time, y, x) with the CF coordinates `time`, `x`, `y`
    and a grid mapping `spatial_ref`, or with the attributes above. Variables may lie in groups; coordinates and the grid mapping
    are looked for in the group of a variable, then in those around it.

    The attributes scale_factor, add_offset and _FillValue (or missing_value, nodata) of the reflectance must agree with the
    sensor. A file does not say which product it is from: bands are told by their names, and by common names and wavelengths where
    attributes or coordinates (common_name, center_wavelength, radiation_wavelength) state them. Chunks and datasets that were
    never written were not observed, whatever their fill value; but chunks that were allocated when the file was made, as parallel
    HDF5 does, cannot be told from written ones.

    Options of scene.yaml:
        path: path or fsspec URL of the file.
        paths: list of files or URLs instead of `path`. A variable is read from the first file that has it. The grids of coarser
            files must nest in the finest one.
        variables: variable of each band of the sensor, `{B02: B2, B8A: r20m/B8A, ...}`.
        reflectance, dates: names of the datasets of a stacked file. Without a dataset `dates`, `time` is used.
        quality: name of the quality dataset; by default that of the sensor's quality layer.
        same_day: what is done where several images are of one day: `mosaic` (default) takes at each pixel the first clear
            observation; `error` raises an error.
        bands, crs: band names and coordinate reference system, for files that do not state them.
        resampling: how coarser reflectance is resampled to the finest grid: `nearest` (default; it keeps the measured numbers)
            or `bilinear`. Quality is always resampled with nearest neighbours.
        offset: number to add to the stored numbers, -1000 for Sentinel-2 from processing baseline 04.00 on; or numbers by the
            date from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}`. Required where archives of the sensor differ in it
            and the file does not state it (add_offset). It must not contradict the file.
        storage_options: options of the file system of an fsspec URL, such as credentials.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sensor: Sensor,
        *,
        variables: Mapping[str, str] | None = None,
        reflectance: str = "reflectance",
        quality: str | None = None,
        dates: str = "dates",
        same_day: str = "mosaic",
        bands: Sequence[str] | None = None,
        crs: str | int | None = None,
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._sensor, self._origin = sensor, ", ".join(paths)
        self._crs = crs
        self._time_name = dates
        self._stack = ExitStack()
        self._files: list[h5py.File] = []
        try:
            for path in paths:
                self._files.append(open_hdf5(path, storage_options, self._stack))
            stack = None
            if variables is None:
                stack = self._find(reflectance, "(T, C, H, W); or give `variables` for files with one variable per band", 4)
                layers = [self._stack_layer(stack, bands)]
            else:
                named = variable_of(variables, sensor, self._origin)
                layers = [self._reflectance_layer(self._find(name, "(time, y, x)", 3), band) for band, name in named.items()]
            codes = self._find(quality or sensor.quality.name, "(time, y, x), the quality layer", 3)
            # A quality layer beside stacked reflectance has the same grid and need not state it again.
            shares_grid = stack is not None and codes.file == stack.file and codes.shape[1:] == stack.shape[2:]
            placed = (layers[0].grid, layers[0].flips) if shares_grid else self._placed(codes)
            self._join(
                self._origin,
                sensor,
                layers,
                self._quality_layer(codes, *placed),
                resampling=resampling,
                same_day=same_day,
                offset=offset,
            )
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _stack_layer(self, dataset: h5py.Dataset, bands: Sequence[str] | None) -> CubeLayer:
        """The layer of a dataset with all bands, whose names are `bands`, or in its attribute of this name."""
        names, where = bands if bands is not None else attribute(dataset, "bands"), dataset_name(dataset)
        if names is None:
            raise ValueError(f"{where}: has no attribute bands; name them in scene.yaml, `bands: [...]`")
        names = texts(names)
        chosen = bands_of_stack(names, dataset.shape[1], _band_attributes(dataset), self._sensor, self._origin, where)
        return self._reflectance_layer(dataset, bands=chosen)

    def _reflectance_layer(self, dataset: h5py.Dataset, band: str | None = None, bands: Bands = None) -> CubeLayer:
        where = dataset_name(dataset)
        offset = stated_offset(dataset.dtype, dataset.attrs, self._sensor, where, band)
        array = _Dataset(dataset, unobserved_number(dataset.dtype, self._sensor, where))
        grid, flips = self._placed(dataset)
        return CubeLayer(array=array, image_dates=self._dates(dataset), grid=grid, flips=flips, bands=bands, offset=offset)

    def _quality_layer(self, dataset: h5py.Dataset, grid: Grid, flips: Flips) -> CubeLayer:
        where = dataset_name(dataset)
        check_quality(dataset.dtype, dataset.attrs, self._sensor, where)
        array = _Dataset(dataset, unobserved_code(dataset.dtype, self._sensor.quality, where))
        return CubeLayer(array=array, image_dates=self._dates(dataset), grid=grid, flips=flips)

    def _placed(self, dataset: h5py.Dataset) -> tuple[Grid, Flips]:
        return north_up(stored_grid(dataset, self._crs))

    def _find(self, name: str, shape: str, ndim: int) -> h5py.Dataset:
        for file in self._files:
            found = file.get(name)
            if isinstance(found, h5py.Dataset):
                if found.ndim != ndim:
                    raise ValueError(f"{dataset_name(found)}: has shape {found.shape}; expected {shape}")
                axes = ("time", "band", "y", "x") if ndim == 4 else ("time", "y", "x")
                check_order(_dimensions(found), axes, dataset_name(found), {"time": self._time_name})
                return found
        held = sorted({name for file in self._files for name in held_names(file)})
        raise ValueError(f"{self._origin}: no dataset {name!r} {shape}; found {held}")

    def _dates(self, dataset: h5py.Dataset) -> np.ndarray:
        axes = (_nearest(dataset, name) for name in (self._time_name, "time"))
        axis = next((axis for axis in axes if axis is not None), None)
        if axis is None:
            raise ValueError(f"{dataset.file.filename}: a series without time: no dataset {self._time_name!r} nor 'time'")
        dates = decode_days(axis[:], dict(axis.attrs), dataset_name(axis))
        if len(dates) != dataset.shape[0]:
            raise ValueError(f"{dataset_name(dataset)}: {len(dates)} dates for {dataset.shape[0]} images")
        return dates


def _nearest(dataset: h5py.Dataset, name: str) -> h5py.Dataset | None:
    """The dataset `name` in the group of a dataset, else in the groups around it (CF Conventions 1.11, section 2.7); or None."""
    group = dataset.parent
    while name not in group and group.name != "/":
        group = group.parent
    found = group.get(name)
    return found if isinstance(found, h5py.Dataset) else None


def _band_attributes(dataset: h5py.Dataset) -> dict[str, Any]:
    """Attributes of a dataset, and the coordinates that it names (CF Conventions 1.11, section 5)."""
    attributes = dict(dataset.attrs)
    for name in text(attributes.get("coordinates", "")).split():
        if (found := _nearest(dataset, name)) is not None and found.ndim == 1:
            attributes[name] = found[:]
    return attributes


def stored_grid(dataset: h5py.Dataset, crs: str | int | None) -> Grid:
    """The grid of a dataset (..., H, W) as it is stored; `crs`: that of scene.yaml, None for that of the file.

    Raises ValueError for a dataset without a CRS, and without a transform and coordinates, or where these contradict each other.
    """
    origin = dataset_name(dataset)
    mapping = _nearest(dataset, text(dataset.attrs.get("grid_mapping", "spatial_ref")))
    crs = crs or attribute(dataset, "crs")
    if crs is None and mapping is not None:
        crs = mapping.attrs.get("crs_wkt", mapping.attrs.get("spatial_ref"))
    if crs is None:
        raise ValueError(f"{origin}: no coordinate reference system; give `crs: EPSG:n` in scene.yaml")
    x, y = (None if (found := _nearest(dataset, name)) is None else found[:] for name in ("x", "y"))
    return stated_grid({**dataset.file.attrs, **dataset.attrs}, x, y, crs_attribute(crs), dataset.shape[-2:], origin)


def _dimensions(dataset: h5py.Dataset) -> list[str]:
    """Names of the dimension scales of the axes, as netCDF-4 writes them; empty without scales."""
    return [scale[0].name.rsplit("/", 1)[-1] for scale in dataset.dims if len(scale)]
