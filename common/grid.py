"""Regular raster grids in a coordinate reference system: how to make, compare and divide them, and where their pixels lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS, Geod

from common.crs import crs_name, crs_text, same_crs

LOCAL = "LOCAL_CS"  # begins the WKT of a CRS without a place on the Earth
GEOGRAPHIC = "EPSG:4326"  # WGS 84; rasterio orders its coordinates as longitude, latitude
LARGEST_FACTOR = 256  # largest ratio between the pixel sizes of a source and of the map
SAME_PLACE = 0.01  # largest distance, in pixels, between places that count as one
SAME_SIZE = 1e-6  # largest relative difference of pixel sizes that count as one: a hundredth of a pixel in 10,000


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A north-up or rotated raster grid. Rasters that are stored otherwise are flipped when they are read (`common/north_up.py`).

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
        return not self.crs.startswith(LOCAL)

    @property
    def pixel_side(self) -> float:
        """Return the length of a pixel's upper side in units of the CRS."""
        return float(np.hypot(self.transform.a, self.transform.d))

    @property
    def is_in_degrees(self) -> bool:
        """Return True for a geographic CRS of any datum."""
        return _is_geographic(self.crs)

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
        return reprojected(self.crs, GEOGRAPHIC, x, y)

    def pixels_at(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return fractional (columns, rows) of points in degrees, each float64 (n,); infinite outside of the CRS's domain."""
        x, y = reprojected(GEOGRAPHIC, self.crs, lon, lat)
        if self.is_in_degrees:  # the grid may cross the antimeridian, and begin at 180 degrees or more
            x = unwrapped(x, (self.transform @ (self.width / 2, self.height / 2))[0])
        return apply(~self.transform, x, y)

    def profile(self) -> dict[str, Any]:
        """Return the georeferencing part of a rasterio profile."""
        return {"crs": self.crs, "transform": self.transform, "height": self.height, "width": self.width}


@lru_cache(maxsize=1024)
def _is_geographic(crs: str) -> bool:
    return not crs.startswith(LOCAL) and bool(CRS.from_user_input(crs).is_geographic)


def apply(affine: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an affine transform to many points at once: x and y float64 (n,) each."""
    a, b, c, d, e, f = tuple(affine)[:6]
    return a * x + b * y + c, d * x + e * y + f


def reprojected(source_crs: str, target_crs: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points in another CRS, float64 (n,) each; infinite outside of its domain."""
    from rasterio.warp import transform  # only here, so that modules that use a Grid load no rasterio

    reprojected_x, reprojected_y = transform(source_crs, target_crs, x, y)
    return np.array(reprojected_x), np.array(reprojected_y)


def unwrapped(lon: np.ndarray, near: np.ndarray | float) -> np.ndarray:
    """Longitudes in degrees within 180 degrees of `near`, so that they do not jump at the antimeridian: -179 near 180 -> 181."""
    with np.errstate(invalid="ignore"):  # infinite ones become NaN
        return np.asarray(near + (lon - near + 180) % 360 - 180)


def grid_from_transform(values: Any, crs: int | str, shape: tuple[int, int], origin: str) -> Grid:
    """Grid from an attribute `transform`: six numbers (a, b, c, d, e, f) in the order of rasterio and affine.

    Raises ValueError, which `origin` begins, for anything else.
    """
    try:
        numbers = [float(value) for value in np.ravel(values)[:6]]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin}: transform is {values!r}; expected the six numbers a, b, c, d, e, f") from error
    if len(numbers) != 6:
        raise ValueError(f"{origin}: transform has {len(numbers)} numbers; expected a, b, c, d, e, f as rasterio orders them")
    transform = Affine(*numbers)
    if transform.is_degenerate:
        raise ValueError(f"{origin}: transform {numbers} has pixels of no area; is it in GDAL's order instead of rasterio's?")
    if not _has_plausible_pixels(transform):
        rasterio_order = [float(number) for number in tuple(Affine.from_gdal(*numbers))[:6]]
        order = (
            "it is in GDAL's order: x origin, pixel width, row rotation, y origin, column rotation, pixel height; expected "
            f"rasterio's order, here {rasterio_order}"
            if _has_plausible_pixels(Affine.from_gdal(*numbers))
            else "expected a, b, c, d, e, f as rasterio orders them: pixel width, row rotation, x origin, column rotation, pixel "
            "height, y origin"
        )
        raise ValueError(f"{origin}: transform {numbers} has pixels that are no squares, not even nearly; {order}")
    return Grid(crs=crs_text(crs, origin), transform=transform, height=shape[0], width=shape[1])


def _has_plausible_pixels(transform: Affine) -> bool:
    """Whether the sides of pixels are roughly equal and perpendicular."""
    if transform.is_degenerate:
        return False
    width, height = np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)
    skew = abs(transform.a * transform.b + transform.d * transform.e) / (width * height)
    return bool(max(width, height) <= LARGEST_FACTOR * min(width, height) and skew < 0.5)


