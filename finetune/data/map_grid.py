"""The grid of a map, and how the pixels of its sources nest with it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.crs import CRS

from common.grid import Grid

# Pixel edges may miss each other by this share of a source pixel: grids written with rounded coordinates still nest.
TOLERANCE = 0.02
LARGEST_FACTOR = 256  # between pixels of a source and of the map


@dataclass(frozen=True)
class Nesting:
    """Where a pixel of the map lies in a source's grid: source = map * scale + offset, in pixels."""

    scale: tuple[Fraction, Fraction]
    offset: tuple[int, int]

    def window(self, row: int, col: int, height: int, width: int) -> tuple[int, int, int, int]:
        """A window of the map in pixels of the source. The window must be a multiple of the nesting step."""
        rows, cols = self.scale
        values = row * rows + self.offset[0], col * cols + self.offset[1], height * rows, width * cols
        assert all(value.denominator == 1 for value in values), f"window {row, col, height, width} does not nest"
        return tuple(int(value) for value in values)  # type: ignore[return-value]  # four of them


def nest(grid: Grid, source_grid: Grid, source: str) -> Nesting:
    """How `source_grid` nests with the map's `grid`. Raises ValueError when pixel edges do not meet."""
    if CRS.from_user_input(grid.crs) != CRS.from_user_input(source_grid.crs):
        raise ValueError(
            f"the map's grid is in {short_crs(grid.crs)}, {source} in {short_crs(source_grid.crs)}; both must have one CRS: "
            "reproject one of them"
        )
    to_source = ~source_grid.transform @ grid.transform
    scale = tuple(Fraction(value).limit_denominator(LARGEST_FACTOR) for value in (to_source.e, to_source.a))
    offset = round(to_source.f), round(to_source.c)
    drift = max(abs(to_source.e - scale[0]) * grid.height, abs(to_source.a - scale[1]) * grid.width)
    miss = max(abs(to_source.f - offset[0]), abs(to_source.c - offset[1]))
    if abs(to_source.b) + abs(to_source.d) > 1e-9 or min(scale) <= 0 or drift > TOLERANCE or miss > TOLERANCE:
        raise ValueError(
            f"pixels of {source} ({describe(source_grid)}) do not nest with the map's grid ({describe(grid)}): "
            "their edges must meet; resample one of them"
        )
    return Nesting((scale[0], scale[1]), offset)


def short_crs(crs: str) -> str:
    """`EPSG:n` where there is such a code, for messages."""
    return CRS.from_user_input(crs).to_string()[:40]


def describe(grid: Grid) -> str:
    """Size, pixel size and origin of a grid, for messages."""
    return (
        f"{grid.height} x {grid.width} px of {abs(grid.transform.a):g} from ({grid.transform.c:.1f}, {grid.transform.f:.1f}) "
        f"in {short_crs(grid.crs)}"
    )


def raster_grid(path: Path) -> Grid:
    """The grid of a raster file. Raises ValueError when it is missing, unreadable or has no CRS."""
    if not path.is_file():
        raise ValueError(f"label raster {path} does not exist")
    try:
        with rasterio.open(path) as raster:
            if raster.crs is None:
                raise ValueError(f"label raster {path} has no coordinate reference system")
            return Grid(crs=raster.crs.to_string(), transform=raster.transform, height=raster.height, width=raster.width)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"label raster {path} cannot be read: {error}") from error


def grid_of_pixel(source_grid: Grid, pixel: float) -> Grid:
    """A grid over the same footprint with another pixel size (in units of the CRS); the same grid where sizes agree.

    Raises ValueError when sizes differ so much that they must be in different units: metres and degrees.
    """
    factor = pixel / abs(source_grid.transform.a)
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise ValueError(
            f"the model maps pixels of {pixel:g}; the scene ({describe(source_grid)}) has another unit: bring it into a CRS with "
            "the unit of the scenes that the model was trained on"
        )
    if abs(factor - 1) < 1e-6:
        return source_grid
    height, width = max(1, round(source_grid.height / factor)), max(1, round(source_grid.width / factor))
    return Grid(crs=source_grid.crs, transform=source_grid.transform @ Affine.scale(factor), height=height, width=width)
