"""Footprints of scenes on the globe, and which of them, of different splits, lie on common ground.

Neighbouring tiles of Sentinel-2 and HLS overlap by ten kilometres, and one place often has scenes of several years. A model that
is scored on ground that it was trained on gets too high a score.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import shapely

from common.grid import GEOGRAPHIC, Grid, reprojected, unwrapped
from data_prep.archive.scene import SPLITS

LEAST_SHARE = 0.001  # smaller overlaps are those of edges that touch
EDGE_POINTS = 4  # points along an edge of a footprint, which is curved in other projections
BOX_MARGIN = 0.05  # a curved edge bends less far beyond its points than this share of the footprint
PAIRS_AT_ONCE = 20_000
MOST_OVERLAPS = 1_000  # more are not counted
MOST_NAMED = 5


@dataclass(frozen=True)
class Overlap:
    """Two scenes of different splits on common ground.

    Attributes:
        scenes: names of both.
        splits: their splits.
        share: common area as a share of the smaller one.
    """

    scenes: tuple[str, str]
    splits: tuple[str, str]
    share: float

    def __str__(self) -> str:
        (one, other), (split, other_split) = self.scenes, self.splits
        return f"{one} ({split}) and {other} ({other_split}) by {100 * self.share:.3g} %"


class Footprints:
    """Footprints of scenes, some 100 bytes each. A scene may have several, for instance one for each source."""

    def __init__(self) -> None:
        self._scenes: dict[str, int] = {}  # number of each name
        self._crs: dict[str, int] = {}
        self._rows = array("d")  # scene, split, CRS, a, b, c, d, e, f, height and width of each footprint

    def add(self, scene: str, split: str, grid: Grid) -> None:
        """Add the extent of a grid. A grid without a place on the globe is left out."""
        if grid.georeferenced:
            number, crs = self._scenes.setdefault(scene, len(self._scenes)), self._crs.setdefault(grid.crs, len(self._crs))
            t = grid.transform
            self._rows.extend((number, SPLITS.index(split), crs, t.a, t.b, t.c, t.d, t.e, t.f, *grid.shape))

    def overlaps(self) -> list[Overlap]:
        """The pairs of scenes of different splits on common ground, in the order in which they were added.

        Edges that touch, to half a pixel of each, are no common ground. At most MOST_OVERLAPS are returned.
        """
        rows = np.array(self._rows).reshape(-1, 11)
        # Many scenes may have the same grid, one for each year.
        places, place = np.unique(rows[:, 1:], axis=0, return_inverse=True)
        if len(np.unique(places[:, 0])) < 2:
            return []
        rings = self._rings(places)
        scenes_at: list[list[int]] = [[] for _ in places]
        for number, scene in zip(place.ravel().tolist(), rows[:, 0].astype(int).tolist(), strict=True):
            scenes_at[number].append(scene)
        shares: dict[tuple[int, int], float] = {}
        split_of: dict[int, str] = {}
        for one, other, share in _common_shares(rings, places[:, 0].astype(int)):
            for number in (one, other):
                split_of |= dict.fromkeys(scenes_at[number], SPLITS[int(places[number, 0])])
            for first in scenes_at[one]:
                for second in scenes_at[other]:
                    pair = min(first, second), max(first, second)
                    shares[pair] = max(share, shares.get(pair, 0.0))
            if len(shares) >= MOST_OVERLAPS:
                break
        names = list(self._scenes)
        return [
            Overlap((names[one], names[other]), (split_of[one], split_of[other]), share)
            for (one, other), share in sorted(shares.items())
        ]

    def _rings(self, places: np.ndarray) -> np.ndarray:
        """Border of each place without half a pixel on each side, in degrees, float64 (places, points, 2), without jumps."""
        there, start = np.arange(EDGE_POINTS) / EDGE_POINTS, np.zeros(EDGE_POINTS)
        u, v = np.concatenate([there, start + 1, 1 - there, start]), np.concatenate([start, there, start + 1, 1 - there])
        rings = np.empty((len(places), len(u), 2))
        for crs, number in self._crs.items():
            of_crs = places[:, 1] == number
            a, b, c, d, e, f, height, width = places[of_crs, 2:].T[..., None]
            row, col = _inset(height, v), _inset(width, u)
            x, y = a * col + b * row + c, d * col + e * row + f
            lon, lat = (x, y) if crs == GEOGRAPHIC else reprojected(crs, GEOGRAPHIC, x.ravel(), y.ravel())
            lon, lat = lon.reshape(x.shape), lat.reshape(x.shape)
            rings[of_crs] = np.stack([unwrapped(lon, lon[:, :1]), lat], axis=-1)
        return rings


def _inset(extent: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Shares 0 to 1 along an axis of `extent` pixels -> pixels, half a pixel inside of both ends."""
    inset = np.minimum(0.5, extent / 4)
    return inset + along * (extent - 2 * inset)