def check_centres(grid: Grid, x: np.ndarray, y: np.ndarray, origin: str) -> None:
    """Raises ValueError when the coordinates x (W,) and y (H,) of pixels lie more than half a pixel off the centres of `grid`.

    Half a pixel is allowed, since some files hold the coordinates of upper left corners.
    """
    if (len(y), len(x)) != grid.shape:
        raise ValueError(f"{origin}: {len(y)} y and {len(x)} x coordinates for images of {grid.shape}")
    for name, found, axis in (("x", x, 0), ("y", y, 1)):
        pixels = np.arange(len(found)) + 0.5
        at = (pixels, np.full(len(found), 0.5)) if axis == 0 else (np.full(len(found), 0.5), pixels)
        miss = np.abs(apply(grid.transform, *at)[axis] - found) / abs(grid.transform.determinant) ** 0.5
        if not (miss <= 0.51).all():
            raise ValueError(
                f"{origin}: the attribute transform {tuple(grid.transform)[:6]} contradicts the coordinates {name}, which run "
                f"from {found[0]:.12g} to {found[-1]:.12g}; remove or correct one of them"
            )


def grid_from_centres(x: np.ndarray, y: np.ndarray, crs: int | str, origin: str) -> Grid:
    """Grid from the coordinates of pixel centres, x (W,) and y (H,).

    Raises ValueError unless they are evenly spaced to a hundredth of a pixel, beside the rounding of float32.
    """
    (x0, dx), (y0, dy) = (_even_spacing(centres, name, origin) for name, centres in (("x", x), ("y", y)))
    transform = Affine(dx, 0.0, x0 - dx / 2, 0.0, dy, y0 - dy / 2)
    return Grid(crs=crs_text(crs, origin), transform=transform, height=len(y), width=len(x))


def _even_spacing(centres: np.ndarray, name: str, origin: str) -> tuple[float, float]:
    """The first of evenly spaced coordinates (N,), and their distance."""
    if len(centres) < 2:
        raise ValueError(f"{origin}: {name} has {len(centres)} coordinate; two are needed to know the pixel size")
    numbers, index = centres.astype(np.float64), np.arange(len(centres))
    first, step = float(numbers[0]), float(numbers[-1] - numbers[0]) / (len(numbers) - 1)
    if step != 0 and np.allclose(numbers, first + step * index, rtol=0, atol=abs(step) / 100):
        return first, step
    # Degrees as float32 are rounded by some hundredths of a pixel of 10 m, the ends, too. The fit over all is 100 times as exact.
    rounding = float(np.spacing(np.float32(np.abs(numbers).max()))) / 2
    if (numbers.astype(np.float32) == numbers).all() and rounding < abs(step) / 10:
        slope, at_first = np.polyfit(index, numbers, 1)
        if np.allclose(numbers, at_first + slope * index, rtol=0, atol=abs(slope) / 100 + rounding):
            return float(at_first), float(slope)
    raise ValueError(f"{origin}: coordinates {name} are not evenly spaced; regrid the images first")


def stated_grid(
    attributes: Mapping[str, Any],
    x: np.ndarray | None,
    y: np.ndarray | None,
    crs: int | str,
    shape: tuple[int, int],
    origin: str,
    name: str = "transform",
) -> Grid:
    """Grid of images of `shape` from the attribute `name`, or from the coordinates x (W,) and y (H,) of pixel centres.

    Raises ValueError when neither is there, and when they contradict each other or `shape`.
    """
    if name in attributes:
        grid = grid_from_transform(attributes[name], crs, shape, origin)
        if x is not None and y is not None:
            check_centres(grid, x, y, origin)
        return grid
    if x is None or y is None:
        raise ValueError(f"{origin}: neither an attribute transform nor coordinates x and y of the pixel centres")
    grid = grid_from_centres(x, y, crs, origin)
    if grid.shape != shape:
        raise ValueError(f"{origin}: {grid.height} y and {grid.width} x coordinates for images of {shape}")
    return grid


