"""The grid of a map, and how the grids of its sources are aligned with it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.crs import CRS

from common.grid import Grid

# Pixel edges may differ by this share of a source pixel: grids with rounded coordinates still count as aligned.
TOLERANCE = 0.02
LARGEST_FACTOR = 256  # largest ratio between the pixel sizes of a source and of the map


@dataclass(frozen=True)
class GridAlignment:
    """From pixels of the map to pixels of a source: source = map * scale + offset, for rows and columns."""

    scale: tuple[Fraction, Fraction]
    offset: tuple[int, int]

    def window(self, row: int, col: int, height: int, width: int) -> tuple[int, int, int, int]:
        """A window (row, col, height, width) of the map in pixels of the source.

        All four must be multiples of the step at which the pixel edges meet (`SceneSeries.step`).
        """
        rows, cols = self.scale
        values = row * rows + self.offset[0], col * cols + self.offset[1], height * rows, width * cols
        assert all(value.denominator == 1 for value in values), f"window {row, col, height, width} cuts pixels of the source"
        return tuple(int(value) for value in values)  # type: ignore[return-value]  # four of them


def align_grids(grid: Grid, source_grid: Grid, source: str) -> GridAlignment:
    """How `source_grid` is aligned with the map's `grid`.

    Raises ValueError if the grids have different coordinate reference systems, or if their pixel edges do not meet.
    """
    if CRS.from_user_input(grid.crs) != CRS.from_user_input(source_grid.crs):
        raise ValueError(
            f"the map's grid is in {crs_name(grid.crs)}, {source} in {crs_name(source_grid.crs)}; both must have one CRS: "
            "reproject one of them"
        )
    to_source = ~source_grid.transform @ grid.transform
    scale = tuple(Fraction(value).limit_denominator(LARGEST_FACTOR) for value in (to_source.e, to_source.a))
    offset = round(to_source.f), round(to_source.c)
    drift = max(abs(to_source.e - scale[0]) * grid.height, abs(to_source.a - scale[1]) * grid.width)
    miss = max(abs(to_source.f - offset[0]), abs(to_source.c - offset[1]))
    if abs(to_source.b) + abs(to_source.d) > 1e-9 or min(scale) <= 0 or drift > TOLERANCE or miss > TOLERANCE:
        raise ValueError(
            f"the grid of {source} ({grid_summary(source_grid)}) is not aligned with the map's grid ({grid_summary(grid)}): "
            "their pixel edges must meet; resample one of them"
        )
    return GridAlignment((scale[0], scale[1]), offset)


def crs_name(crs: str) -> str:
    """Short name of a coordinate reference system for messages: `EPSG:n` if it has such a code."""
    return CRS.from_user_input(crs).to_string()[:40]


def grid_summary(grid: Grid) -> str:
    """Size, pixel size, origin and coordinate reference system of a grid, for messages."""
    return (
        f"{grid.height} x {grid.width} px of {abs(grid.transform.a):g} from ({grid.transform.c:.1f}, {grid.transform.f:.1f}) "
        f"in {crs_name(grid.crs)}"
    )


def raster_grid(path: Path) -> Grid:
    """The grid of a raster file. Raises ValueError if it is missing, unreadable or has no coordinate reference system."""
    if not path.is_file():
        raise ValueError(f"label raster {path} does not exist")
    try:
        with rasterio.open(path) as raster:
            if raster.crs is None:
                raise ValueError(f"label raster {path} has no coordinate reference system")
            return Grid(crs=raster.crs.to_string(), transform=raster.transform, height=raster.height, width=raster.width)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"label raster {path} cannot be read: {error}") from error


def grid_with_pixel_size(source_grid: Grid, pixel_size: float) -> Grid:
    """A grid over the same footprint with pixels of `pixel_size` units of the CRS; the same grid if the sizes agree.

    Raises ValueError if the sizes differ so much that their units must differ, such as metres and degrees.
    """
    factor = pixel_size / abs(source_grid.transform.a)
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise ValueError(
            f"the model maps pixels of {pixel_size:g}; the scene ({grid_summary(source_grid)}) has another unit: reproject it to "
            "a CRS with the unit of the scenes that the model was trained on"
        )
    if abs(factor - 1) < 1e-6:
        return source_grid
    height, width = max(1, round(source_grid.height / factor)), max(1, round(source_grid.width / factor))
    return Grid(crs=source_grid.crs, transform=source_grid.transform @ Affine.scale(factor), height=height, width=width)
