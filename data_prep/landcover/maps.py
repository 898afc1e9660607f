"""Classified land-cover maps.

A map is one raster or several, in any CRS and at any resolution. Rasters may overlap: the first one that maps a pixel counts.
A map of several years has one band per year, and rasters may hold different years (`data_prep/landcover/band_years.py`); the year
of the sample selects raster and band. What lies under a mask, and tiles that a sparse file does not store, are not mapped.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from rasterio.windows import Window

from common.grid import Grid, apply, grid_summary, raster_grid
from common.raster_masks import RasterMask
from common.rasters import RasterOpener, opened_raster
from common.storage import AnyPath
from data_prep.archive.scene import LandCover, Scene
from data_prep.landcover.band_years import STATE_THEM, band_years
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
        years: year of each band; None for a raster of one band without a year.
    """

    path: AnyPath
    crs: CRS
    affine: Affine
    bounds: tuple[float, float, float, float]
    years: tuple[int, ...] | None

    def band_of(self, year: int) -> int | None:
        """The number of the band of a year, 1 for a raster without years; None for a year that the raster does not have."""
        if self.years is None:
            return 1
        return self.years.index(year) + 1 if year in self.years else None


class LandCoverMap:
    """A classified map, read within footprints at about its own pixel size.

    Attributes:
        years: years that have a band, ascending; None for a map without years.
    """

    needs_images = False

    def __init__(self, cover: LandCover, legend: Legend, origin: str) -> None:
        self._cover, self._legend = cover, legend
        self._tiles = map_tiles(cover, origin)
        self.years = map_years(self._tiles)
        by_crs: dict[CRS, list[int]] = {}
        for number, tile in enumerate(self._tiles):
            by_crs.setdefault(tile.crs, []).append(number)
        self._bounds = np.array([tile.bounds for tile in self._tiles])
        self._by_crs = {crs: np.array(numbers) for crs, numbers in by_crs.items()}
        self._stack = ExitStack()
        self._opener = RasterOpener()
        self._open: dict[AnyPath, tuple[Any, RasterMask]] = {}
        self._last: tuple[Grid, list[tuple[Tile, tuple[int, int]]]] | None = None

    def codes(self, window: SampleWindow, series: Series | None) -> np.ndarray:  # noqa: ARG002
        """Codes (rows, columns) in the footprint of the window, in the window's year; see `read`."""
        return self.read(window.footprint, window.year)

    def pixel_codes(self, window: SampleWindow, series: Series | None, codes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Code (H, W) at the centre of each pixel of the window, in the window's year; fill where the map maps nothing."""
        return self._read(window.footprint, window.year, window.footprint.shape)

    def read(self, footprint: Grid, year: int) -> np.ndarray:
        """Codes (rows, columns) within `footprint` at about the map's pixel size, nearest neighbour; fill where it maps nothing.

        A footprint of 500 m holds some 280 pixels of a 30 m map. For a year that the map lacks, nothing is mapped; with
        `nearest_year`, each pixel has the code of the nearest year in which it is mapped, the earlier of two.
        """
        return self._read(footprint, year)

    def years_within(self, grid: Grid) -> tuple[int, ...] | None:
        """The years of the rasters that a grid touches, ascending; None for a map without years."""
        return map_years([tile for tile, _ in self._tiles_within(grid)])

    def _read(self, footprint: Grid, year: int, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Codes of `shape` cells that fill `footprint`; by default about as many as the map has there."""
        found: np.ndarray | None = None
        for tile, of_tile, tile_shape in self._tiles_of_year(footprint, year):
            unmapped = True if found is None else np.isin(found, self._legend.fill)
            if not np.any(unmapped):
                break
            shape = shape or tile_shape
            band = tile.band_of(of_tile)
            assert band is not None, tile
            codes = self._codes_on(tile, band, _regridded(footprint, shape))
            found = codes if found is None else np.where(unmapped, codes, found)
        return np.full(shape or (1, 1), self._legend.fill[0]) if found is None else found

    def _tiles_of_year(self, footprint: Grid, year: int) -> list[tuple[Tile, int, tuple[int, int]]]:
        """The tiles that the footprint touches and that hold a year, as (tile, year, rows and columns); see `_tiles_within`.

        With `nearest_year`, all tiles with the nearest year of each, those with the nearest year first.
        """
        found = []
        for tile, shape in self._tiles_within(footprint):
            of_tile = year if tile.years is None else min(tile.years, key=lambda other: (abs(other - year), other))
            if self._cover.nearest_year or of_tile == year:
                found.append((tile, of_tile, shape))
        return sorted(found, key=lambda of_year: (abs(of_year[1] - year), of_year[1]))  # stable: in the order of the tiles

    def _codes_on(self, tile: Tile, band: int, grid: Grid) -> np.ndarray:
        """Codes of a band of a tile on a grid, nearest neighbour; fill where the tile maps nothing.

        GDAL's warping knows no masks. And it changes pixels that hold the number of those that it leaves empty: that must be no
        code of the legend, nor lie beside one. Where it left any empty, the stored pixels say whether they are.
        """
        dataset, mask = self._dataset(tile)
        empty = _number_of_no_code(np.dtype(dataset.dtypes[band - 1]), self._legend)
        with self._opener.reading(tile.path):
            if empty is not None and not mask.has_mask and mask.alpha is None:
                with WarpedVRT(dataset, resampling=Resampling.nearest, nodata=empty, **grid.profile()) as warped:
                    codes: np.ndarray = warped.read(band)
                if not (codes == empty).any() and not (mask.may_be_sparse and (codes == 0).any()):
                    return codes
            return _codes_at_centres(tile, dataset, mask, band, grid, self._legend.fill[0])

    def check(self, scene: Scene, grid: Grid) -> None:
        """Check a few parts of the map within the scene.

        Raises ValueError when the map does not cover the scene, or holds a code that the legend does not have. The parts that
        are not checked may hold such codes, too; the samples with these codes are rejected later. Checking everything would
        read the whole map once more for each scene.
        """
        tiles = self._tiles_within(grid)
        if not tiles:
            names = ", ".join(str(path) for path in self._cover.rasters[:3])
            raise ValueError(f"{names} maps nothing of scene {scene.name}, {grid_summary(grid)}: does it lie elsewhere?")
        try:
            for tile, shape in tiles:
                for codes in self._checked_codes(tile, grid, shape):
                    self._legend.count(codes)
        except ValueError as error:
            raise ValueError(f"{self._cover.rasters[0]}: {error}") from error

    def _checked_codes(self, tile: Tile, grid: Grid, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        """Yield the codes (N,) of a few parts of `grid`, in which a tile has about `shape` pixels; those of its first band.

        Reads pixels as they are stored: to warp each part would take as long as opening the series.
        """
        dataset, mask = self._dataset(tile)
        centres = []  # rows and columns of the cells of all parts, in pixels of the grid: (parts, cells)
        for extent, pixels in zip(grid.shape, shape, strict=True):
            side = min(CHECKED_PX, extent)
            cells = max(1, round(pixels * side / extent))
            firsts = np.linspace(0, extent - side, CHECKED_PARTS).astype(int)
            centres.append(firsts[:, None] + (np.arange(cells) + 0.5) * side / cells)
        row, col = np.meshgrid(*(axis.ravel() for axis in centres), indexing="ij")
        rows, cols = _stored_pixels(tile, grid, row.ravel(), col.ravel())
        parts = [size for axis in centres for size in axis.shape]
        for part_rows, part_cols in zip(*(_parts(of.reshape(parts)) for of in (rows, cols)), strict=True):
            inside = _inside(dataset, part_rows, part_cols)
            if inside.any():
                at = part_rows[inside].astype(np.int64), part_cols[inside].astype(np.int64)
                window = _window_around(*at)
                with self._opener.reading(tile.path):
                    stored = stored_codes(dataset, mask, 1, window, self._legend.fill[0])
                yield stored[at[0] - window.row_off, at[1] - window.col_off]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.clear()
        self._stack.close()

    def _dataset(self, tile: Tile) -> tuple[Any, RasterMask]:
        if tile.path not in self._open:
            dataset = self._stack.enter_context(self._opener.open(tile.path))
            self._open[tile.path] = dataset, RasterMask.of(dataset)
        return self._open[tile.path]

    def _tiles_within(self, footprint: Grid) -> list[tuple[Tile, tuple[int, int]]]:
        """The tiles that the footprint touches, each with about the (rows, columns) of its pixels that fill the footprint."""
        if self._last is None or self._last[0] != footprint:  # counts and map of a sample have the same footprint
            self._last = footprint, self._found_within(footprint)
        return self._last[1]

    def _found_within(self, footprint: Grid) -> list[tuple[Tile, tuple[int, int]]]:
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


def _number_of_no_code(dtype: np.dtype, legend: Legend) -> int | None:
    """The largest number of an integer type that is no code of a legend and lies beside none; None where there is none."""
    if not np.issubdtype(dtype, np.integer):
        return None
    known, limits = {*legend.codes, *legend.fill}, np.iinfo(dtype)
    tried = range(int(limits.max), max(int(limits.min), int(limits.max) - 4 * len(known) - 4), -1)
    return next((number for number in tried if known.isdisjoint((number - 1, number, number + 1))), None)


def _codes_at_centres(tile: Tile, dataset: Any, mask: RasterMask, band: int, grid: Grid, fill: int) -> np.ndarray:
    """Codes of the pixels of a tile in which the centres of the pixels of a grid lie; `fill` where the tile maps nothing."""
    col, row = (at.ravel() for at in np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5))
    rows, cols = _stored_pixels(tile, grid, row, col)
    inside = _inside(dataset, rows, cols)
    codes = np.full(inside.shape, fill, np.result_type(dataset.dtypes[band - 1], np.min_scalar_type(fill)))
    if inside.any():
        rows, cols = rows[inside].astype(np.int64), cols[inside].astype(np.int64)
        window = _window_around(rows, cols)
        stored = stored_codes(dataset, mask, band, window, fill)
        codes[inside] = stored[rows - window.row_off, cols - window.col_off]
    return codes.reshape(grid.shape)


def _stored_pixels(tile: Tile, grid: Grid, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a tile, at places (row, col) of a grid: whole numbers in float64, maybe outside."""
    x, y = (np.array(at) for at in transform(grid.crs, tile.crs, *apply(grid.transform, col, row)))
    if tile.crs.is_geographic:
        middle = (tile.bounds[0] + tile.bounds[2]) / 2
        x = middle + (x - middle + 180) % 360 - 180
    cols, rows = (np.floor(at) for at in apply(~tile.affine, x, y))
    return rows, cols


def _inside(dataset: Any, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    inside: np.ndarray = (rows >= 0) & (rows < dataset.height) & (cols >= 0) & (cols < dataset.width)
    return inside


def _window_around(rows: np.ndarray, cols: np.ndarray) -> Window:
    """The smallest window with all of these pixels."""
    top, left = int(rows.min()), int(cols.min())
    return Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)


def _parts(cells: np.ndarray) -> np.ndarray:
    """(parts, rows, parts, columns) as (parts, cells)."""
    return cells.swapaxes(1, 2).reshape(cells.shape[0] * cells.shape[2], -1)


def stored_codes(dataset: Any, mask: RasterMask, band: int, window: Window, fill: int) -> np.ndarray:
    """The codes of a window of a raster as they are stored; `fill` for no data and for what was not observed."""
    codes: np.ndarray = dataset.read(band, window=window)
    unobserved = mask.unobserved(window, codes, band)
    if dataset.nodata is not None:
        no_data = codes == dataset.nodata
        unobserved = no_data if unobserved is None else unobserved | no_data
    return codes if unobserved is None else np.where(unobserved, np.array(fill), codes)


def map_tiles(cover: LandCover, origin: str) -> tuple[Tile, ...]:
    """The rasters of a map, with the years of their bands.

    Raises ValueError that begins with `origin` when the years of bands are not known or contradict each other, and when only some
    rasters are of a year.
    """
    tiles = []
    for raster in _rasters(tuple(map(_normal, cover.rasters))):
        years = band_years(cover, raster.path.name, raster.descriptions, f"{origin}: {raster.path}")
        tiles.append(Tile(raster.path, raster.crs, raster.affine, raster.bounds, years))
    of_a_year = [tile for tile in tiles if tile.years is not None]
    if of_a_year and len(of_a_year) < len(tiles):
        other = next(tile for tile in tiles if tile.years is None)
        raise ValueError(f"{origin}: {of_a_year[0].path} has years, but the year of {other.path} is not known; {STATE_THEM}")
    return tuple(tiles)


def map_years(tiles: Sequence[Tile]) -> tuple[int, ...] | None:
    """All years of some tiles, ascending; None for a map without years."""
    found = {year for tile in tiles for year in tile.years or ()}
    return tuple(sorted(found)) if found else None


@dataclass(frozen=True)
class _Raster:
    """What a file says of itself; see Tile. `descriptions`: of each band."""

    path: AnyPath
    crs: CRS
    affine: Affine
    bounds: tuple[float, float, float, float]
    descriptions: tuple[str | None, ...]


def _normal(path: AnyPath) -> AnyPath:
    """A path without `..`: scenes name the map that they share from their own folders."""
    return Path(os.path.normpath(path)) if isinstance(path, Path) else path


@lru_cache(maxsize=4)
def _rasters(paths: tuple[AnyPath, ...]) -> tuple[_Raster, ...]:
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
            descriptions = tuple(raster.descriptions[: RasterMask.of(raster).num_bands])
            found.append(_Raster(path, raster.crs, raster.transform, bounds, descriptions))
    return tuple(found)
