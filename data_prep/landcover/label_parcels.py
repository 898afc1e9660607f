"""Labels made of polygons: classes of parcels by the centre or the area of pixels, and boundaries of fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from common.grid import Grid, pixel_sides_m
from data_prep.archive.label import BOUNDARY, Parcels
from data_prep.archive.scene import Label
from data_prep.landcover.coverage import covered_shares
from data_prep.landcover.label_base import LabelCounts, is_of_other_year, smallest_dtype
from data_prep.landcover.label_features import NO_YEAR, load_features, polygonal
from data_prep.landcover.label_votes import Votes

BLOCK_PX = 512  # side of the parts in which a label by area is made, and overlaps are counted
NOTHING = np.iinfo(np.int32).min  # where no parcel lies
LEAST_AREA_PX = 1e-6  # smaller common areas of two parcels are those of borders that touch
ROUND = 16  # segments of a quarter of a circle: distances from corners are right to 0.1 %

Window = tuple[int, int, int, int]  # row, column, height and width


class ParcelLabel:
    """A label of polygons on a grid; see `LabelReader`.

    Parcels of different classes that overlap leave their common ground without a label.

    Args:
        label: the label.
        grid: the grid that it gets.
        origin: begins messages.
        season_begin, own_file: see `load_features`.

    Raises ValueError as `load_features` does, and for boundaries that are narrower than a pixel.
    """

    def __init__(self, label: Label, grid: Grid, origin: str, season_begin: tuple[int, int] | None, own_file: bool) -> None:
        self._found = load_features(label, grid, origin, season_begin, own_file)
        self.label, self.grid, self.dtype = self._found.label, grid, smallest_dtype(self._found.label)
        years = [year for year in np.unique(self._found.years).tolist() if year != NO_YEAR]
        self.years: tuple[int, ...] = tuple(years) if label.year is None else (label.year,)
        self._tree = shapely.STRtree(self._found.geometry)
        self._apart: dict[int | None, tuple[np.ndarray, np.ndarray, np.ndarray, shapely.STRtree]] = {}
        self._overlap_px: dict[int | None, int] = {}
        width = self._options.boundary_m
        if width is not None:
            side = float(np.max(pixel_sides_m(grid, np.array([grid.width / 2]), np.array([grid.height / 2]))))
            if width < side * (1 - 1e-3):
                raise ValueError(
                    f"{origin}: boundary_m is {width:g}, less than the side of a pixel, {side:.4g} m, so that boundaries would "
                    f"have gaps; state at least {np.ceil(side):g}"
                )

    @property
    def _options(self) -> Parcels:
        assert isinstance(self.label.features, Parcels)
        return self.label.features

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None, year: int | None = None
    ) -> np.ndarray:
        """See `LabelReader`."""
        window = row, col, height or self.grid.height, width or self.grid.width
        codes, overlaps = self._codes(window, year)
        if window == (0, 0, *self.grid.shape):
            self._overlap_px[year] = int(overlaps.sum())
        return codes.astype(self.dtype)

    def counts(self, year: int | None = None) -> LabelCounts:
        """See `LabelReader`. The whole label is made to count overlaps, unless it has been read as a whole."""
        if year not in self._overlap_px:
            tops = range(0, self.grid.height, BLOCK_PX)
            windows = ((row, 0, min(BLOCK_PX, self.grid.height - row), self.grid.width) for row in tops)
            self._overlap_px[year] = sum(int(self._codes(window, year)[1].sum()) for window in windows)
        return replace(self._found.counts_of_year(year), overlap_px=self._overlap_px[year])

    def _codes(self, window: Window, year: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32 of a window, and bool where parcels of different classes overlap."""
        _, _, height, width = window
        # In a year of which the file has no parcel here, nobody has looked at what lies outside of parcels.
        is_unknown = self._options.has_years and year is not None and year not in self.years
        if is_unknown or is_of_other_year(self.label, year):
            return np.full((height, width), self.label.nodata, np.int32), np.zeros((height, width), bool)
        by = self._by_centre if self._options.assign == "centre" else self._by_area
        codes, overlaps = by(window, year)
        width_m = self._options.boundary_m
        if width_m is not None:
            boundary = next(code for code, name in self.label.classes.items() if name == BOUNDARY)
            codes[self._near_outlines(window, year, width_m / 2)] = boundary
        elif self._options.inner_buffer_m:
            codes[self._near_outlines(window, year, self._options.inner_buffer_m)] = self.label.nodata
        return codes, overlaps

    def _outside(self) -> int:
        return self.label.nodata if self._options.outside is None else self._options.outside

    def _in(self, window: Window, year: int | None, reach_px: float = 0.0) -> np.ndarray:
        """Indices of the parcels of a year whose boxes touch a window or come within `reach_px` of it, ascending."""
        return np.intersect1d(self._tree.query(_box(window, reach_px)), self._found.of_year(year))

    def _by_centre(self, window: Window, year: int | None) -> tuple[np.ndarray, np.ndarray]:
        some = self._in(window, year)
        geometry, codes = self._found.geometry[some], self._found.codes[some]
        # The last parcel that is burnt wins. So one raster gets the highest and the other the lowest code of each pixel, and
        # where these differ, parcels of different classes lie.
        highest, lowest = (_burnt(geometry[order], codes[order], window) for order in (np.argsort(codes), np.argsort(-codes)))
        overlaps = highest != lowest
        found = np.where(highest == NOTHING, np.int32(self._outside()), highest)
        found[overlaps] = self.label.nodata
        return found, overlaps

    def _by_area(self, window: Window, year: int | None) -> tuple[np.ndarray, np.ndarray]:
        row, col, height, width = window
        codes, overlaps = np.full((height, width), self.label.nodata, np.int32), np.zeros((height, width), bool)
        for top in range(0, height, BLOCK_PX):
            for left in range(0, width, BLOCK_PX):
                rows, cols = min(BLOCK_PX, height - top), min(BLOCK_PX, width - left)
                block = np.s_[top : top + rows, left : left + cols]
                codes[block], overlaps[block] = self._block_by_area((row + top, col + left, rows, cols), year)
        return codes, overlaps

    def _block_by_area(self, window: Window, year: int | None) -> tuple[np.ndarray, np.ndarray]:
        _, _, height, width = window
        if year not in self._apart:
            of_year = self._found.of_year(year)
            parts = without_common_ground(self._found.geometry[of_year], self._found.codes[of_year])
            self._apart[year] = *parts, shapely.STRtree(parts[0])
        geometry, codes, common, tree = self._apart[year]
        votes = Votes((height, width), self.label.nodata)
        some = np.sort(tree.query(_box(window)))
        inside, which = _clipped(geometry[some], window)
        codes = codes[some]
        shares = {code: covered_shares(inside[codes[which] == code], height, width) for code in np.unique(codes[which]).tolist()}
        overlapping = covered_shares(_clipped(common, window)[0], height, width)
        outside = self._options.outside
        if outside is not None:  # whose class parcels may have, too
            covered = np.sum([np.zeros((height, width)), *shares.values()], axis=0)
            shares[outside] = shares.get(outside, 0) + np.clip(1 - covered - overlapping, 0, 1)
        for code, share in shares.items():
            votes.add(code, share)
        found = votes.winners(self._options.least_share)
        return found, (overlapping > LEAST_AREA_PX) & (found == self.label.nodata)

    def _near_outlines(self, window: Window, year: int | None, distance_m: float) -> np.ndarray:
        """Whether the centre of each pixel of a window lies within a distance of the outline of a parcel, bool (H, W)."""
        middle = np.array([self.grid.width / 2]), np.array([self.grid.height / 2])
        # Pixels of a grid in degrees are narrower towards the poles; twice the reach at the middle is enough for a scene.
        some = self._in(window, year, 2 * distance_m / float(np.min(pixel_sides_m(self.grid, *middle))))
        bands = outline_bands(self.grid, self._found.geometry[some], distance_m)
        return _burnt(bands, np.ones(len(bands), np.int32), window) != NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _box(window: Window, reach_px: float = 0.0) -> shapely.Polygon:
    """A window and what comes within a distance of it."""
    row, col, height, width = window
    return shapely.box(col - reach_px, row - reach_px, col + width + reach_px, row + height + reach_px)


