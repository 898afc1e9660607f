"""Reader of HDF5 and netCDF-4 cubes: all bands in one dataset, or one variable per band in one or more files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

import h5py
import numpy as np

from common.grid import Grid, nesting_factor, stated_grid
from common.north_up import Flips, north_up
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import band_positions, check_band, check_stacked_bands
from data_prep.readers.base import Series
from data_prep.readers.encoding import cf_encoding, check_encoding, check_quality
from data_prep.readers.file_metadata import crs_attribute, decode_dates, text
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.hdf5_files import WrittenParts, attribute, dataset_name, open_hdf5
from data_prep.readers.offsets import Offset, offsets_in_effect, stated_offsets
from data_prep.readers.radiometry import harmonised_series, unobserved_code, unobserved_number
from data_prep.readers.resampling import check_resampling, read_nested


@dataclass(frozen=True)
class _Layer:
    """Some channels of the series, stored in one dataset.

    Attributes:
        parts: reads parts of the dataset (time, y, x), or (time, band, y, x).
        grid: grid of the dataset, north-up.
        flips: how its pixels are flipped for that.
        channels: indices of the bands to read from (time, band, y, x); None for (time, y, x).
        offset: additive offset of the stored numbers that the dataset states; None where it states none.
        factor: number of pixels of the series' grid that one of its pixels covers along each axis.
    """

    parts: WrittenParts
    grid: Grid
    flips: Flips
    channels: list[int] | None = None
    offset: float | None = None
    factor: int = 1

    @property
    def dataset(self) -> h5py.Dataset:
        return self.parts.dataset

    @property
    def chunk(self) -> tuple[int, int]:
        """(rows, columns) of the series' grid that one chunk covers; a dataset without chunks is stored row by row."""
        rows, cols = self.dataset.chunks[-2:] if self.dataset.chunks else (1, self.dataset.shape[-1])
        return rows * self.factor, cols * self.factor

    def read(
        self, window: tuple[int, int, int, int], times: slice | np.ndarray, bilinear_nodata: int | None = None
    ) -> np.ndarray:
        """Read a window (row, col, height, width) of the series' grid: (T, channels, height, width)."""
        # h5py reads single indices slowly and only in ascending order: read the span that contains them, then choose.
        chosen = np.arange(self.dataset.shape[0])[times]
        first, last = (int(chosen.min()), int(chosen.max())) if len(chosen) else (0, -1)

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            bands = () if self.channels is None else (slice(0, self.dataset.shape[1]),)
            span = (slice(first, last + 1), *bands, slice(row, row + height), slice(col, col + width))
            pixels = self.parts.read(span)[chosen - first]
            return np.asarray(pixels[:, None] if self.channels is None else pixels[:, self.channels])

        return read_nested(self.flips.reader(stored, self.grid.shape), self.grid, self.factor, window, bilinear_nodata)


