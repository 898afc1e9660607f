"""Opens the land cover of a scene: a map, the quality layer counted over the year, or a label in the sample's own HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import h5py
import numpy as np

from common.grid import Grid
from common.north_up import north_up
from common.storage import joined
from data_prep.archive.scene import SCENE_FILE, Scene
from data_prep.landcover.base import LandCoverReader, SampleWindow
from data_prep.landcover.legend import Legend
from data_prep.landcover.maps import LandCoverMap
from data_prep.landcover.sample_map import counts_by_pixel
from data_prep.readers import hdf5_cube, hdf5_sample
from data_prep.readers.base import Series
from data_prep.readers.hdf5_files import held_names, open_hdf5


def open_land_cover(scene: Scene, legend: Legend) -> LandCoverReader:
    """The land cover that scene.yaml names. Raises ValueError when a map is missing or cannot be read as a map."""
    cover = scene.land_cover
    assert cover is not None, "scenes without land cover have no planned samples"
    if cover.quality is not None:
        return QualityLandCover(legend)
    if cover.label is not None:
        for source, options in scene.sources.items():
            if "paths" in options:
                raise ValueError(
                    f"{scene.folder / SCENE_FILE}: land_cover is a dataset beside the images, but source {source} has several "
                    "files (`paths`), and which of them holds it is not known; give a raster, or one file (`path`)"
                )
        return SampleLandCover(scene, cover.label)
    return LandCoverMap(cover, legend, str(scene.folder / SCENE_FILE))


class QualityLandCover:
    """The quality layer of the sample itself, over all its dates."""

    needs_images = True

    def __init__(self, legend: Legend) -> None:
        self._legend = legend

    def codes(self, window: SampleWindow, series: Series | None) -> np.ndarray:  # noqa: ARG002
        """The quality codes (T, H, W) of the sample."""
        assert series is not None
        return series.quality

    def pixel_codes(self, window: SampleWindow, series: Series | None, codes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """The most frequent code of each pixel's clear observations, the lowest of equally frequent ones; fill without any."""
        counts = counts_by_pixel(self._legend, codes, codes.shape[-2:])
        most_frequent = np.array(self._legend.codes)[counts.argmax(axis=0)]
        return np.where(counts.any(axis=0), most_frequent, self._legend.fill[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class SampleLandCover:
    """A dataset (H, W) beside the images of an HDF5 file.

    It covers the same ground at its own resolution, and is stored with the same order of rows and columns.
    """

    needs_images = False

    def __init__(self, scene: Scene, dataset: str) -> None:
        self._scene, self._dataset = scene, dataset

    def codes(self, window: SampleWindow, series: Series | None) -> np.ndarray:  # noqa: ARG002
        """The codes of the window. Raises ValueError when the dataset is missing or does not hold whole numbers (H, W)."""
        options = self._scene.sources[window.source]
        path = str(options["path"]) if window.file is None else window.file
        path = str(joined(self._scene.folder, path))
        with ExitStack() as stack:
            file = open_hdf5(path, options.get("storage_options"), stack)
            label = file.get(self._dataset)
            if not isinstance(label, h5py.Dataset) or label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
                raise ValueError(f"{path}: no dataset {self._dataset!r} of whole numbers (H, W); it holds {held_names(file)}")
            grid, flips = north_up(_stored_grid(file, window.source, options, path))
            # Of the images that scene.yaml crops (`bbox`), the dataset has those pixels, too, that are cut off.
            crop = ~grid.transform @ window.grid.transform
            begin = window.row + round(crop.f), window.col + round(crop.c)
            (row, end_row), (col, end_col) = (
                (round(start * extent / whole), round((start + window.size) * extent / whole))
                for start, extent, whole in zip(begin, label.shape, grid.shape, strict=True)
            )

            def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
                return np.asarray(label[row : row + height, col : col + width])

            return flips.reader(stored, label.shape)(row, col, end_row - row, end_col - col)

    def pixel_codes(self, window: SampleWindow, series: Series | None, codes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """The code of the cell in which the centre of each pixel lies."""
        rows, cols = ((2 * np.arange(window.size) + 1) * cells // (2 * window.size) for cells in codes.shape)
        return codes[np.ix_(rows, cols)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _stored_grid(file: h5py.File, source: str, options: Mapping[str, Any], path: str) -> Grid:
    """The grid of the images of a source as they are stored in an HDF5 file. `options`: those of the source in scene.yaml."""
    crs = options.get("crs")
    if options["container"] == "hdf5_cube":
        name = next(iter(options.get("variables", {}).values()), options.get("reflectance", "reflectance"))
        return hdf5_cube.stored_grid(file[name], crs)
    return hdf5_sample.stored_grid(file[options.get("dataset", source)], crs, path)
