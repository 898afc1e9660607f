"""The grid of a mosaic: one CRS and pixel size for the maps of several scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from common.crs import crs_name, crs_text
from common.grid import SAME_PLACE, SAME_SIZE, Grid, apply, grid_in_crs, reprojected, unwrapped

EDGE_POINTS = 33  # along each side of a scene, which say where it lies in another CRS
TORN = 10  # a step between two of them that is so many times longer than the median one is a tear
LARGEST_SIDE_PX = 2**31 - 1  # of a raster in GDAL


@dataclass(frozen=True, kw_only=True)
class MosaicOptions:
    """The grid of the mosaic of several scenes.

    Attributes:
        crs: coordinate reference system, as in EPSG:3035; default: that of the scenes, if they share one.
        pixel_m: side of a pixel in metres; default: the smallest of the scenes.
        pixel_degrees: side of a pixel in degrees, for a CRS in degrees.

    Raises ValueError for two sizes, or one that is not above 0.
    """

    crs: str | None = None
    pixel_m: float | None = None
    pixel_degrees: float | None = None

    def __post_init__(self) -> None:
        if self.pixel_m is not None and self.pixel_degrees is not None:
            raise ValueError("mosaic.pixel_m and mosaic.pixel_degrees are both given; a mosaic has one pixel size")
        for name, size in (("pixel_m", self.pixel_m), ("pixel_degrees", self.pixel_degrees)):
            if size is not None and not 0 < size < math.inf:
                raise ValueError(f"mosaic.{name} is {size}; expected a number above 0")

    @property
    def is_given(self) -> bool:
        """Whether any of them is stated."""
        return self != MosaicOptions()


def mosaic_grid(grids: Mapping[str, Grid], options: MosaicOptions) -> Grid:
    """The grid that covers scenes with these grids, north-up, the same for any order of the scenes.

    Where all scenes lie on one lattice of pixels, and no other is asked for, the mosaic lies on it, and no pixel is resampled.
    Else the corners of its pixels are multiples of the pixel size, so that mosaics of neighbouring regions fit together.

    Raises ValueError when scenes do not share a CRS and none is stated, for a pixel size in the wrong unit, and for a scene that
    does not lie in the CRS, or is torn apart there.
    """
    first = grids[min(grids)]
    crs = _common_crs(grids) if options.crs is None else crs_text(options.crs, "--mosaic.crs")
    size = _pixel_size(grids, crs, options)
    placed = [grid_in_crs(grid, crs) for grid in grids.values()]
    origin = next((grid for grid in [grid_in_crs(first, crs)] if grid is not None), None)
    west = north = 0.0
    if origin is not None and all(grid is not None and _on_lattice(grid, origin, size) for grid in placed):
        west, north = origin.transform.c, origin.transform.f
    centre = _outline(first, crs, None)[0].mean()
    boxes = np.array([_box(name, grids[name], crs, centre) for name in sorted(grids)])
    # Edges that lie on the lattice up to rounding do not begin another pixel.
    west_px, east_px = ((edge - west) / size for edge in (boxes[:, 0].min(), boxes[:, 2].max()))
    north_px, south_px = ((north - edge) / size for edge in (boxes[:, 3].max(), boxes[:, 1].min()))
    left, right = math.floor(west_px + SAME_PLACE), math.ceil(east_px - SAME_PLACE)
    top, bottom = math.floor(north_px + SAME_PLACE), math.ceil(south_px - SAME_PLACE)
    if max(right - left, bottom - top) > LARGEST_SIDE_PX:
        raise ValueError(f"a mosaic of {bottom - top} x {right - left} px cannot be written: give a larger pixel size")
    transform = Affine(size, 0, west + left * size, 0, -size, north - top * size)
    return Grid(crs=crs, transform=transform, height=bottom - top, width=right - left)


def _common_crs(grids: Mapping[str, Grid]) -> str:
    """The CRS of all scenes, that of the first by name. Raises ValueError when they differ."""
    first = grids[min(grids)].crs
    if all(grid_in_crs(grid, first) is not None for grid in grids.values()):
        return first
    names: dict[str, list[str]] = {}
    for name in sorted(grids):
        names.setdefault(crs_name(grids[name].crs), []).append(name)
    found = "; ".join(f"{crs}: {', '.join(some[:3])}{' ...' if len(some) > 3 else ''}" for crs, some in names.items())
    raise ValueError(
        f"the scenes have several coordinate reference systems ({found}), a mosaic has one: state it with --mosaic.crs, for "
        "instance EPSG:3035 in Europe or EPSG:6933 anywhere, and --mosaic.pixel_m; or give a folder as --output, for one map per "
        "scene"
    )


def _pixel_size(grids: Mapping[str, Grid], crs: str, options: MosaicOptions) -> float:
    """Side of a pixel in units of the CRS. Raises ValueError when it is stated, or known, in another unit only."""
    unit = _metres_per_unit(crs)
    if unit is None:
        if options.pixel_m is not None:
            raise ValueError(f"--mosaic.pixel_m is given, but {crs_name(crs)} is in degrees: give --mosaic.pixel_degrees")
        if options.pixel_degrees is not None:
            return options.pixel_degrees
    elif options.pixel_degrees is not None:
        raise ValueError(f"--mosaic.pixel_degrees is given, but {crs_name(crs)} is in metres: give --mosaic.pixel_m")
    elif options.pixel_m is not None:
        return options.pixel_m / unit
    units = {name: _metres_per_unit(grid.crs) for name, grid in grids.items()}
    if any((other is None) != (unit is None) for other in units.values()):
        option = "pixel_degrees" if unit is None else "pixel_m"
        raise ValueError(f"the scenes and {crs_name(crs)} have different units: state the pixel size with --mosaic.{option}")
    return min(grid.pixel_side * (units[name] or 1.0) / (unit or 1.0) for name, grid in grids.items())


def _metres_per_unit(crs: str) -> float | None:
    """Length of the unit of a CRS in metres; None for degrees."""
    parsed = CRS.from_user_input(crs)
    return None if parsed.is_geographic else float(parsed.linear_units_factor[1])


def _on_lattice(grid: Grid, origin: Grid, size: float) -> bool:
    """Whether the pixels of a grid have this size, and are whole pixels away from those of `origin`."""
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    square = not (b or d) and abs(a / size - 1) <= SAME_SIZE and abs(-e / size - 1) <= SAME_SIZE
    offsets = (c - origin.transform.c) / size, (f - origin.transform.f) / size
    return square and all(abs(offset - round(offset)) <= SAME_PLACE for offset in offsets)


def _box(name: str, grid: Grid, crs: str, near: float) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a scene in a CRS; longitudes lie within 180 degrees of `near`. Raises as `mosaic_grid`."""
    x, y = _outline(grid, crs, near)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"scene {name} does not lie in {crs_name(crs)}: choose another --mosaic.crs")
    steps = np.hypot(np.diff(x), np.diff(y))
    if steps.max() > TORN * np.median(steps[steps > 0]):
        raise ValueError(
            f"scene {name} crosses the edge of {crs_name(crs)}, which tears it apart: choose another --mosaic.crs, for instance "
            "the UTM zone of a scene"
        )
    return x.min(), y.min(), x.max(), y.max()


def _outline(grid: Grid, crs: str, near: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Points around the edge of a grid, in a CRS; longitudes within 180 degrees of `near`, or of the first point."""
    along = np.linspace(0, 1, EDGE_POINTS)
    zero, one = np.zeros(EDGE_POINTS), np.ones(EDGE_POINTS)
    col = np.concatenate([along, one, 1 - along, zero]) * grid.width
    row = np.concatenate([zero, along, one, 1 - along]) * grid.height
    placed = grid_in_crs(grid, crs)
    if placed is not None:
        x, y = apply(placed.transform, col, row)
    else:
        x, y = reprojected(grid.crs, crs, *apply(grid.transform, col, row))
    if _metres_per_unit(crs) is None:
        x = unwrapped(x, x[0] if near is None else near)
    return x, y