def _burnt(geometry: np.ndarray, codes: np.ndarray, window: Window) -> np.ndarray:
    """Code of the last polygon in which the centre of each pixel of a window lies, int32 (H, W), NOTHING where there is none.

    A centre on the common border of two polygons lies in one of them.
    """
    row, col, height, width = window
    if not len(geometry):
        return np.full((height, width), NOTHING, np.int32)
    shapes = zip(geometry.tolist(), codes.tolist(), strict=True)
    burnt: np.ndarray = rasterize(
        shapes, out_shape=(height, width), fill=NOTHING, transform=Affine.translation(col, row), dtype="int32"
    )
    return burnt


def _clipped(geometry: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The parts of polygons in a window, in its columns and rows, and the index of the polygon of each."""
    row, col, _, _ = window
    inside = shapely.intersection(geometry, _box(window))
    inside = np.array([polygonal(part) for part in inside], dtype=object)
    kept = ~shapely.is_empty(inside) if len(inside) else np.zeros(0, bool)
    moved = shapely.transform(inside[kept], lambda at: at - np.array([col, row]))
    return np.asarray(moved, dtype=object).reshape(-1), np.flatnonzero(kept)


def without_common_ground(geometry: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polygons (n,) and their codes -> polygons and codes without common ground, and the ground of several codes as polygons.

    That ground belongs to none of the polygons. Polygons of one code on common ground become one.
    """
    if not len(geometry):
        return geometry, codes, geometry
    tree = shapely.STRtree(geometry)
    one, other = tree.query(geometry, predicate="intersects")
    one, other = one[one < other], other[one < other]
    common = shapely.intersection(geometry[one], geometry[other])
    overlap = shapely.area(common) > LEAST_AREA_PX
    one, other, common = one[overlap], other[overlap], common[overlap]
    if not len(one):
        return geometry, codes, geometry[:0]
    differ = codes[one] != codes[other]
    geometry, ground = geometry.copy(), np.array([polygonal(part) for part in common[differ]], dtype=object)
    taken: dict[int, list[shapely.Geometry]] = {}
    for first, second, part in zip(one[differ].tolist(), other[differ].tolist(), ground, strict=True):
        taken.setdefault(first, []).append(part)
        taken.setdefault(second, []).append(part)
    for at, parts in taken.items():
        geometry[at] = polygonal(shapely.difference(geometry[at], shapely.union_all(parts)))
    same = coo_matrix((np.ones((~differ).sum()), (one[~differ], other[~differ])), shape=(len(geometry), len(geometry)))
    _, group = connected_components(same, directed=False)
    kept = np.unique(group, return_index=True)[1]
    members = np.bincount(group)
    for number in np.flatnonzero(members > 1).tolist():
        geometry[kept[number]] = polygonal(shapely.union_all(geometry[group == number]))
    geometry, codes = geometry[kept], codes[kept]
    filled = ~shapely.is_empty(geometry)
    several = np.array([shapely.union_all(ground)], dtype=object) if len(ground) else ground
    return geometry[filled], codes[filled], several


def outline_bands(grid: Grid, geometry: np.ndarray, distance_m: float) -> np.ndarray:
    """What lies within a distance in metres of the outlines of polygons (n,), those of holes among them: polygons (n,).

    Distances are those on the ground: in each polygon the sides of pixels have the lengths that they have at its centre.
    """
    if not len(geometry):
        return geometry
    centre = shapely.get_coordinates(shapely.centroid(geometry))
    sides = pixel_sides_m(grid, *np.clip(centre.T, 0, np.array([[grid.width], [grid.height]])))  # (2, n)
    lines = shapely.boundary(geometry)
    at, owner = shapely.get_coordinates(lines, return_index=True)
    bands = shapely.buffer(shapely.set_coordinates(lines, at * sides.T[owner]), distance_m, quad_segs=ROUND)
    at, owner = shapely.get_coordinates(bands, return_index=True)
    found: np.ndarray = shapely.set_coordinates(bands, at / sides.T[owner])
    return found
