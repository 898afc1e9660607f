"""Tiles of rasters in the Web Mercator projection (EPSG:3857), as browsers show them: PNG of 256 x 256 pixels.

A tile is read from that overview of the raster which has just enough pixels for it, so memory does not grow with the raster.
Pixels are never mixed: a tile shows the nearest pixel.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.warp import reproject

from common.grid import reprojected

MERCATOR = "EPSG:3857"
TILE_PX = 256
HALF_WORLD_M = math.pi * 6378137.0  # from the centre of the projection to its edge
DEEPEST_ZOOM = 24
# Viridis, from 0 to 1: in order for colour-blind people and in grey, too.
PROBABILITY_COLORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def tile_transform(zoom: int, x: int, y: int) -> Affine:
    """From (column, row) of a tile to coordinates of EPSG:3857. Raises ValueError for a tile that does not exist."""
    if not 0 <= zoom <= DEEPEST_ZOOM or not 0 <= x < 2**zoom or not 0 <= y < 2**zoom:
        raise ValueError(f"there is no tile {zoom}/{x}/{y}")
    side = 2 * HALF_WORLD_M / 2**zoom
    pixel = side / TILE_PX
    return Affine(pixel, 0, -HALF_WORLD_M + x * side, 0, -pixel, HALF_WORLD_M - y * side)


def read_tile(path: Path, zoom: int, x: int, y: int, bands: list[int], outside: int) -> np.ndarray:
    """The pixels of a tile: (bands, 256, 256), `outside` where the raster has none.

    Args:
        path: a GeoTIFF with overviews.
        zoom, x, y: the tile.
        bands: bands of the raster, counted from 1.
        outside: number for pixels outside the raster.
    """
    transform = tile_transform(zoom, x, y)
    with rasterio.open(path) as raster:
        level = _overview_level(raster, transform)
        dtype = raster.dtypes[0]
    tile = np.full((len(bands), TILE_PX, TILE_PX), outside, dtype=dtype)
    with rasterio.open(path, **({} if level is None else {"overview_level": level})) as raster:
        reproject(
            rasterio.band(raster, bands),
            tile,
            dst_transform=transform,
            dst_crs=MERCATOR,
            resampling=Resampling.nearest,
            init_dest_nodata=False,  # pixels outside keep their number
            num_threads=1,
        )
    return tile


def _overview_level(raster: rasterio.DatasetReader, transform: Affine) -> int | None:
    """The coarsest overview that has at least one pixel for each of a tile; None for the raster itself."""
    middle = TILE_PX / 2
    corners = [transform @ (middle + col, middle + row) for col, row in ((0, 0), (1, 0), (0, 1))]
    x, y = reprojected(MERCATOR, raster.crs.to_wkt(), *np.array(corners).T)
    if not np.isfinite([x, y]).all():  # the tile lies where the raster's CRS has no place
        return None
    pixel = abs(raster.transform.determinant) ** 0.5
    step = min(math.hypot(x[other] - x[0], y[other] - y[0]) for other in (1, 2)) / pixel
    return max((level for level, factor in enumerate(raster.overviews(1)) if factor <= step), default=None)


def class_png(classes: np.ndarray, colors: Mapping[int, tuple[int, int, int]]) -> bytes:
    """A PNG of numbers uint8 (256, 256) in their colours; numbers without a colour are transparent."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for number, color in colors.items():
        table[number] = (*color, 255)
    return png(table[classes])


def probability_png(stored: np.ndarray, steps: int, no_data: int) -> bytes:
    """A PNG of probabilities, stored as number / `steps` in uint8 (256, 256), in `PROBABILITY_COLORS`."""
    share = np.linspace(0, 1, len(PROBABILITY_COLORS))
    value = np.clip(np.arange(256) / steps, 0, 1)
    channels = [np.interp(value, share, channel) for channel in np.array(PROBABILITY_COLORS, dtype=np.float64).T]
    table = np.stack([*channels, np.full(256, 255.0)], axis=1).round().astype(np.uint8)
    table[no_data] = 0
    return png(table[stored])


def png(rgba: np.ndarray) -> bytes:
    """A PNG of uint8 (H, W, 4)."""
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
