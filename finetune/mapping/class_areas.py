"""Areas of the classes of maps, of the transitions between maps, and the classes of maps at points.

Areas are those on the ellipsoid, whatever the CRS of the map: pixels of a map in degrees or in Web Mercator are of unequal size.
A map is divided into cells of 16 x 16 pixels, and all pixels of a cell count as equal. Within a cell their areas differ by a few
parts in 10,000 at most, and these differences cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from common.grid import Grid, corner_distance_px, grid_summary, raster_grid
from finetune.data.map_grid import TOLERANCE
from finetune.mapping.cog import GDAL_CACHE_MB, class_names
from finetune.mapping.ground_area import quad_areas

CELL_PX = 16
TILE_PX = 1024  # read at once; whole cells, and whole tiles of our maps


@dataclass(frozen=True, kw_only=True)
class MapFile:
    """A map of finetune/predict.py.

    Attributes:
        path: the GeoTIFF.
        grid: its grid.
        names: names of its classes by index.
    """

    path: Path
    grid: Grid
    names: tuple[str, ...]


def open_map(path: Path) -> MapFile:
    """Read grid and classes of a map. Raises ValueError when the file is missing or no map of finetune/predict.py."""
    if not path.is_file():
        raise ValueError(f"no map at {path}: give a GeoTIFF that finetune/predict.py wrote")
    with rasterio.open(path) as raster:
        names = class_names(raster.tags(1))
        if not names:
            raise ValueError(f"{path} does not name its classes; give a GeoTIFF that finetune/predict.py wrote")
        return MapFile(path=path, grid=raster_grid(raster, f"map {path}"), names=tuple(names))


def check_comparable(maps: Sequence[MapFile]) -> None:
    """Raises ValueError unless all maps have the same classes and the same pixels."""
    first = maps[0]
    for other in maps[1:]:
        if other.names != first.names:
            raise ValueError(
                f"{first.path} has the classes {', '.join(first.names)}, {other.path} has {', '.join(other.names)}; transitions "
                "need maps of one model"
            )
        if other.grid.shape != first.grid.shape or corner_distance_px(other.grid, first.grid) > TOLERANCE:
            raise ValueError(
                f"{first.path} ({grid_summary(first.grid)}) and {other.path} ({grid_summary(other.grid)}) do not have the same "
                "pixels; map the years together with --years, or give both the same --mosaic.crs and --mosaic.pixel_m"
            )


def joint_areas(maps: Sequence[MapFile]) -> np.ndarray:
    """Areas in hectares by the classes of several maps at once, float64 (classes + 1,) * number of maps.

    The last index along each axis stands for no data. The maps must be comparable (`check_comparable`) and are read in tiles.
    """
    classes, grid = len(maps[0].names), maps[0].grid
    shape = (classes + 1,) * len(maps)
    total = np.zeros(int(np.prod(shape)))
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        rasters = [rasterio.open(one.path) for one in maps]
        try:
            for row in range(0, grid.height, TILE_PX):
                for col in range(0, grid.width, TILE_PX):
                    window = Window(col, row, min(TILE_PX, grid.width - col), min(TILE_PX, grid.height - row))
                    indices = [np.minimum(raster.read(1, window=window), classes).astype(np.int64) for raster in rasters]
                    total += _areas_of_tile(grid, row, col, np.ravel_multi_index(indices, shape), len(total))
        finally:
            for raster in rasters:
                raster.close()
    return total.reshape(shape) / 10_000


def _areas_of_tile(grid: Grid, row: int, col: int, codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Areas in m2 of the codes int64 (height, width) of a tile of the map, float64 (num_codes,)."""
    height, width = codes.shape
    rows, cols = (np.append(np.arange(0, side, CELL_PX), side) for side in (height, width))
    areas = quad_areas(grid, row + rows, col + cols)
    total = np.zeros(num_codes)
    for r, (top, bottom) in enumerate(pairwise(rows)):
        for c, (left, right) in enumerate(pairwise(cols)):
            inside = codes[top:bottom, left:right]
            total += np.bincount(inside.ravel(), minlength=num_codes) * (areas[r, c] / inside.size)
    return total


def classes_at(one: MapFile, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Class indices of a map at points in degrees, int64 (n,): the class of the pixel that holds the point; -1 without data."""
    cols, rows = one.grid.pixels_at(lon, lat)
    inside = np.isfinite(cols) & np.isfinite(rows)
    inside &= (cols >= 0) & (rows >= 0) & (cols < one.grid.width) & (rows < one.grid.height)
    classes = np.full(len(lon), -1, dtype=np.int64)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), rasterio.open(one.path) as raster:
        for index in np.flatnonzero(inside):
            value = int(raster.read(1, window=Window(int(cols[index]), int(rows[index]), 1, 1))[0, 0])
            classes[index] = value if value < len(one.names) else -1
    return classes
