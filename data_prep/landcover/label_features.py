"""The features of a label, polygons or points, in pixels of the grid that the label gets, with their codes and years."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer

from common.crs import crs_name, same_crs
from common.grid import Grid, apply, grid_summary, pixel_sides_m, unwrapped
from common.storage import version_of
from data_prep.archive.label import Parcels, Points
from data_prep.archive.scene import Label
from data_prep.landcover.label_base import LabelCounts, is_of_other_year
from data_prep.landcover.label_classes import column_texts, label_codes, with_classes
from data_prep.landcover.label_files import GEOMETRY, Box, feature_file, touching

NO_YEAR = -1
LATTICE = 11  # points along each side of a grid, at which its place in another CRS is looked at
BOX_MARGIN = 0.05  # of that place: a curved edge bends less far beyond its points
LONGEST_EDGE_M = 1_000  # edges of parcels are straight in the CRS of their file, and bend by 2 cm in another one
LONGEST_EDGE_DEGREES = 0.01
WIDEST_M = 1_000_000  # a ring that is wider crosses the edge of its projection
POLYGON, MULTIPOLYGON, POINT, MULTIPOINT, COLLECTION = 3, 6, 0, 4, 7  # of shapely.get_type_id

NO_GEOMETRY, NO_CLASS, NO_YEAR_STATED = "without a geometry", "without a class", "without a year"
OTHER_KIND = {Parcels: "that are no polygons", Points: "that are no points"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFeatures:
    """Features that touch a grid, or label pixels of its edge from outside.

    Attributes:
        label: the label; its classes are known.
        geometry: shapely geometries (n,) in columns and rows of the grid, valid.
        codes: int32 (n,), `label.nodata` for those that are not labelled.
        years: the year in which the season of each ends, int32 (n,), NO_YEAR where no column states it.
        inside: whether each shares ground with the grid, bool (n,); the others lie so near that they label pixels of its edge.
        counts: what became of the others.
    """

    label: Label
    geometry: np.ndarray
    codes: np.ndarray
    years: np.ndarray
    inside: np.ndarray
    counts: LabelCounts

    def of_year(self, year: int | None) -> np.ndarray:
        """Indices of the features of a year, of all without one."""
        features = self.label.features
        assert features is not None
        chosen = np.ones(len(self.codes), bool) if year is None or not features.has_years else self.years == year
        return np.flatnonzero(chosen)

    def counts_of_year(self, year: int | None) -> LabelCounts:
        """The counts, with the number of objects of a year by code."""
        if is_of_other_year(self.label, year):
            return self.counts
        of_year = self.of_year(year)
        codes, numbers = np.unique(self.codes[of_year[self.inside[of_year]]], return_counts=True)
        return replace(self.counts, objects=Counter(dict(zip(codes.tolist(), numbers.tolist(), strict=True))))


def load_features(label: Label, grid: Grid, origin: str, season_begin: tuple[int, int] | None, own_file: bool) -> LabelFeatures:
    """Read the features of a label that touch a grid. Those that were read last are kept: windows are read one after another.

    Args:
        label: a label of features.
        grid: the grid.
        origin: begins messages.
        season_begin: month and day; a date from then on belongs to the season that ends in the next year. None: no date does.
        own_file: whether the file is that of one scene, so that a file without features there is a mistake.

    Raises ValueError when the file cannot be read, for columns, years and codes that it lacks or that mean nothing, without a
    coordinate reference system, and for a grid without a place.
    """
    if not grid.georeferenced:
        raise ValueError(f"{origin}: the place of the images is not known, so {label.path} has no place in them")
    versions = tuple(version_of(path) for path in label.files)
    request = _Request(
        label=label,
        origin=origin,
        text=repr(label),
        grid=grid,
        season_begin=season_begin,
        own_file=own_file,
        versions=versions,
    )
    return _loaded(request)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What to load; two are equal when they give the same features."""

    label: Label = field(compare=False)
    origin: str = field(compare=False)
    text: str
    grid: Grid
    season_begin: tuple[int, int] | None
    own_file: bool
    versions: tuple[Hashable, ...]


