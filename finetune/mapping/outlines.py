"""Outlines of the connected areas of a class: traced along pixels, grown onto the boundaries between fields, simplified.

In a map of fields the class `boundary` keeps neighbours apart, and leaves a gap between them. Fields are grown back onto it: step
by step each boundary pixel beside a field joins that field, the one that was traced first where several touch it. This is a
watershed of the distance from the fields, stopped after some steps. No step joins two fields. All steps look at direct neighbours
only, so the map can be grown window by window with a margin of as many pixels as there are steps, and the result is the same.

Simplification takes corners from the common outline of neighbours and not from each polygon by itself (shapely.coverage_simplify,
the algorithm of Visvalingam and Whyatt 1993): neighbours keep meeting without gaps and overlaps. Outlines are simplified over the
whole map at once, so no window is seen in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes
from rasterio.windows import Window

from common.grid import apply, raster_grid
from finetune.mapping.cog import GDAL_CACHE_MB
from finetune.mapping.ground_area import pixel_area

WINDOW_PX = 1024
# Outlines are traced in whole pixels, x = column + 1 and y = -(row + 1): GDAL takes the identity for the lack of a transform.
PIXELS = Affine(1, 0, 1, 0, -1, -1)


@dataclass(frozen=True, kw_only=True)
class PolygonOptions:
    """Polygons of the connected areas of a class.

    Attributes:
        class_name: the class; None for no polygons. `--polygons CLASS` is short for it.
        simplify_m: corners are taken away as long as the triangle with their neighbours is smaller than a square of this side, in
            metres; 0 keeps the steps of the pixels. Neighbours keep their common outline.
        min_area_ha: smaller areas are left out, in hectares.
        boundary: class that separates neighbours, onto whose pixels they are grown until they meet, as in `boundary` of the task
            field_boundary.
        boundary_px: how far they are grown at most, in pixels.

    Raises ValueError for numbers out of range.
    """

    SHORT_FOR: ClassVar[str] = "class_name"

    class_name: str | None = None
    simplify_m: float = 0.0
    min_area_ha: float = 0.0
    boundary: str | None = None
    boundary_px: int = 3

    def __post_init__(self) -> None:
        if not (0 <= self.simplify_m < np.inf and 0 <= self.min_area_ha < np.inf):
            raise ValueError(f"simplify_m is {self.simplify_m} and min_area_ha {self.min_area_ha}; expected numbers from 0 on")
        if not 1 <= self.boundary_px <= WINDOW_PX:
            raise ValueError(f"boundary_px is {self.boundary_px}; expected 1 to {WINDOW_PX} pixels")

    def check_boundary(self, class_name: str, names: Sequence[str]) -> None:
        """Raises ValueError unless the boundary is another class of the map."""
        if self.boundary is not None and (self.boundary not in names or self.boundary == class_name):
            others = ", ".join(name for name in names if name != class_name)
            raise ValueError(f"boundary is {self.boundary!r}; expected one of the other classes of the map: {others}")


def class_outlines(
    map_path: Path, class_index: int, boundary_index: int | None = None, options: PolygonOptions | None = None
) -> list[shapely.Polygon]:
    """The connected areas of one class of a map, in the map's CRS, from its upper edge downwards.

    GDAL reads the map line by line and joins connected pixels. So memory grows with the outlines and not with the map: about
    0.2 kB per vertex until the file is written, or 1 GB for 300,000 fields of 15 vertices; when outlines are simplified, each
    pixel along an outline is a vertex first, five times as many.
    """
    options = options or PolygonOptions()
    with tempfile.TemporaryDirectory() as name, rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        folder = Path(name)
        with rasterio.open(map_path) as raster:
            transform, grid = raster.transform @ ~PIXELS, raster_grid(raster, f"map {map_path}")
            _write_raster(folder / "fields.tif", raster, "uint8", lambda window: raster.read(1, window=window) == class_index)
        if boundary_index is None:
            polygons = list(_traced(folder / "fields.tif", folder / "fields.tif"))
        else:
            polygons = list(_traced(*_grown(map_path, folder, boundary_index, options.boundary_px)))
    if options.simplify_m:
        polygons = simplified(polygons, options.simplify_m / pixel_area(grid) ** 0.5)
    return list(shapely.transform(polygons, lambda at: np.stack(apply(transform, *at.T), axis=1))) if polygons else []


def _traced(path: Path, mask: Path) -> Iterator[shapely.Polygon]:
    """The connected areas of equal numbers in a raster, in `PIXELS`, from the upper edge downwards.

    `mask`: a raster of bytes that is 0 where there is none.
    """
    with rasterio.open(path) as raster, rasterio.open(mask) as masking:
        band, inside = rasterio.band(raster, 1), rasterio.band(masking, 1)
        for geometry, _ in shapes(band, mask=inside, connectivity=4, transform=PIXELS):
            yield shapely.Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])


def simplified(polygons: Sequence[shapely.Polygon], tolerance_px: float) -> list[shapely.Polygon]:
    """Polygons in `PIXELS`, traced along pixels, without the corners whose triangle is smaller than the square of `tolerance_px`.

    Neighbours share their vertices first: where three areas meet, one of them may have a straight side without a vertex.
    """
    if not polygons:
        return []
    every_pixel = shapely.transform(shapely.segmentize(np.asarray(polygons), 1.0), np.rint)
    return list(shapely.coverage_simplify(every_pixel, tolerance_px))


def grow(labels: np.ndarray, allowed: np.ndarray, steps: int) -> np.ndarray:
    """Labels int32 (H, W) after they have grown over `allowed` bool (H, W) pixels without label (0), a pixel in each step.

    Labels grow to the four direct neighbours. Of several labels that reach a pixel in one step the smallest gets it.
    """
    labels, none = labels.copy(), np.iinfo(np.int32).max
    for _ in range(steps):
        around = np.pad(np.where(labels > 0, labels, none), 1, constant_values=none)
        nearest = np.minimum.reduce([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
        taken = (labels == 0) & allowed & (nearest < none)
        if not taken.any():
            break
        labels[taken] = nearest[taken]
    return labels


def _grown(map_path: Path, folder: Path, boundary_index: int, steps: int) -> tuple[Path, Path]:
    """The areas in fields.tif, numbered from 1 and grown by `steps` pixels onto the boundary class of a map.

    Returns two rasters in `folder`: the numbers, and where there is any.
    """
    polygons = np.array(list(_traced(folder / "fields.tif", folder / "fields.tif")))
    tree = shapely.STRtree(polygons)

    def numbers(window: Window) -> np.ndarray:
        col, row, width, height = window.flatten()
        here = PIXELS @ Affine.translation(col, row)
        inside = np.sort(tree.query(shapely.box(*(here @ (0, height)), *(here @ (width, 0))), "intersects"))
        if not len(inside):
            return np.zeros((height, width), np.int32)
        numbered = ((polygons[index], int(index) + 1) for index in inside)
        return np.asarray(rasterize(numbered, (height, width), transform=here, dtype="int32"))

    def grown(window: Window) -> np.ndarray:
        col, row, width, height = window.flatten()
        top, left = max(row - steps, 0), max(col - steps, 0)
        bottom, right = min(row + height + steps, raster.height), min(col + width + steps, raster.width)
        around = Window(left, top, right - left, bottom - top)
        labels = grow(numbered.read(1, window=around), raster.read(1, window=around) == boundary_index, steps)
        return labels[row - top : row - top + height, col - left : col - left + width]

    with rasterio.open(map_path) as raster:
        _write_raster(folder / "numbers.tif", raster, "int32", numbers)
        with rasterio.open(folder / "numbers.tif") as numbered:
            _write_raster(folder / "grown.tif", raster, "int32", grown)
        with rasterio.open(folder / "grown.tif") as joined:
            _write_raster(folder / "covered.tif", raster, "uint8", lambda window: joined.read(1, window=window) > 0)
    return folder / "grown.tif", folder / "covered.tif"


def _write_raster(path: Path, like: Any, dtype: str, content: Callable[[Window], np.ndarray]) -> None:
    """Write a raster with the grid of `like`, window by window: `content` gives the numbers (height, width) of a window."""
    profile = {"driver": "GTiff", "count": 1, "dtype": dtype, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "height": like.height, "width": like.width}
    with rasterio.open(path, "w", **profile, transform=PIXELS) as written:
        for row in range(0, like.height, WINDOW_PX):
            for col in range(0, like.width, WINDOW_PX):
                window = Window(col, row, min(WINDOW_PX, like.width - col), min(WINDOW_PX, like.height - row))
                written.write(content(window).astype(dtype), 1, window=window)
