"""Classified land-cover maps.

A map is one raster or several, in any CRS and at any resolution. Rasters may overlap: the first one that maps a pixel counts.
A map of several years has one band per year (GLC_FCS30D: band 1 is 2000); the year of the sample selects the band.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from common.grid import Grid, apply, grid_summary, raster_grid
from common.rasters import RasterOpener, opened_raster
from common.storage import AnyPath
from data_prep.archive.scene import LandCover, Scene
from data_prep.landcover.base import SampleWindow
from data_prep.landcover.legend import Legend
from data_prep.readers.base import Series

CHECKED_PX = 64  # side in pixels of each part of a map that is checked before anything is written
CHECKED_PARTS = 3  # number of such parts along each axis of a scene


@dataclass(frozen=True)
class Tile:
    """One raster of a map.

    Attributes:
        path: file.
        crs: coordinate reference system.
        affine: transform from (column, row) to the CRS.
        bounds: (left, bottom, right, top) in units of the CRS.
        bands: number of bands.
    """

    path: AnyPath
    crs: CRS
    affine: Affine
    bounds: tuple[float, float, float, float]
    bands: int


class LandCoverMap:
    """A classified map, read within footprints at about its own pixel size.

    Attributes:
        years: first and last year that have a band; None for a map without years.
    """

    needs_images = False

    def __init__(self, cover: LandCover, legend: Legend, origin: str) -> None:
        self._cover, self._legend = cover, legend
        self._tiles, self.years = map_tiles(cover, origin)
        by_crs: dict[CRS, list[int]] = {}
        for number, tile in enumerate(self._tiles):
            by_crs.setdefault(tile.crs, []).append(number)
        self._bounds = np.array([tile.bounds for tile in self._tiles])
        self._by_crs = {crs: np.array(numbers) for crs, numbers in by_crs.items()}
        self._stack = ExitStack()
        self._opener = RasterOpener()
        self._open: dict[AnyPath, Any] = {}

    def codes(self, window: SampleWindow, series: Series | None) -> np.ndarray:  # noqa: ARG002
        """Codes (rows, columns) in the footprint of the window, in the window's year; see `read`."""
        return self.read(window.footprint, window.year)

    def pixel_codes(self, window: SampleWindow, series: Series | None, codes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Code (H, W) at the centre of each pixel of the window, in the window's year; fill where the map maps nothing."""
        return self._read(window.footprint, window.year, window.footprint.shape)

    def read(self, footprint: Grid, year: int) -> np.ndarray:
        """Codes (rows, columns) within `footprint` at about the map's pixel size, nearest neighbour; fill where it maps nothing.

        A footprint of 500 m holds some 280 pixels of a 30 m map. For a year beyond those of the map the nearest one is read;
        planning has already rejected the samples for which this is not wanted.
        """
        return self._read(footprint, year)

    def _read(self, footprint: Grid, year: int, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Codes of `shape` cells that fill `footprint`; by default about as many as the map has there."""
        band = 1 if self.years is None else min(max(year, self.years[0]), self.years[1]) - self.years[0] + 1
        found: np.ndarray | None = None
        fill = self._legend.fill[0]
        for tile, tile_shape in self._tiles_within(footprint):
            shape = shape or tile_shape
            grid = _regridded(footprint, shape)
            dataset = self._dataset(tile)
            with (
                self._opener.reading(tile.path),
                WarpedVRT(dataset, resampling=Resampling.nearest, nodata=fill, **grid.profile()) as warped,
            ):
                codes = warped.read(band)
            found = codes if found is None else np.where(np.isin(found, self._legend.fill), codes, found)
            if not np.isin(found, self._legend.fill).any():
                break
        return np.full(shape or (1, 1), fill) if found is None else found

    def check(self, scene: Scene, grid: Grid) -> None:
        """Check a few parts of the map within the scene.

        Raises ValueError when the map does not cover the scene, or holds a code that the legend does not have. The parts that
        are not checked may hold such codes, too; the samples with these codes are rejected later. Checking everything would
        read the whole map once more for each scene.
        """
        if not self._tiles_within(grid):
            names = ", ".join(str(path) for path in self._cover.rasters[:3])
            raise ValueError(f"{names} maps nothing of scene {scene.name}, {grid_summary(grid)}: does it lie elsewhere?")
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
            self._open[tile.path] = self._stack.enter_context(self._opener.open(tile.path))
        return self._open[tile.path]

    def _tiles_within(self, footprint: Grid) -> list[tuple[Tile, tuple[int, int]]]:
        """The tiles that the footprint touches, each with about the (rows, columns) of its pixels that fill the footprint."""
        col, row = (at.ravel() for at in np.meshgrid(*(np.linspace(0, extent, 3) for extent in footprint.shape[::-1])))
        points = apply(footprint.transform, col, row)
        found = []
        for crs, numbers in self._by_crs.items():
            x, y = (np.array(at) for at in transform(footprint.crs, crs, *points))
            turns: tuple[int, ...] = (0,)
            if crs.is_geographic:  # the antimeridian may run through the footprint
                x, turns = x[0] + (x - x[0] + 180) % 360 - 180, (-360, 0, 360)
            left, bottom, right, top = self._bounds[numbers].T
            beside = np.logical_and.reduce([(x.min() + turn >= right) | (x.max() + turn <= left) for turn in turns])
            for number in numbers[(y.min() < top) & (y.max() > bottom) & ~beside]:
                u, v = apply(~self._tiles[number].affine, x, y)
                # Of the nine points, 0 and 2 are the ends of the upper side, and 0 and 6 those of the left side.
                rows, cols = (max(1, round(float(np.hypot(u[n] - u[0], v[n] - v[0])))) for n in (6, 2))
                found.append((number, (rows, cols)))
        return [(self._tiles[number], shape) for number, shape in sorted(found)]


def _regridded(footprint: Grid, shape: tuple[int, int]) -> Grid:
    """A grid of `shape` with the extent of `footprint`."""
    height, width = shape
    affine = footprint.transform @ Affine.scale(footprint.width / width, footprint.height / height)
    return Grid(crs=footprint.crs, transform=affine, height=height, width=width)


def map_tiles(cover: LandCover, origin: str) -> tuple[tuple[Tile, ...], tuple[int, int] | None]:
    """The rasters of a map, and the first and last year that have a band; None for a map without years.

    Raises ValueError that begins with `origin` when the numbers of bands differ or do not fit `cover`.
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
def _tiles(paths: tuple[AnyPath, ...]) -> tuple[Tile, ...]:
    """The rasters that `paths`, files and folders, name. Raises ValueError when one is missing or not georeferenced.

    The result is cached, since the scenes of an archive share the map, and opening a thousand tiles takes a second.
    """
    files: list[AnyPath] = []
    for path in paths:
        files += sorted(path.rglob("*.tif"), key=str) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"land-cover folder {paths[0]} holds no .tif")
    found = []
    for path in files:
        if not path.is_file():
            raise ValueError(f"land-cover raster {path} does not exist")
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), opened_raster(path) as raster:
            # Unlike those of rasterio, the bounds of a Grid are right for rows that go north.
            bounds = raster_grid(raster, f"land-cover raster {path}").bounds
            found.append(Tile(path, raster.crs, raster.transform, bounds, raster.count))
    return tuple(found)