@lru_cache(maxsize=2)
def _loaded(request: _Request) -> LabelFeatures:
    grid, origin = request.grid, request.origin
    label = with_classes(request.label, origin)
    features = label.features
    assert features is not None
    with feature_file(label, origin) as file:
        crs = file.crs_or_stated(features.crs)
        when = features.year_column or features.date_column
        others = features.year_column, features.date_column
        of_class = None if is_boundary(label) else file.class_column(features.column, others)
        columns = [name for name in (of_class, when and file.known_column(when)) if name is not None]
        reach = _reach_px(features, grid)
        boxes = boxes_of(grid, crs, reach)
        table = file.read(list(dict.fromkeys(columns)), boxes)
        total = file.features
    geometry = table[GEOMETRY].to_numpy()
    left_out: Counter[str] = Counter()
    missing = shapely.is_missing(geometry) | shapely.is_empty(geometry)
    left_out[NO_GEOMETRY] = int(missing.sum())
    if isinstance(features, Points):
        check_degrees(geometry[~missing], crs, f"{origin}: {label.path}")
    near = np.flatnonzero(~missing)
    near = near[_touches(geometry[near], boxes)]
    pixels, rows, repaired, other = _in_pixels(geometry[near], crs, grid, isinstance(features, Parcels))
    left_out[OTHER_KIND[type(features)]] = other
    rows = near[rows]
    near = _inside(pixels, grid, reach)
    pixels, rows, repaired = pixels[near], rows[near], repaired[near]
    inside = np.isin(np.arange(len(pixels)), _inside(pixels, grid))
    outside = total - len(np.unique(rows[inside])) - left_out[NO_GEOMETRY] - other
    if not len(rows) and other:
        advice = "name points with `points`" if isinstance(features, Parcels) else "name polygons with `vector`"
        raise ValueError(f"{origin}: {label.path} holds {other} features {OTHER_KIND[type(features)]}, and no others; {advice}")
    if not inside.any() and request.own_file:
        raise ValueError(f"{origin}: {_none_inside(label, geometry[~missing], crs, total, grid)}")

    def values(name: str | None) -> list[Any]:
        return [None] * len(rows) if name is None else table[name].iloc[rows].tolist()

    texts = ["" if of_class is None else text for text in column_texts(values(of_class))]
    codes = label_codes(label, texts, origin)
    of_years = f"{origin}: column {when} of {label.path}"
    years = years_of(values(when), features.date_column is not None, request.season_begin, of_years)
    kept = np.array([text is not None for text in texts], bool)
    left_out[NO_CLASS] = int((inside & ~kept).sum())
    if features.has_years:
        left_out[NO_YEAR_STATED] = int((inside & kept & (years == NO_YEAR)).sum())
        kept &= years != NO_YEAR
    counts = LabelCounts(features=total, outside=outside, left_out=+left_out, repaired=int(repaired[kept & inside].sum()))
    return LabelFeatures(
        label=label, geometry=pixels[kept], codes=codes[kept], years=years[kept], inside=inside[kept], counts=counts
    )


def is_boundary(label: Label) -> bool:
    """Whether a label is made of the outlines of parcels."""
    return isinstance(label.features, Parcels) and label.features.boundary_m is not None


def _none_inside(label: Label, geometry: np.ndarray, crs: str, total: int, grid: Grid) -> str:
    place = ", ".join(f"{value:.9g}" for value in shapely.total_bounds(geometry)) if len(geometry) else "nothing"
    return (
        f"none of the {total} features of {label.path}, which extend over {place} in {crs_name(crs)}, lies in the scene "
        f"({grid_summary(grid)}); is the file that of another scene, or its coordinate reference system wrong?"
    )


def check_degrees(geometry: np.ndarray, crs: str, origin: str) -> None:
    """Raises ValueError for coordinates that are no longitudes and latitudes in a CRS that says so."""
    if len(geometry) and CRS.from_user_input(crs).is_geographic:
        west, south, east, north = shapely.total_bounds(geometry)
        if west < -180 or east > 360 or south < -90 or north > 90:
            raise ValueError(
                f"{origin} holds coordinates from ({west:.9g}, {south:.9g}) to ({east:.9g}, {north:.9g}); {crs_name(crs)} has "
                "longitudes and latitudes: are they in another coordinate reference system, or exchanged?"
            )


