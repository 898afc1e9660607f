"""The probabilities of a scene on a part of a mosaic, whatever the CRS and the pixels of the scene.

Between the centres of the scene's pixels probabilities are interpolated linearly. Where the mosaic's pixels are larger, they are
the mean of those below. A pixel has data where the scene has data at its centre, or in half of its area: data grow nowhere. A
border between two classes stays where their probabilities are equal.

GDAL is not used for it, since its warper approximates coordinates by straight lines across each piece that it is asked for, to an
eighth of a pixel: pieces would show, and the result would depend on the blocks. Here coordinates are exact at every sixteenth
pixel of the mosaic and linear in between, which misses them by less than a hundredth of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from common.grid import SAME_PLACE, SAME_SIZE, Grid, apply, grid_in_crs, reprojected, unwrapped
from finetune.mapping.cog import NO_DATA, probabilities_path
from finetune.mapping.tiling import Block

LATTICE_PX = 16  # distance of the pixels whose coordinates are exact
COARSER = 1.5  # ratio of pixel sizes from which on the mean of the pixels below is taken
SOURCE_BYTES = 256_000_000  # of a scene that is read at once


@dataclass(frozen=True, kw_only=True)
class SceneMap:
    """The finished map of one scene, with its probabilities.

    Attributes:
        name: name of the scene.
        path: GeoTIFF of the classes; the probabilities are at `probabilities_path(path)`.
        grid: their grid.
    """

    name: str
    path: Path
    grid: Grid


@dataclass(frozen=True, kw_only=True, eq=False)
class _Below:
    """Where the pixels of a part of a mosaic lie in a scene.

    Attributes:
        rows, cols: float64 (h + 1, w + 1), fractional pixels of the scene at the corners of all cells of the lattice; NaN outside
            of the domain of its CRS.
        row, col: pixel of the mosaic at the first corner, a multiple of `LATTICE_PX`.
        ratios: height and width of the mosaic's pixels in pixels of the scene. They differ where those of the mosaic are no
            squares on the ground.
    """

    rows: np.ndarray
    cols: np.ndarray
    row: int
    col: int
    ratios: tuple[float, float]

    def at(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractional rows and columns in the scene, (R, C) each, of fractional rows (R,) and columns (C,) of the mosaic."""
        down, along_down = _cells(row - self.row)
        right, along_right = _cells(col - self.col)
        u, v = along_down[:, None], along_right[None]
        # Sum by sum, and not as a product of matrices, whose last digits depend on their size.
        upper, lower = np.ix_(down, right), np.ix_(down + 1, right)
        upper_right, lower_right = np.ix_(down, right + 1), np.ix_(down + 1, right + 1)
        found = [
            (1 - u) * ((1 - v) * exact[upper] + v * exact[upper_right]) + u * ((1 - v) * exact[lower] + v * exact[lower_right])
            for exact in (self.rows, self.cols)
        ]
        return found[0], found[1]


