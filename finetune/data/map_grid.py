"""The grid of a map, and how the grids of its sources are aligned with it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from common.crs import crs_name
from common.grid import LARGEST_FACTOR, Grid, grid_in_crs, grid_summary

# Pixel edges may differ by this share of a source pixel: grids with rounded coordinates still count as aligned.
TOLERANCE = 0.02


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
    placed = grid_in_crs(source_grid, grid.crs)
    if placed is None:
        raise ValueError(
            f"the map's grid is in {crs_name(grid.crs)}, {source} in {crs_name(source_grid.crs)}; both must have one CRS: "
            "reproject one of them"
        )
    to_source = ~placed.transform @ grid.transform
    scale = tuple(Fraction(value).limit_denominator(LARGEST_FACTOR) for value in (to_source.e, to_source.a))
    offset = round(to_source.f), round(to_source.c)
    drift = max(
        *(abs(to_source.e - scale[0]) * grid.height, abs(to_source.a - scale[1]) * grid.width),
        *(abs(to_source.b) * grid.height, abs(to_source.d) * grid.width),  # of grids that are turned against each other
    )
    miss = max(abs(to_source.f - offset[0]), abs(to_source.c - offset[1]))
    if min(scale) <= 0 or drift > TOLERANCE or miss > TOLERANCE:
        raise ValueError(
            f"the grid of {source} ({grid_summary(source_grid)}) is not aligned with the map's grid ({grid_summary(grid)}): "
            "their pixel edges must meet; resample one of them"
        )
    return GridAlignment((scale[0], scale[1]), offset)