def overlap_text(overlaps: Sequence[Overlap]) -> str:
    """The first MOST_NAMED overlaps, and how many there are, for messages."""
    more = len(overlaps) - MOST_NAMED
    others = f" and {more}{'' if len(overlaps) < MOST_OVERLAPS else ' or more'} other pairs" if more > 0 else ""
    return "; ".join(map(str, overlaps[:MOST_NAMED])) + others


def _common_shares(rings: np.ndarray, splits: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield two places of different splits and the common share of the smaller one, if above LEAST_SHARE.

    rings: degrees (places, points, 2). splits: int (places,).
    """
    for part in _near_pairs(rings, splits):
        one, other = part.T
        planes = _in_planes(rings[one], rings[other])
        polygons = [shapely.make_valid(shapely.polygons(plane)) for plane in planes]
        smaller = np.minimum(*map(shapely.area, polygons))
        share = shapely.area(shapely.intersection(*polygons)) / np.where(smaller > 0, smaller, np.inf)
        for at in np.flatnonzero(share > LEAST_SHARE).tolist():
            yield int(one[at]), int(other[at]), float(min(share[at], 1.0))


def _near_pairs(rings: np.ndarray, splits: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the places of different splits whose boxes in longitude and latitude touch, int (n, 2), in parts."""
    low, high = rings.min(axis=1), rings.max(axis=1)
    margin = BOX_MARGIN * (high - low)
    low, high = low - margin, high + margin
    around = high[:, 0] - low[:, 0] > 180  # the border of a place with a pole in it runs through all longitudes
    low[around, 0], high[around, 0] = -180, 180
    high[around & (high[:, 1] > 0), 1], low[around & (low[:, 1] < 0), 1] = 90, -90
    turn = np.floor((low[:, 0] + 180) / 360) * 360
    low[:, 0], high[:, 0] = low[:, 0] - turn, high[:, 0] - turn
    places = np.flatnonzero(np.isfinite(rings).all(axis=(1, 2)))
    beyond = places[high[places, 0] > 180]  # these lie on both sides of the antimeridian, and get a second box
    number = np.concatenate([places, beyond])
    shift = np.repeat([0, 360], [len(places), len(beyond)])
    boxes = shapely.box(low[number, 0] - shift, low[number, 1], high[number, 0] - shift, high[number, 1])
    for one, other in combinations(range(len(SPLITS)), 2):
        first, second = (np.flatnonzero(splits[number] == split) for split in (one, other))
        tree = shapely.STRtree(boxes[second])
        for start in range(0, len(first), PAIRS_AT_ONCE):
            part = first[start : start + PAIRS_AT_ONCE]
            found, near = tree.query(boxes[part])
            pairs = np.unique(np.stack([number[part[found]], number[second[near]]], axis=1), axis=0)
            yield from (pairs[at : at + PAIRS_AT_ONCE] for at in range(0, len(pairs), PAIRS_AT_ONCE))


def _in_planes(*rings: np.ndarray) -> list[np.ndarray]:
    """Rings in degrees, each (n, points, 2), in n planes that touch the sphere at the centres of the first rings: the same shape.

    The projection is Lambert's azimuthal equal-area one on the unit sphere. Source: Snyder, "Map projections, a working manual",
    1987, equations 24-2 to 24-4.
    """
    points = [_on_sphere(ring) for ring in rings]
    centre = points[0].mean(axis=1, keepdims=True)
    centre /= np.linalg.norm(centre, axis=-1, keepdims=True)
    east = np.cross([0.0, 0.0, 1.0], centre)
    east[(east == 0).all(axis=-1)] = [1.0, 0.0, 0.0]  # at the poles
    east /= np.linalg.norm(east, axis=-1, keepdims=True)
    north = np.cross(centre, east)
    planes = []
    for of_ring in points:
        scale = np.sqrt(2 / np.maximum(1 + (of_ring * centre).sum(axis=-1), 1e-12))
        planes.append(np.stack([scale * (of_ring * axis).sum(axis=-1) for axis in (east, north)], axis=-1))
    return planes


def _on_sphere(degrees: np.ndarray) -> np.ndarray:
    """Longitude and latitude (..., 2) -> unit vectors (..., 3)."""
    lon, lat = np.moveaxis(np.radians(degrees), -1, 0)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