def _cells(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell of the lattice of each distance from its first corner, and the share of the cell before it."""
    cell = np.floor(distance / LATTICE_PX).astype(np.int64)
    return cell, distance / LATTICE_PX - cell


def probabilities_on(grid: Grid, part: Block, scene: SceneMap, num_classes: int) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Stored probabilities of a scene on a part of the mosaic, float32 (classes, height, width), `NO_DATA` where there are none.

    Beside them the classes uint8 (height, width) of a scene that lies on the mosaic's own pixels, else None. None for a scene
    that lies elsewhere. `part` may reach beyond the mosaic.
    """
    placed = turned_to(scene.grid, grid, part)
    offset = offset_in(placed, grid, part)
    if offset is not None:
        return _copied(scene, offset, part, num_classes)
    below = _below(placed, grid, part)
    result = np.full((num_classes, part.height, part.width), NO_DATA, dtype=np.float32)
    _resample(scene, below, part, result)
    return None if (result[0] == NO_DATA).all() else (result, None)


def turned_to(scene: Grid, grid: Grid, part: Block) -> Grid:
    """The grid of a scene; in degrees, as the mosaic may be, with longitudes near those of the part of the mosaic."""
    if not (is_geographic(scene.crs) and is_geographic(grid.crs)):
        return scene
    here = (scene.transform @ (scene.width / 2, scene.height / 2))[0]
    there = (grid.transform @ (part.col + part.width / 2, part.row + part.height / 2))[0]
    return Grid(
        crs=scene.crs,
        transform=Affine.translation(360 * round((there - here) / 360), 0) @ scene.transform,
        height=scene.height,
        width=scene.width,
    )


def is_geographic(crs: str) -> bool:
    """Whether the coordinates of a CRS are longitude and latitude."""
    return bool(CRS.from_user_input(crs).is_geographic)


def offset_in(scene: Grid, grid: Grid, part: Block) -> tuple[int, int] | None:
    """Row and column in `scene` of the first pixel of a part of `grid`, if both grids have the same pixels; else None."""
    placed = grid_in_crs(scene, grid.crs)
    if placed is None:
        return None
    a, b, c, d, e, f = tuple(~placed.transform @ grid.transform)[:6]
    same = abs(a - 1) <= SAME_SIZE and abs(e - 1) <= SAME_SIZE and abs(b) + abs(d) <= SAME_SIZE
    if not same or abs(c - round(c)) > SAME_PLACE or abs(f - round(f)) > SAME_PLACE:
        return None
    return part.row + round(f), part.col + round(c)


def _copied(
    scene: SceneMap, offset: tuple[int, int], part: Block, num_classes: int
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Probabilities and classes of a scene with the mosaic's pixels; the part of the mosaic begins at `offset` in the scene."""
    top, left = max(offset[0], 0), max(offset[1], 0)
    bottom, right = min(offset[0] + part.height, scene.grid.height), min(offset[1] + part.width, scene.grid.width)
    if bottom <= top or right <= left:
        return None
    window = Window(left, top, right - left, bottom - top)
    inside = np.s_[..., top - offset[0] : bottom - offset[0], left - offset[1] : right - offset[1]]
    probabilities = np.full((num_classes, part.height, part.width), NO_DATA, dtype=np.float32)
    classes = np.full((part.height, part.width), NO_DATA, dtype=np.uint8)
    with rasterio.open(probabilities_path(scene.path)) as raster:
        probabilities[inside] = raster.read(window=window)
    with rasterio.open(scene.path) as raster:
        classes[inside] = raster.read(1, window=window)
    return probabilities, classes


def _below(scene: Grid, grid: Grid, part: Block) -> _Below:
    """Where a part of the mosaic lies in a scene."""
    first_row, first_col = (start // LATTICE_PX * LATTICE_PX for start in (part.row, part.col))
    rows = np.arange(first_row, part.row + part.height + LATTICE_PX + 1, LATTICE_PX)
    cols = np.arange(first_col, part.col + part.width + LATTICE_PX + 1, LATTICE_PX)
    col, row = (at.ravel().astype(np.float64) for at in np.meshgrid(cols, rows))
    x, y = reprojected(grid.crs, scene.crs, *apply(grid.transform, col, row))
    if is_geographic(scene.crs):
        x = unwrapped(x, (scene.transform @ (scene.width / 2, scene.height / 2))[0])
    in_col, in_row = (at.reshape(len(rows), len(cols)) for at in apply(~scene.transform, x, y))
    for at in (in_col, in_row):
        at[~np.isfinite(at)] = np.nan
    ratios = _median_step(in_row, in_col, 0), _median_step(in_row, in_col, 1)
    return _Below(rows=in_row, cols=in_col, row=first_row, col=first_col, ratios=ratios)


def _median_step(rows: np.ndarray, cols: np.ndarray, axis: int) -> float:
    """Pixels of a scene per pixel of the mosaic along an axis of the lattice; 1 where none is known."""
    with np.errstate(invalid="ignore"):
        steps = np.hypot(np.diff(cols, axis=axis), np.diff(rows, axis=axis)) / LATTICE_PX
    return float(np.nanmedian(steps)) if np.isfinite(steps).any() else 1.0


def _resample(scene: SceneMap, below: _Below, part: Block, result: np.ndarray) -> None:
    """Write the probabilities of a scene on a part of the mosaic to `result` (classes, height, width), where it has any."""
    rows, cols = below.at(np.array([part.row, part.row + part.height / 2, part.row + part.height]), _places(part.col, part.width))
    more = below.at(_places(part.row, part.height), np.array([part.col, part.col + part.width]))
    rows, cols = (np.concatenate([a.ravel(), b.ravel()]) for a, b in zip((rows, cols), more, strict=True))
    known = np.isfinite(rows) & np.isfinite(cols)
    if not known.any():
        return
    margin = 2 + ceil(max(below.ratios))
    top, left = (max(int(at[known].min()) - margin, 0) for at in (rows, cols))
    bottom, right = (
        min(int(at[known].max()) + 1 + margin, side) for at, side in ((rows, scene.grid.height), (cols, scene.grid.width))
    )
    if bottom <= top or right <= left:
        return
    if len(result) * (bottom - top) * (right - left) > SOURCE_BYTES and part.height > 1:
        half = part.height // 2
        _resample(scene, below, Block(part.row, part.col, half, part.width), result[:, :half])
        _resample(scene, below, Block(part.row + half, part.col, part.height - half, part.width), result[:, half:])
        return
    with rasterio.open(probabilities_path(scene.path)) as raster:
        source = raster.read(window=Window(left, top, right - left, bottom - top))
    sample = _averaged if max(below.ratios) > COARSER else _interpolated
    values, valid = sample(source, lambda row, col: _moved(below.at(row, col), top, left), part, below.ratios)
    result[:, valid] = values[:, valid]


def _places(start: int, length: int) -> np.ndarray:
    """Some places along a side of a part of the mosaic, with both ends."""
    return np.linspace(start, start + length, 2 + length // LATTICE_PX)


def _moved(at: tuple[np.ndarray, np.ndarray], top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    return at[0] - top, at[1] - left


Places = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _interpolated(source: np.ndarray, places: Places, part: Block, _: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers between the four nearest pixels of `source` that have data, and where the pixel below has data."""
    rows, cols = places(part.row + 0.5 + np.arange(part.height), part.col + 0.5 + np.arange(part.width))
    known = source[0] != NO_DATA
    index, inside = _index(source, rows, cols)
    valid = inside & known.ravel()[index]
    with np.errstate(invalid="ignore"):
        upper, left = np.floor(rows - 0.5), np.floor(cols - 0.5)
    neighbours = []
    total = np.zeros(valid.shape)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - np.abs(rows - 0.5 - upper - down)) * (1 - np.abs(cols - 0.5 - left - right))
            index, inside = _index(source, upper + down + 0.5, left + right + 0.5)
            weight = np.where(inside & known.ravel()[index], weight, 0)
            neighbours.append((index, weight))
            total += weight
    total = np.where(valid, total, 1)  # the pixel below has a weight of a quarter at least
    values = np.empty((len(source), *valid.shape), dtype=np.float32)
    for band, into in zip(source, values, strict=True):  # class by class, so that no more than one is held in 64 bits
        into[:] = sum(weight * band.ravel()[index] for index, weight in neighbours) / total
    return values, valid


def _averaged(source: np.ndarray, places: Places, part: Block, ratios: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean numbers of the pixels of `source` below each pixel that have data, and where half of them have."""
    height, width = (ceil(ratio) for ratio in ratios)
    known = source[0] != NO_DATA
    total = np.zeros((len(source), part.height, part.width), dtype=np.float32)  # of whole numbers, so it is exact
    count = np.zeros((part.height, part.width), dtype=np.int32)
    for down in range(height):
        for right in range(width):
            rows, cols = part.row + (down + 0.5) / height, part.col + (right + 0.5) / width
            index, inside = _index(source, *places(rows + np.arange(part.height), cols + np.arange(part.width)))
            counts = inside & known.ravel()[index]
            for band, into in zip(source, total, strict=True):
                into += np.where(counts, band.ravel()[index], 0)
            count += counts
    valid = 2 * count >= height * width
    total /= np.where(valid, count, 1)
    return total, valid


def _index(source: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index into a flat band of the pixels that hold fractional rows and columns, and where they lie in the bands at all."""
    _, height, width = source.shape
    with np.errstate(invalid="ignore"):
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return np.where(inside, rows, 0).astype(np.int64) * width + np.where(inside, cols, 0).astype(np.int64), inside
