"""Reads the mapped pixels of a land-cover map as candidates for sites, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from rasterio.windows import Window
from tqdm import tqdm

from common.crs import crs_text
from common.grid import Grid
from common.raster_masks import RasterMask
from common.rasters import opened_raster
from data_prep.landcover.legend import Legend
from data_prep.landcover.maps import Tile, stored_codes
from data_prep.plan.splits import EARTH_RADIUS_KM

WINDOW_PIXELS = 2_000_000  # pixels of the map that are read at a time


@dataclass(frozen=True, kw_only=True)
class MapPixels:
    """Some pixels of the map, as arrays (n,).

    Attributes:
        lon, lat: centre in degrees.
        label: index of the class in the legend.
        area_km2: area in square kilometres.
        draw: random number by which pixels are ordered; no two pixels of a raster have the same.
    """

    lon: np.ndarray
    lat: np.ndarray
    label: np.ndarray
    area_km2: np.ndarray
    draw: np.ndarray

    def __len__(self) -> int:
        return len(self.lon)

    def take(self, chosen: np.ndarray) -> MapPixels:
        """The pixels at the indices `chosen`, or where the mask `chosen` is True."""
        return MapPixels(**{name: values[chosen] for name, values in vars(self).items()})


def concatenate(parts: list[MapPixels]) -> MapPixels:
    """All pixels of the parts, in their order."""
    return MapPixels(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def read_map_pixels(tile: Tile, number: int, band: int, step: int, legend: Legend, seed: int) -> Iterator[MapPixels]:
    """The mapped pixels of a raster, window by window, with a progress bar.

    `number`: number of the raster in the map. `step`: use only every step-th pixel of every step-th row. Raises ValueError when
    the raster holds codes that the legend does not have.
    """
    label_of = np.array([legend.classes.index(group) for group in legend.groups])
    with opened_raster(tile.path) as raster:
        crs = crs_text(str(raster.crs), str(tile.path))
        mask = RasterMask.of(raster)
        grid = Grid(crs=crs, transform=raster.transform, height=raster.height, width=raster.width)
        for window in tqdm(list(_windows(raster)), desc=tile.path.name, unit="window"):
            codes = stored_codes(raster, mask, band, window, legend.fill[0])
            try:
                legend.count(codes)
            except ValueError as error:
                raise ValueError(f"{tile.path}: {error}") from error
            row, col = np.nonzero(~np.isin(codes, legend.fill))
            row, col = row + window.row_off, col + window.col_off
            used = (row % step == 0) & (col % step == 0)
            row, col = row[used], col[used]
            lon, lat = grid.lon_lat(row + 0.5, col + 0.5)
            label = label_of[np.searchsorted(legend.codes, codes[row - window.row_off, col - window.col_off])]
            draw = pixel_draws(row * raster.width + col, seed * 1_000_003 + number)
            yield MapPixels(lon=lon, lat=lat, label=label, area_km2=_pixel_km2(tile, lat) * step**2, draw=draw)


def _windows(raster: Any) -> Iterator[Window]:
    """Windows of whole tiles or strips of a raster, with about WINDOW_PIXELS pixels each."""
    tile_rows, tile_cols = raster.block_shapes[0]
    cols = min(raster.width, tile_cols * max(1, ceil(WINDOW_PIXELS**0.5 / tile_cols)))
    rows = min(raster.height, tile_rows * max(1, WINDOW_PIXELS // cols // tile_rows))
    for row in range(0, raster.height, rows):
        for col in range(0, raster.width, cols):
            yield Window(col, row, min(cols, raster.width - col), min(rows, raster.height - row))


def _pixel_km2(tile: Tile, lat: np.ndarray) -> np.ndarray:
    """Area of each pixel in square kilometres (n,); in a projected CRS all pixels have the same."""
    area = abs(tile.affine.determinant)
    if not tile.crs.is_geographic:
        return np.full(len(lat), area / 1e6)
    return np.asarray(area * (np.pi / 180 * EARTH_RADIUS_KM) ** 2 * np.cos(np.radians(lat)))


def pixel_draws(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random uint64 by which map pixels are drawn, one for each of `numbers`; the same on every machine.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (the output function of SplitMix64).
    """
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))
