"""Regular raster grids in a coordinate reference system: windows of a grid, and longitude and latitude of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine

GEOGRAPHIC = "EPSG:4326"  # WGS 84; rasterio orders its coordinates as longitude, latitude


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A north-up or rotated raster grid.

    Attributes:
        crs: coordinate reference system, `EPSG:n` or WKT.
        transform: affine transform from (column, row) to coordinates of the CRS, as in rasterio.
        height, width: size in pixels.
    """

    crs: str
    transform: Affine
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return left, bottom, right, top in units of the CRS."""
        corners = [self.transform @ (c, r) for c in (0, self.width) for r in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def georeferenced(self) -> bool:
        """Return False for a grid with a local CRS: its location is unknown, as for samples without coordinates."""
        return not self.crs.startswith("LOCAL_CS")

    def window(self, row: int, col: int, height: int, width: int) -> Grid:
        """Return the part of the grid that starts at (row, col). Raises ValueError when it reaches outside of the grid."""
        if row < 0 or col < 0 or row + height > self.height or col + width > self.width:
            raise ValueError(f"window rows {row}+{height}, columns {col}+{width} leaves a grid of {self.height} x {self.width}")
        return Grid(crs=self.crs, transform=self.transform @ Affine.translation(col, row), height=height, width=width)

    def lon_lat(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return longitudes and latitudes in degrees of (fractional) rows and columns, each float64 (n,)."""
        x, y = apply(self.transform, np.asarray(cols, np.float64), np.asarray(rows, np.float64))
        if self.crs == GEOGRAPHIC:
            return x, y
        return _reprojected(self.crs, GEOGRAPHIC, x, y)

    def pixels_at(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return fractional (columns, rows) of points in degrees, each float64 (n,); infinite outside of the CRS's domain."""
        return apply(~self.transform, *_reprojected(GEOGRAPHIC, self.crs, lon, lat))

    def profile(self) -> dict[str, Any]:
        """Return the georeferencing part of a rasterio profile."""
        return {"crs": self.crs, "transform": self.transform, "height": self.height, "width": self.width}


def apply(affine: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an affine transform to many points at once: x and y float64 (n,) each."""
    a, b, c, d, e, f = tuple(affine)[:6]
    return a * x + b * y + c, d * x + e * y + f


def _reprojected(source_crs: str, target_crs: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points in another CRS, float64 (n,) each."""
    from rasterio.warp import transform  # only here, so that modules that use a Grid load no rasterio

    reprojected_x, reprojected_y = transform(source_crs, target_crs, x, y)
    return np.array(reprojected_x), np.array(reprojected_y)
