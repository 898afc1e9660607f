"""Where the land-cover codes of a sample come from: a map, the quality layer over the year, or a label in the sample's file.

A map is one raster or several, in any CRS and at any resolution. Those on one CRS and place may overlap: the first one that maps
a pixel counts. Maps of several years have a band for each (GLC_FCS30D: band 1 is 2000), and the year of the sample chooses.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

import fsspec
import h5py
import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from common.grid import Grid, apply
from data_prep.archive.scene import SCENE_FILE, LandCover, Scene
from data_prep.landcover.legend import Legend
from data_prep.plan.plan import PlannedSample
from data_prep.readers.base import Series

CHECKED_PX = 64  # side of the parts of a map that are looked at before anything is written
CHECKED_PARTS = 3  # so many along each axis of a scene


class LandCoverCodes(Protocol):
    """A source of codes, open for reading."""

    def codes(self, sample: PlannedSample, series: Series) -> np.ndarray:
        """Fine codes in the sample's footprint: integers of any shape, to be counted by the legend."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_land_cover(scene: Scene, legend: Legend) -> LandCoverCodes:
    """The source of codes that scene.yaml states. Raises ValueError for maps that are missing or no maps."""
    cover = scene.land_cover
    assert cover is not None, "scenes without land cover have no planned samples"
    if cover.quality is not None:
        return QualityCodes()
    if cover.label is not None:
        return SampleLandCover(scene, cover.label)
    return LandCoverMap(cover, legend, str(scene.folder / SCENE_FILE))


class QualityCodes:
    """The quality layer of the sample itself, over all its dates."""

    def codes(self, sample: PlannedSample, series: Series) -> np.ndarray:  # noqa: ARG002
        return series.quality

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class SampleLandCover:
    """A dataset (H, W) beside the images of an HDF5 file, over the same ground at its own resolution."""

    def __init__(self, scene: Scene, dataset: str) -> None:
        self._scene, self._dataset = scene, dataset

    def codes(self, sample: PlannedSample, series: Series) -> np.ndarray:  # noqa: ARG002
        options = self._scene.sources[sample.source]
        path = str(options["path"]) if sample.series.file is None else sample.series.file
        path = path if "://" in path else str(self._scene.folder / path)
        with fsspec.open(path, **options.get("storage_options", {})) as opened, h5py.File(opened) as file:
            label = file.get(self._dataset)
            if not isinstance(label, h5py.Dataset) or label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
                raise ValueError(f"{path}: no dataset {self._dataset!r} of whole numbers (H, W); it holds {sorted(file)}")
            rows, cols = (
                slice(round(start * extent / whole), round((start + sample.size) * extent / whole))
                for start, extent, whole in zip((sample.row, sample.col), label.shape, sample.series.grid.shape, strict=True)
            )
            return np.asarray(label[rows, cols])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@dataclass(frozen=True)
class Tile:
    """One raster of a map: where it lies, (left, bottom, right, top) in its CRS, and how many bands it has."""

    path: Path
    crs: CRS
    affine: Affine
    bounds: tuple[float, float, float, float]
    bands: int