class Hdf5Cube:
    """One HDF5 or netCDF-4 file, or several on nested grids, as one series on the finest of their grids.

    A stacked file has a dataset `reflectance` (T, C, H, W), a dataset `dates` (T,), and the attributes `crs`, `transform` (six
    numbers in rasterio's order) and `bands`, on the dataset or on the file.

    A file with one variable per band (option `variables`) has variables (time, y, x) with the CF coordinates `time`, `x`, `y`
    and a grid mapping `spatial_ref`, or with the attributes above.

    The attributes scale_factor, add_offset and _FillValue of the reflectance must agree with the sensor. A file does not say
    which product it is from: bands are told by their names, and by common names and wavelengths where attributes or coordinates
    (common_name, center_wavelength, radiation_wavelength) state them. Chunks and datasets that were never written were not
    observed, whatever their fill value; but chunks that were allocated when the file was made, as parallel HDF5 does, cannot be
    told from written ones.

    Options of scene.yaml:
        path: path or fsspec URL of the file.
        paths: list of files or URLs instead of `path`. A variable is read from the first file that has it. The grids of coarser
            files must nest in the finest one.
        variables: variable of each band of the sensor, `{B02: B2, B8A: B8A, ...}`.
        reflectance, dates: names of the datasets of a stacked file. Without a dataset `dates`, `time` is used.
        quality: name of the quality dataset; by default that of the sensor's quality layer.
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
        bands: Sequence[str] | None = None,
        crs: str | int | None = None,
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sensor = sensor
        self._origin = ", ".join(paths)
        check_resampling(resampling, self._origin)
        self._bilinear_nodata = sensor.nodata if resampling == "bilinear" else None
        self._crs = crs
        self._time_name = dates
        self._stack = ExitStack()
        self._files: list[h5py.File] = []
        try:
            for path in paths:
                self._files.append(open_hdf5(path, storage_options, self._stack))
            self._set_up(variables, reflectance, quality or sensor.quality.name, bands)
            self._offsets = self._offsets_of_layers(stated_offsets(offset, sensor, self.dates, self._origin))
        except BaseException:
            self.__exit__()
            raise

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        window = row, col, height, width
        parts = [layer.read(window, times, self._bilinear_nodata) for layer in self._layers]
        quality = self._quality.read(window, times)[:, 0]
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return harmonised_series(pixels, quality, self.dates[times], self.sensor, self._offsets[times])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _set_up(self, variables: Mapping[str, str] | None, reflectance: str, quality: str, bands: Sequence[str] | None) -> None:
        if variables is None:
            dataset = self._find(reflectance, "(T, C, H, W); or give `variables` for files with one variable per band", 4)
            names = bands if bands is not None else attribute(dataset, "bands")
            if names is None:
                raise ValueError(f"{self._origin}: {reflectance} has no attribute bands; name them in scene.yaml, `bands: [...]`")
            names = [text(name) for name in names]
            if len(names) != dataset.shape[1]:
                raise ValueError(f"{self._origin}: {len(names)} band names {names} for {dataset.shape[1]} bands")
            positions = band_positions(names, self.sensor, self._origin)
            check_stacked_bands(positions, _band_attributes(dataset), len(names), self.sensor, dataset_name(dataset))
            layers = [self._reflectance_layer(dataset, positions)]
        else:
            band_positions(list(variables), self.sensor, f"{self._origin}, option variables")
            datasets = [self._find(variables[band], "(time, y, x)", 3) for band in self.sensor.bands]
            for band, dataset in zip(self.sensor.bands, datasets, strict=True):
                check_band(band, dataset.attrs, self.sensor, dataset_name(dataset))
            layers = [self._reflectance_layer(dataset) for dataset in datasets]
        quality_set = self._find(quality, "(time, y, x), the quality layer", 3)
        # A quality layer beside stacked reflectance has the same grid and need not state it again.
        shares_grid = variables is None and quality_set.file == dataset.file and quality_set.shape[1:] == dataset.shape[2:]
        placed = (layers[0].grid, layers[0].flips) if shares_grid else self._placed(quality_set)
        layers.append(self._quality_layer(quality_set, *placed))

        self.grid = min((layer.grid for layer in layers), key=lambda grid: abs(grid.transform.determinant))
        check_pixel_size(self.grid, self.sensor, self._origin)
        *self._layers, self._quality = [_nested(layer, self.grid) for layer in layers]
        rows, cols = np.max([layer.chunk for layer in self._layers], axis=0).tolist()
        self.chunk = min(rows, self.grid.height), min(cols, self.grid.width)
        all_dates = [self._dates(layer.dataset) for layer in layers]
        self.dates = all_dates[0]
        for layer, found in zip(layers, all_dates, strict=True):
            if not np.array_equal(found, self.dates):
                raise ValueError(
                    f"{dataset_name(layer.dataset)}: its dates differ from those of {dataset_name(layers[0].dataset)}"
                )

    def _reflectance_layer(self, dataset: h5py.Dataset, channels: list[int] | None = None) -> _Layer:
        origin = dataset_name(dataset)
        offset = check_encoding(cf_encoding(dataset.dtype, dataset.attrs, origin), self.sensor, origin)
        parts = WrittenParts(dataset, unobserved_number(dataset.dtype, self.sensor, origin))
        return _Layer(parts, *self._placed(dataset), channels, offset)

    def _quality_layer(self, dataset: h5py.Dataset, grid: Grid, flips: Flips) -> _Layer:
        origin = dataset_name(dataset)
        check_quality(dataset.dtype, dataset.attrs, self.sensor, origin)
        return _Layer(WrittenParts(dataset, unobserved_code(dataset.dtype, self.sensor.quality, origin)), grid, flips)

    def _offsets_of_layers(self, stated: np.ndarray | None) -> np.ndarray:
        """Offsets (T, 1) of a stacked file, or (T, C) of variables, each of which may state its own."""
        columns = [
            offsets_in_effect(stated, layer.offset, self.sensor, self.dates, dataset_name(layer.dataset))
            for layer in self._layers
        ]
        return np.stack(columns, axis=1)

    def _find(self, name: str, shape: str, ndim: int) -> h5py.Dataset:
        for file in self._files:
            found = file.get(name)
            if isinstance(found, h5py.Dataset):
                if found.ndim != ndim:
                    raise ValueError(f"{dataset_name(found)}: has shape {found.shape}; expected {shape}")
                axes = [scale for scale in _dimensions(found) if scale in ("time", "y", "x")]
                if axes and axes != [axis for axis in ("time", "y", "x") if axis in axes]:
                    raise ValueError(
                        f"{dataset_name(found)}: its axes are {_dimensions(found)}; expected time, y, x, so transpose it"
                    )
                return found
        held = sorted({key for file in self._files for key in file})
        raise ValueError(f"{self._origin}: no dataset {name!r} {shape}; found {held}")

    def _placed(self, dataset: h5py.Dataset) -> tuple[Grid, Flips]:
        return north_up(stored_grid(dataset, self._crs))

    def _dates(self, dataset: h5py.Dataset) -> np.ndarray:
        name = next((name for name in (self._time_name, "time") if name in dataset.file), None)
        if name is None:
            raise ValueError(f"{dataset.file.filename}: a series without time: no dataset {self._time_name!r} nor 'time'")
        axis = dataset.file[name]
        dates = decode_dates(axis[:], dict(axis.attrs), dataset_name(axis))
        if len(dates) != dataset.shape[0]:
            raise ValueError(f"{dataset_name(dataset)}: {len(dates)} dates for {dataset.shape[0]} images")
        return dates


def _band_attributes(dataset: h5py.Dataset) -> dict[str, Any]:
    """Attributes of a dataset, and the coordinates that it names (CF Conventions 1.11, section 5)."""
    attributes = dict(dataset.attrs)
    for name in text(attributes.get("coordinates", "")).split():
        if isinstance(found := dataset.file.get(name), h5py.Dataset) and found.ndim == 1:
            attributes[name] = found[:]
    return attributes


def stored_grid(dataset: h5py.Dataset, crs: str | int | None) -> Grid:
    """The grid of a dataset (..., H, W) as it is stored; `crs`: that of scene.yaml, None for that of the file.

    Raises ValueError for a dataset without a CRS, and without a transform and coordinates, or where these contradict each other.
    """
    file, origin = dataset.file, dataset_name(dataset)
    mapping = file.get(text(dataset.attrs.get("grid_mapping", "spatial_ref")))
    crs = crs or attribute(dataset, "crs")
    if crs is None and mapping is not None:
        crs = mapping.attrs.get("crs_wkt", mapping.attrs.get("spatial_ref"))
    if crs is None:
        raise ValueError(f"{origin}: no coordinate reference system; give `crs: EPSG:n` in scene.yaml")
    x, y = (file[name][:] if name in file else None for name in ("x", "y"))
    return stated_grid(attribute(dataset, "transform"), x, y, crs_attribute(crs), dataset.shape[-2:], origin)


def _dimensions(dataset: h5py.Dataset) -> list[str]:
    """Names of the dimension scales of the axes, as netCDF-4 writes them; empty without scales."""
    return [scale[0].name.rsplit("/", 1)[-1] for scale in dataset.dims if len(scale)]


def _nested(layer: _Layer, finest: Grid) -> _Layer:
    """`layer` with its factor to the grid `finest`. Raises ValueError when its grid does not nest in it."""
    return replace(layer, factor=nesting_factor(layer.grid, finest, dataset_name(layer.dataset)))
