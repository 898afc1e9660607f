"""Regular raster grids in a coordinate reference system: how to make, compare and divide them, and where their pixels lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine

from common.crs import crs_name, crs_text, same_crs
from common.storage import AnyPath

GEOGRAPHIC = "EPSG:4326"  # WGS 84; rasterio orders its coordinates as longitude, latitude
LARGEST_FACTOR = 256  # largest ratio between the pixel sizes of a source and of the map


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


def grid_from_transform(values: Any, crs: int | str, shape: tuple[int, int], origin: str) -> Grid:
    """Grid from an attribute `transform`: six numbers (a, b, c, d, e, f) in the order of rasterio and affine."""
    numbers = [float(value) for value in np.ravel(values)[:6]]
    if len(numbers) != 6:
        raise ValueError(f"{origin}: transform has {len(numbers)} numbers; expected a, b, c, d, e, f as rasterio orders them")
    transform = Affine(*numbers)
    if transform.is_degenerate:
        raise ValueError(f"{origin}: transform {numbers} has pixels of no area; is it in GDAL's order instead of rasterio's?")
    return Grid(crs=crs_text(crs, origin), transform=transform, height=shape[0], width=shape[1])


def grid_from_centres(x: np.ndarray, y: np.ndarray, crs: int | str, origin: str) -> Grid:
    """Grid from the coordinates of pixel centres, x (W,) and y (H,).

    Raises ValueError unless they are evenly spaced to a hundredth of a pixel.
    """
    steps = []
    for name, centres in (("x", x), ("y", y)):
        if len(centres) < 2:
            raise ValueError(f"{origin}: {name} has {len(centres)} coordinate; two are needed to know the pixel size")
        step = (float(centres[-1]) - float(centres[0])) / (len(centres) - 1)
        regular = float(centres[0]) + step * np.arange(len(centres))
        if step == 0 or not np.allclose(centres, regular, rtol=0, atol=abs(step) / 100):
            raise ValueError(f"{origin}: coordinates {name} are not evenly spaced; regrid the images first")
        steps.append(step)
    dx, dy = steps
    transform = Affine(dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2)
    return Grid(crs=crs_text(crs, origin), transform=transform, height=len(y), width=len(x))


def nesting_factor(coarse: Grid, fine: Grid, origin: str) -> int:
    """Number of pixels of `fine` that a pixel of `coarse` covers along each axis. Raises ValueError when they do not nest."""
    factor = max(1, round(abs(coarse.transform.determinant / fine.transform.determinant) ** 0.5))
    own, base = coarse.transform, fine.transform
    stretched = (base.a * factor, base.b * factor, base.c, base.d * factor, base.e * factor, base.f)
    tolerance = abs(base.determinant) ** 0.5 / 100
    fits = np.allclose(tuple(own)[:6], stretched, rtol=0, atol=tolerance) and same_crs(coarse.crs, fine.crs)
    surplus = coarse.height * factor - fine.height, coarse.width * factor - fine.width
    if not fits or not all(0 <= pixels < factor for pixels in surplus):
        raise ValueError(
            f"{origin}: its grid ({coarse.height} x {coarse.width}, {tuple(own)[:6]}, {coarse.crs[:60]}) does not nest in "
            f"that of the series ({fine.height} x {fine.width}, {tuple(base)[:6]}, {fine.crs[:60]}): CRS, upper left corner "
            "and extent must be equal and pixel sizes whole multiples"
        )
    return factor


def grid_summary(grid: Grid) -> str:
    """Size, pixel size, origin and coordinate reference system of a grid, for messages."""
    return (
        f"{grid.height} x {grid.width} px of {abs(grid.transform.a):g} from ({grid.transform.c:.1f}, {grid.transform.f:.1f}) "
        f"in {crs_name(grid.crs)}"
    )


def raster_grid(path: AnyPath) -> Grid:
    """The grid of a raster file. Raises ValueError if it is missing, unreadable or has no coordinate reference system."""
    if not path.is_file():
        raise ValueError(f"label raster {path} does not exist")
    from common.rasters import opened_raster  # only here, so that modules that use a Grid load no rasterio

    with opened_raster(path) as raster:
        if raster.crs is None:
            raise ValueError(f"label raster {path} has no coordinate reference system")
        return Grid(crs=raster.crs.to_string(), transform=raster.transform, height=raster.height, width=raster.width)


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
