"""Reader of HDF5 samples: one file per sample with one dataset (T, C, H, W) per source, as the AgriFM data are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import h5py
import numpy as np
from affine import Affine

from common.grid import Grid, grid_from_transform
from common.north_up import north_up
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.encoding import check_encoding, check_quality
from data_prep.readers.file_metadata import crs_attribute, decode_days
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.hdf5_files import WrittenParts, attribute, held_names, open_hdf5
from data_prep.readers.hdf5_images import Hdf5Images, stored_dates
from data_prep.readers.offsets import Offset, offsets_in_effect, stated_offsets
from data_prep.readers.radiometry import harmonised_series, unobserved_code
from data_prep.readers.same_day import ImageDays

NOWHERE = 'LOCAL_CS["place not known",UNIT["pixel",1]]'


class Hdf5Sample:
    """One file with a dataset (T, C, H, W) per source, and often a `label` (H, W). The published files hold nothing else.

    Without a quality dataset every complete observation is valid that is not zero in all bands. Without georeference the grid has
    the local CRS `NOWHERE` and pixels of size 1, and is not `georeferenced`; then a map cannot give the land cover.

    The attributes scale_factor, add_offset and _FillValue of the dataset must agree with the sensor, where there are any, and so
    must common names and wavelengths; which product a file is from, it does not say. Chunks and datasets that were never written
    were not observed, whatever their fill value.

    Options of scene.yaml:
        path: path or fsspec URL of the file; or a folder of such files, or a text file with one path per line, for a scene that
            is a collection of samples.
        dataset: name of the dataset of the source; by default the name of the source.
        bands: names of its channels; by default its attribute `bands`, else the bands of the sensor in their order, if their
            number fits.
        quality: name of a quality dataset (T, H, W); by default there is none.
        dates: name of a dataset (T,), of a group that has one for each source, or of an attribute of the dataset or the file, by
            default `dates`. The published files have none; then state a list of ISO dates, or
            `{start: 2020-01-05, every_days: 10}` for a regular series. Dates are never guessed.
        same_day: what is done where several images are of one day: `mosaic` (default) takes at each pixel the first clear
            observation; `error` raises an error.
        crs: coordinate reference system, for files with an attribute `transform` but no `crs`.
        offset: number to add to the stored numbers, -1000 for Sentinel-2 from processing baseline 04.00 on; or numbers by the
            date from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}`. Required where archives of the sensor differ in it
            and the file does not state it (add_offset). It must not contradict the file.
        storage_options: options of the file system of an fsspec URL, such as credentials.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        dataset: str | None = None,
        bands: Sequence[str] | None = None,
        quality: str | None = None,
        dates: str | Sequence[Any] | Mapping[str, Any] = "dates",
        same_day: str = "mosaic",
        crs: str | int | None = None,
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sensor = sensor
        self._path = path
        self._stack = ExitStack()
        try:
            self._file = open_hdf5(path, storage_options, self._stack)
            self._data = self._find(dataset or sensor.name, 4, "(T, C, H, W)")
            where = f"{path}/{dataset or sensor.name}"
            self._images = Hdf5Images(self._data, sensor, where, bands)
            frames, _, height, width = self._images.shape
            in_file = check_encoding(self._images.encoding, sensor, where)
            self._quality: WrittenParts | None = None
            if quality is not None:
                layer, origin = self._find(quality, 3, "(T, H, W), the quality layer"), f"{path}/{quality}"
                check_quality(layer.dtype, layer.attrs, sensor, origin)
                if layer.shape != (frames, height, width):
                    raise ValueError(f"{origin}: has shape {layer.shape}; expected {(frames, height, width)}")
                self._quality = WrittenParts(layer, unobserved_code(layer.dtype, sensor.quality, origin))
            self._days = ImageDays(self._image_dates(dates, frames), same_day, f"{path}, dates")
            self.dates, image_dates = self._days.dates, self._days.image_dates
            stated = stated_offsets(offset, sensor, image_dates, path)
            self._offsets = offsets_in_effect(stated, in_file, sensor, image_dates, where)
            self.grid, self._flips = north_up(stored_grid(self._data, crs, path))
            check_pixel_size(self.grid, sensor, path)
            self.chunk = self._data.chunks[2:] if self._data.chunks else (height, width)
        except BaseException:
            self.__exit__()
            raise

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        images, layer = self._days.images(times), self._quality

        def read(rows_and_cols: Callable[[slice, slice], np.ndarray]) -> np.ndarray:
            def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
                return rows_and_cols(slice(row, row + height), slice(col, col + width))[images]

            return self._flips.reader(stored, self.grid.shape)(row, col, height, width)

        pixels = read(self._images.read)
        frames = slice(0, self._images.shape[0])
        quality = None if layer is None else read(lambda rows, cols: layer.read((frames, rows, cols)))
        return harmonised_series(pixels, quality, self._days.image_dates[images], self.sensor, self._offsets[images])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _find(self, name: str, ndim: int, shape: str) -> h5py.Dataset:
        found = self._file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{self._path}: no dataset {name!r} {shape}; it holds {held_names(self._file)}")
        if found.ndim != ndim:
            raise ValueError(f"{self._path}/{name}: has shape {found.shape}; expected {shape}")
        return found

    def _image_dates(self, dates: str | Sequence[Any] | Mapping[str, Any], frames: int) -> np.ndarray:
        """The dates of the images, from the file or from scene.yaml."""
        where = f"{self._path}, dates"
        if isinstance(dates, str):
            found = stored_dates(self._data, self._path, dates, [self.sensor.name])
            if found is None:
                raise ValueError(
                    f"{self._path}: has no dates (no dataset or attribute {dates!r}), and they are never guessed: state "
                    "them in scene.yaml, `dates: [2020-01-05, ...]` or, for a regular series, "
                    "`dates: {start: 2020-01-05, every_days: 10}`"
                )
        elif isinstance(dates, Mapping):
            every_days = dates.get("every_days")
            if set(dates) != {"start", "every_days"} or not isinstance(every_days, int) or every_days < 1:
                raise ValueError(f"{where}: {dict(dates)}; expected {{start: 2020-01-05, every_days: 10}}")
            start = decode_days(np.array([str(dates["start"])]), {}, where)
            found = start + every_days * np.arange(frames)
        else:
            found = decode_days(np.array([str(date) for date in dates]), {}, where)
        if len(found) != frames:
            raise ValueError(f"{where}: {len(found)} dates for {frames} images")
        return found


def stored_grid(images: h5py.Dataset, crs: str | int | None, path: str) -> Grid:
    """The grid of images (T, C, H, W) as they are stored; `crs`: that of scene.yaml, None for that of the file.

    Raises ValueError for images with a transform and no CRS.
    """
    transform, crs = attribute(images, "transform"), crs or attribute(images, "crs")
    if transform is None:
        return Grid(crs=NOWHERE, transform=Affine.scale(1, -1), height=images.shape[-2], width=images.shape[-1])
    if crs is None:
        raise ValueError(f"{path}: has a transform, but no coordinate reference system; give `crs: EPSG:n` in scene.yaml")
    return grid_from_transform(transform, crs_attribute(crs), images.shape[-2:], path)
