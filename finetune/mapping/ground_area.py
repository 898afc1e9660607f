"""Areas of pixels on the ground, in any coordinate reference system."""

from __future__ import annotations

import numpy as np

from common.grid import GEOGRAPHIC, Grid, apply, reprojected, unwrapped

EQUAL_AREA = "EPSG:6933"  # EASE-Grid 2.0 global


def quad_areas(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Areas in m2 of the quadrangles between lines of pixels: rows (R + 1,), cols (C + 1,) -> float64 (R, C)."""
    col, row = (at.ravel() for at in np.meshgrid(cols.astype(np.float64), rows.astype(np.float64)))
    lon, lat = apply(grid.transform, col, row) if grid.crs == GEOGRAPHIC else grid.lon_lat(row, col)
    lon = unwrapped(lon, lon[0])
    # EASE-Grid 2.0 is cylindrical: x is a multiple of the longitude, also beyond 180 degrees, which PROJ would wrap.
    (metres_per_degree,), _ = reprojected(GEOGRAPHIC, EQUAL_AREA, np.array([1.0]), np.array([0.0]))
    _, y = reprojected(GEOGRAPHIC, EQUAL_AREA, np.zeros(len(lat)), lat)
    x, y = (values.reshape(len(rows), len(cols)) for values in (metres_per_degree * lon, y))
    one = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]  # the diagonals of each quadrangle
    other = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    return np.asarray(np.abs(one[0] * other[1] - one[1] * other[0]) / 2)


def pixel_area(grid: Grid) -> float:
    """Area in m2 of the pixel at the centre of a grid."""
    row, col = grid.height // 2, grid.width // 2
    return float(quad_areas(grid, np.array([row, row + 1]), np.array([col, col + 1]))[0, 0])