def _reach_px(features: Parcels | Points, grid: Grid) -> float:
    """How far beyond the grid a feature may lie that labels pixels in it, in pixels."""
    if isinstance(features, Points):
        return features.square_px // 2
    reach_m = max((features.boundary_m or 0) / 2, features.inner_buffer_m)
    middle = np.array([grid.width / 2]), np.array([grid.height / 2])
    return reach_m / float(np.min(pixel_sides_m(grid, *middle))) if reach_m else 0.0


def boxes_of(grid: Grid, crs: str, reach_px: float = 0.0) -> list[Box]:
    """Boxes (west, south, east, north) in a CRS that cover a grid and `reach_px` around it; none where its place is not known.

    Of longitudes there are several, as those of a file may run from -180 to 180 or from 0 to 360.
    """
    sides = (np.linspace(-reach_px, extent + reach_px, LATTICE) for extent in grid.shape[::-1])
    col, row = (at.ravel() for at in np.meshgrid(*sides))
    x, y = transformed(*apply(grid.transform, col, row), grid.crs, crs)  # in the datum of the file, which may be another one
    if CRS.from_user_input(crs).is_geographic:
        x = unwrapped(x, x[len(x) // 2])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return []
    margin_x, margin_y = BOX_MARGIN * np.ptp(x), BOX_MARGIN * np.ptp(y)
    west, south, east, north = x.min() - margin_x, y.min() - margin_y, x.max() + margin_x, y.max() + margin_y
    if not CRS.from_user_input(crs).is_geographic:
        return [(west, south, east, north)]
    turns = [turn for turn in (-360, 0, 360) if west + turn < 360 and east + turn > -180]
    return [(west + turn, south, east + turn, north) for turn in turns]


def _touches(geometry: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Whether the box of each geometry touches one of `boxes`; all do without boxes."""
    if not boxes:
        return np.ones(len(geometry), bool)
    return touching(shapely.bounds(geometry), boxes)


def transformed(x: np.ndarray, y: np.ndarray, crs: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points in another CRS, x before y in both; infinite outside of its domain."""
    if same_crs(crs, target):
        return x, y
    transformer = Transformer.from_crs(CRS.from_user_input(crs), CRS.from_user_input(target), always_xy=True)
    there_x, there_y = transformer.transform(x, y)
    return np.asarray(there_x), np.asarray(there_y)


def _in_pixels(geometry: np.ndarray, crs: str, grid: Grid, polygons: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Geometries in columns and rows of a grid, with the index and whether it was repaired of each, and how many are other ones.

    A geometry without a place in the CRS of the grid is left out. Several points in one become several.
    """
    kinds = shapely.get_type_id(geometry)
    if polygons:
        geometry = _in_one_turn(geometry, crs)
        valid = shapely.is_valid(geometry)
        mixed = ~np.isin(kinds, (POLYGON, MULTIPOLYGON)) | ~valid
        for at in np.flatnonzero(mixed):
            geometry[at] = polygonal(shapely.make_valid(geometry[at]))
        usable = ~shapely.is_empty(geometry)
        index = np.flatnonzero(usable)
        repaired = ~valid[index]
    else:
        usable = np.isin(kinds, (POINT, MULTIPOINT))
        index = np.flatnonzero(usable)
        geometry, parts = shapely.get_parts(geometry[index], return_index=True)
        index = index[parts]
        repaired = np.zeros(len(index), bool)
    geometry = geometry[index] if polygons else geometry
    if not len(geometry):
        return geometry, index, repaired, int((~usable).sum())
    if not same_crs(crs, grid.crs) and polygons:
        geometry = _with_short_edges(geometry, crs)
    at = shapely.get_coordinates(geometry)
    x, y = transformed(at[:, 0], at[:, 1], crs, grid.crs)
    if CRS.from_user_input(grid.crs).is_geographic:
        x = unwrapped(x, (grid.transform @ (grid.width / 2, grid.height / 2))[0])
    known = _known_everywhere(geometry, np.isfinite(x) & np.isfinite(y))
    col, row = apply(~grid.transform, np.where(np.isfinite(x), x, 0), np.where(np.isfinite(y), y, 0))
    placed = shapely.set_coordinates(geometry.copy(), np.stack([col, row], axis=1))[known]
    torn = np.flatnonzero(~shapely.is_valid(placed))
    for one in torn:  # rounding may close a narrow gap
        placed[one] = polygonal(shapely.make_valid(placed[one]))
    return placed, index[known], repaired[known], int((~usable).sum())


def _known_everywhere(geometry: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether all coordinates of each geometry are `known`."""
    _, owner = shapely.get_coordinates(geometry, return_index=True)
    return np.bincount(owner[~known], minlength=len(geometry)) == 0


def _in_one_turn(geometry: np.ndarray, crs: str) -> np.ndarray:
    """A copy of geometries, of which those across the antimeridian have longitudes from 0 to 360."""
    geometry = geometry.copy()
    if CRS.from_user_input(crs).is_geographic and len(geometry):
        west, _, east, _ = shapely.bounds(geometry).T
        across = east - west > 180  # no parcel is so wide: its coordinates jump at the antimeridian
        geometry[across] = shapely.transform(geometry[across], lambda at: np.stack([at[:, 0] % 360, at[:, 1]], axis=1))
    return geometry


def _with_short_edges(geometry: np.ndarray, crs: str) -> np.ndarray:
    """Polygons whose edges are short enough to be straight in another CRS."""
    west, south, east, north = shapely.bounds(geometry).T
    known = CRS.from_user_input(crs)
    if known.is_geographic:
        return np.asarray(shapely.segmentize(geometry, LONGEST_EDGE_DEGREES))
    metres = known.axis_info[0].unit_conversion_factor if known.axis_info else 1.0
    small = np.maximum(east - west, north - south) * metres < WIDEST_M
    return np.where(small, shapely.segmentize(geometry, LONGEST_EDGE_M / metres), geometry)


def polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    """The polygons of a geometry as one: what repairing a polygon leaves may hold lines and points, too."""
    kind = shapely.get_type_id(geometry)
    if kind in (POLYGON, MULTIPOLYGON):
        return geometry
    parts = [polygonal(part) for part in shapely.get_parts(geometry)] if kind == COLLECTION else []
    return shapely.union_all([part for part in parts if not shapely.is_empty(part)]) if parts else shapely.Polygon()


def _inside(pixels: np.ndarray, grid: Grid, reach_px: float = 0.0) -> np.ndarray:
    """Indices of the geometries that share ground with the grid and `reach_px` around it. A border that touches it is none."""
    if not len(pixels):
        return np.zeros(0, np.int64)
    left, top, right, bottom = shapely.bounds(pixels).T
    # The longitudes of a polygon on the far side of the globe may be torn apart.
    widest = 180 / grid.pixel_side if CRS.from_user_input(grid.crs).is_geographic else np.inf
    is_point = shapely.get_type_id(pixels) == POINT
    first, width, height = -reach_px, grid.width + reach_px, grid.height + reach_px
    begins = np.where(is_point, (right >= first) & (bottom >= first), (right > first) & (bottom > first))
    found = np.flatnonzero(begins & (left < width) & (top < height) & (right - left < widest))
    area = shapely.box(first, first, width, height)
    shapely.prepare(area)
    return found[is_point[found] | shapely.intersects(area, pixels[found])]


def years_of(values: Sequence[Any], are_dates: bool, season_begin: tuple[int, int] | None, origin: str) -> np.ndarray:
    """The year in which the season of each value ends, int32 (n,), NO_YEAR for missing ones.

    `are_dates`: whether the values are dates instead of years. Raises ValueError, which `origin` begins, for anything else.
    """
    return np.array([_year_of(value, are_dates, season_begin, origin) for value in values], dtype=np.int32)


def _year_of(value: Any, are_dates: bool, season_begin: tuple[int, int] | None, origin: str) -> int:
    (text,) = column_texts([value])
    if text is None:
        return NO_YEAR
    if are_dates:
        try:
            day = value if isinstance(value, date) else date.fromisoformat(text[:10])  # a datetime is a date, too
        except ValueError as error:
            raise ValueError(f"{origin} holds {text!r}; expected dates such as 2021-06-15") from error
        return int(day.year) + int(season_begin is not None and (day.month, day.day) >= season_begin)
    if isinstance(value, date):
        return value.year
    if not (text.isdecimal() and len(text) == 4):
        raise ValueError(f"{origin} holds {text!r}; expected years such as 2021")
    return int(text)