@lru_cache(maxsize=1024)  # files of a series are compared one by one
def grid_in_crs(grid: Grid, crs: str) -> Grid | None:
    """The grid in another CRS, if it has the same pixels there: equal size, shape and axes, to a hundredth of a pixel; else None.

    So a UTM zone of an unnamed datum on the WGS 84 ellipsoid, as in HLS files, equals the one of WGS 84, and a grid in the
    northern part of a zone with negative northings equals one in the southern part.
    """
    if same_crs(grid.crs, crs):
        return replace(grid, crs=crs)
    if not grid.georeferenced or crs.startswith(LOCAL):
        return None
    from rasterio._err import CPLE_BaseError  # only here, so that modules that use a Grid load no rasterio

    col, row = (at.ravel() for at in np.meshgrid(*(np.linspace(0, extent, 3) for extent in grid.shape[::-1])))
    x, y = apply(grid.transform, col, row)
    try:
        other_x, other_y = reprojected(grid.crs, crs, x, y)
    except CPLE_BaseError:  # there is no transformation between the two, as between the Earth and the Moon
        return None
    shift = np.stack([other_x - x, other_y - y])
    if not np.isfinite(shift).all() or np.ptp(shift, axis=1).max() > SAME_PLACE * grid.pixel_side:
        return None
    return replace(grid, crs=crs, transform=Affine.translation(*shift[:, 0].tolist()) @ grid.transform)


def corner_distance_px(grid: Grid, other: Grid) -> float:
    """Largest distance of the corners of `grid` from those of `other`, in pixels of `other`; infinite for different CRSs."""
    here = grid_in_crs(grid, other.crs)
    if here is None:
        return float("inf")
    ends = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]).T
    col, row = apply(~other.transform @ here.transform, ends[0] * grid.width, ends[1] * grid.height)
    return float(max(np.abs(col - ends[0] * other.width).max(), np.abs(row - ends[1] * other.height).max()))


def nesting_factor(coarse: Grid, fine: Grid, origin: str) -> int:
    """Number of pixels of `fine` that a pixel of `coarse` covers along each axis. Raises ValueError when they do not nest."""
    factor = _nesting_factor(coarse, fine)
    if factor is None:
        raise ValueError(
            f"{origin}: its grid ({grid_summary(coarse)}) does not nest in that of the series ({grid_summary(fine)}): CRS, upper "
            "left corner and extent must be equal and pixel sizes whole multiples"
        )
    return factor


@lru_cache(maxsize=1024)
def _nesting_factor(coarse: Grid, fine: Grid) -> int | None:
    factor = max(1, round(coarse.pixel_side / fine.pixel_side))
    surplus = coarse.height * factor - fine.height, coarse.width * factor - fine.width
    if not all(0 <= pixels < factor for pixels in surplus):
        return None
    whole = Grid(crs=fine.crs, transform=fine.transform, height=coarse.height * factor, width=coarse.width * factor)
    return factor if corner_distance_px(coarse, whole) <= SAME_PLACE else None


def grid_summary(grid: Grid) -> str:
    """Size, pixel size, origin and coordinate reference system of a grid, for messages."""
    size = f"{grid.height} x {grid.width} px of {grid.pixel_side:g} from ({grid.transform.c:.12g}, {grid.transform.f:.12g})"
    turned = ", rotated" if grid.transform.b or grid.transform.d else ""
    return f"{size}{turned} in {crs_name(grid.crs)}"


def raster_grid(raster: Any, origin: str) -> Grid:
    """The grid of an open rasterio dataset as it is stored, perhaps with rows that go north.

    Raises ValueError, which `origin` begins, for a raster without a coordinate reference system or a transform.
    """
    if raster.crs is None or raster.transform.is_identity:
        raise ValueError(f"{origin} is not georeferenced: it needs a coordinate reference system and a transform")
    crs = crs_text(raster.crs.to_wkt(), origin)
    return Grid(crs=crs, transform=raster.transform, height=raster.height, width=raster.width)


def grid_with_pixel_size(source_grid: Grid, pixel_size: float) -> Grid:
    """A grid over the same footprint with pixels of `pixel_size` units of the CRS; the same grid if the sizes agree.

    Raises ValueError if the sizes differ so much that their units must differ, such as metres and degrees.
    """
    factor = pixel_size / source_grid.pixel_side
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise ValueError(
            f"the model maps pixels of {pixel_size:g}; the scene ({grid_summary(source_grid)}) has another unit: reproject it to "
            "a CRS with the unit of the scenes that the model was trained on"
        )
    simple = float(Fraction(factor).limit_denominator(LARGEST_FACTOR))
    if abs(factor / simple - 1) <= SAME_SIZE:  # sizes in degrees have endless decimals
        factor = simple
    height, width = max(1, round(source_grid.height / factor)), max(1, round(source_grid.width / factor))
    return Grid(crs=source_grid.crs, transform=source_grid.transform @ Affine.scale(factor), height=height, width=width)


def pixel_sides_m(grid: Grid, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Width and height of the pixels of a grid on the ground, at columns and rows (n,), in metres, float64 (2, n)."""
    sides = []
    for step_col, step_row in ((0.5, 0.0), (0.0, 0.5)):
        lon, lat = grid.lon_lat(rows - step_row, cols - step_col)
        other_lon, other_lat = grid.lon_lat(rows + step_row, cols + step_col)
        sides.append(Geod(ellps="WGS84").inv(lon, lat, other_lon, other_lat)[2])
    return np.array(sides)