class LandCoverMap:
    """A classified map, read under footprints at about its own pixel size.

    Attributes:
        years: first and last year that have a band; None for a map that is of no year.
    """

    def __init__(self, cover: LandCover, legend: Legend, origin: str) -> None:
        self._cover, self._legend = cover, legend
        self._tiles, self.years = map_tiles(cover, origin)
        by_crs: dict[CRS, list[int]] = {}
        for number, tile in enumerate(self._tiles):
            by_crs.setdefault(tile.crs, []).append(number)
        self._bounds = np.array([tile.bounds for tile in self._tiles])
        self._by_crs = {crs: np.array(numbers) for crs, numbers in by_crs.items()}
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}

    def codes(self, sample: PlannedSample, series: Series) -> np.ndarray:  # noqa: ARG002
        footprint = sample.series.grid.window(sample.row, sample.col, sample.size, sample.size)
        return self.read(footprint, sample.year)

    def read(self, footprint: Grid, year: int) -> np.ndarray:
        """Codes under the ground of `footprint` at about the map's pixel size, nearest neighbour; fill where nothing is mapped.

        What counts are made from: a 500 m footprint holds some 280 pixels of a 30 m map. Of the years beyond the map's the
        nearest one is taken: whether that is wanted was decided when the sample was planned.
        """
        band = 1 if self.years is None else min(max(year, self.years[0]), self.years[1]) - self.years[0] + 1
        found: np.ndarray | None = None
        fill = self._legend.fill[0]
        for tile, shape in self._under(footprint):
            grid = _regridded(footprint, shape if found is None else found.shape)
            with WarpedVRT(self._dataset(tile), resampling=Resampling.nearest, nodata=fill, **grid.profile()) as warped:
                codes = warped.read(band)
            found = codes if found is None else np.where(np.isin(found, self._legend.fill), codes, found)
            if not np.isin(found, self._legend.fill).any():
                break
        return np.full((1, 1), fill) if found is None else found

    def check(self, scene: Scene, grid: Grid) -> None:
        """Look at a few parts of the map under the scene. Raises ValueError for foreign codes and for another place.

        Not at all of it, since that would be to read the whole map once more for each scene: a foreign code elsewhere becomes
        the reason to reject the samples that hold it.
        """
        if not self._under(grid):
            names = ", ".join(str(path) for path in self._cover.rasters[:3])
            raise ValueError(f"{names} maps nothing of scene {scene.name}, {grid.crs} {grid.bounds}: does it lie elsewhere?")
        height, width = (min(CHECKED_PX, extent) for extent in grid.shape)
        for row in np.linspace(0, grid.height - height, CHECKED_PARTS).astype(int).tolist():
            for col in np.linspace(0, grid.width - width, CHECKED_PARTS).astype(int).tolist():
                try:
                    self._legend.count(self.read(grid.window(row, col, height, width), 0))
                except ValueError as error:
                    raise ValueError(f"{self._cover.rasters[0]}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.clear()
        self._stack.close()

    def _dataset(self, tile: Tile) -> Any:
        if tile.path not in self._open:
            self._open[tile.path] = self._stack.enter_context(rasterio.open(tile.path))
        return self._open[tile.path]

    def _under(self, footprint: Grid) -> list[tuple[Tile, tuple[int, int]]]:
        """The tiles that the footprint touches, each with the (rows, columns) of its own pixels that the footprint is about."""
        col, row = (at.ravel() for at in np.meshgrid(*(np.linspace(0, extent, 3) for extent in footprint.shape[::-1])))
        places = apply(footprint.transform, col, row)
        found = []
        for crs, numbers in self._by_crs.items():
            x, y = (np.array(at) for at in transform(footprint.crs, crs, *places))
            turns: tuple[int, ...] = (0,)
            if crs.is_geographic:  # the antimeridian may run through the footprint
                x, turns = x[0] + (x - x[0] + 180) % 360 - 180, (-360, 0, 360)
            left, bottom, right, top = self._bounds[numbers].T
            beside = np.logical_and.reduce([(x.min() + turn >= right) | (x.max() + turn <= left) for turn in turns])
            for number in numbers[(y.min() < top) & (y.max() > bottom) & ~beside]:
                u, v = apply(~self._tiles[number].affine, x, y)
                # Of the nine places 0 and 2 are the ends of the upper side, 0 and 6 those of the left one.
                rows, cols = (max(1, round(float(np.hypot(u[n] - u[0], v[n] - v[0])))) for n in (6, 2))
                found.append((number, (rows, cols)))
        return [(self._tiles[number], shape) for number, shape in sorted(found)]


def _regridded(footprint: Grid, shape: tuple[int, ...]) -> Grid:
    """A grid of `shape` over the same ground."""
    height, width = shape
    affine = footprint.transform @ Affine.scale(footprint.width / width, footprint.height / height)
    return Grid(crs=footprint.crs, transform=affine, height=height, width=width)


def map_tiles(cover: LandCover, origin: str) -> tuple[tuple[Tile, ...], tuple[int, int] | None]:
    """The rasters of a map, and the first and last year that have a band; None for a map that is of no year.

    Raises ValueError that begins with `origin` when their bands are not what `cover` says.
    """
    tiles = _tiles(cover.rasters)
    counts = sorted({tile.bands for tile in tiles})
    if len(counts) > 1:
        raise ValueError(f"{origin}: the rasters of land cover have {counts} bands; expected the same number in each")
    if cover.first_year is not None:
        return tiles, (cover.first_year, cover.first_year + counts[0] - 1)
    if counts[0] > 1:
        raise ValueError(
            f"{origin}: {tiles[0].path} has {counts[0]} bands; if they are years, say which year the first one is, "
            "`first_year: 2000`, else give a raster of one band"
        )
    return tiles, None


@lru_cache(maxsize=4)
def _tiles(paths: tuple[Path, ...]) -> tuple[Tile, ...]:
    """The rasters of files and of folders. Raises ValueError for what is missing or lies nowhere.

    Kept, since scenes share the tiles of the globe, and opening a thousand of them takes a second.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.tif")) if path.is_dir() else [path])]
    if not files:
        raise ValueError(f"land-cover folder {paths[0]} holds no .tif")
    found = []
    for path in files:
        if not path.is_file():
            raise ValueError(f"land-cover raster {path} does not exist")
        try:
            with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), rasterio.open(path) as raster:
                if raster.crs is None or raster.transform.is_identity:
                    raise ValueError(f"{path} is not georeferenced: a land-cover map needs a CRS and a transform")
                found.append(Tile(path, raster.crs, raster.transform, tuple(raster.bounds), raster.count))
        except rasterio.RasterioIOError as error:
            raise ValueError(f"land-cover raster {path} cannot be read: {error}") from error
    return tuple(found)
