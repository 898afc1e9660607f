"""The landscape as a function of coordinates: districts of parallel fields, roads, a river, lakes, villages, woods, meadows.

A function can be rasterised at any resolution, anywhere and in pieces. This one gives the kind of land at each point, and a
key: points with the same key belong to one object (a field, a stand of trees, a house, ...).
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, NamedTuple

import numpy as np

from data_prep.simulation.randomness import SmoothNoise, generator, hashed, normal, uniform
from data_prep.simulation.regions import Region


class Kind(IntEnum):
    """Kinds of land."""

    FIELD = 0
    MARGIN = 1  # grass strip or ditch between fields
    TRACK = 2
    ROAD = 3
    RIVER = 4
    LAKE = 5
    BAR = 6  # bare sand and gravel along the river
    WOOD = 7
    MEADOW = 8
    MARSH = 9
    HOUSE = 10  # cell of a village: a roof, a yard, a garden, trees
    # Of context_landscape.py, where orchards and all that follow have two parts.
    STRIP = 11  # long, narrow, irrigated field
    PIVOT = 12  # round field under a centre pivot
    ORCHARD = 13
    PLANTATION = 14
    GREENHOUSE = 15
    FISH_POND = 16
    FOREST = 17
    OPEN_WOODLAND = 18
    STILL_WATER = 19
    BUILDINGS = 20


ANNUAL = (Kind.FIELD, Kind.STRIP, Kind.PIVOT)  # with a new crop every year
PARCELS = (*ANNUAL, Kind.ORCHARD)  # kinds that are fields in the labels


class Cells(NamedTuple):
    """Cells of a jittered partition at some points: key of the cell (N,), and distance to its border in metres (N,)."""

    key: np.ndarray
    border_m: np.ndarray


class Landscape:
    """The land of one region. It depends on the region and the seed, not on the year.

    Coordinates are metres east and south of the region's upper left corner; the region is `extent_m` square.

    Attributes:
        PATCHES: size in metres and octaves of the random fields whose highest parts are patches of other land than fields.
    """

    PATCHES: ClassVar[dict[str, tuple[float, int]]] = {
        "forest": (1500, 4), "grass": (1300, 4), "marsh": (1200, 4), "lake": (1800, 3)
    }  # fmt: skip

    def __init__(self, region: Region, extent_m: float, seed: int) -> None:
        self.region, self._names, self._extent = region, ("landscape", region.name, seed), extent_m
        period = 2 * extent_m
        # Districts shrink in a small region, so that even a small scene has several of them.
        self._district_m = min(region.district_m, extent_m / 3)

        def noise(name: str, scale: float, octaves: int = 3) -> SmoothNoise:
            return SmoothNoise(*self._names, name, scale=min(scale, extent_m / 2), extent=period, octaves=octaves)

        self._warp = noise("warp x", 2500, 1), noise("warp y", 2500, 1)
        self._relief = noise("relief", 4500, 4)
        self._meander = noise("meander", 2600, 3)
        self._outline = noise("village outline", 180, 2)
        self._patches = {name: noise(name, *size) for name, size in self.PATCHES.items()}
        self.suitability = noise("suitability", 2200, 2)
        rng = generator(*self._names, "lines")
        self._river_angle = rng.uniform(-0.6, 0.6)
        self._river_offset = rng.uniform(0.44, 0.56) * extent_m
        self._roads = [(rng.uniform(0, np.pi), rng.uniform(-0.25, 0.25) * extent_m) for _ in range(2)]
        self._field_angle = rng.uniform(0, np.pi)
        side = np.linspace(0, extent_m, 96)
        x, y = (a.ravel() for a in np.meshgrid(side, side))
        self._thresholds: dict[str, float] = {}
        for name, share in region.shares.items():
            self._thresholds[name] = float(np.quantile(self._patch(name, x, y), 1 - share)) if share else np.inf

    def preference(self, cover: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By how much the logarithm of the weight of a cover grows at each place (N,).

        Rice and ponds cluster where the land suits them, orchards elsewhere.
        """
        together = 1.8 if "rice" in cover else {"pond": 0.5, "orchard": -0.5}.get(cover, 0.0)
        return together * self.suitability(x, y)

    def elevation_m(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height above the lowest ground, metres."""
        return self.region.relief_m * np.clip(0.35 + 0.4 * self._relief(x, y), 0.0, None)

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kind (uint8) and key (uint64) of the object at each point, (N,) each; x and y in metres, (N,) each."""
        region = self.region
        xw, yw = x + 45 * self._warp[0](x, y), y + 45 * self._warp[1](x, y)
        district = self._sections(x, y) if region.sections else self._voronoi(xw, yw, self._district_m, "district")
        if region.sections:
            xw, yw = x, y
        kind, key = self._fields(xw, yw, district.key)

        def put(where: np.ndarray, what: Kind, which: np.ndarray | str) -> None:
            """Put objects with the keys `which`, or one single object when `which` is a name."""
            kind[where] = what
            key[where] = hashed(np.zeros(1), *self._names, which)[0] if isinstance(which, str) else which[where]

        for name, what, size in (("grass", Kind.MEADOW, 260), ("forest", Kind.WOOD, 190), ("marsh", Kind.MARSH, 210)):
            inside = np.flatnonzero(self._patch(name, x, y) > self._thresholds[name])
            if inside.size:
                kind[inside] = what
                key[inside] = self._voronoi(xw[inside], yw[inside], size, name).key
        put(district.border_m < 3.5, Kind.TRACK if region.villages < 0.1 else Kind.ROAD, hashed(district.key, "road"))
        self._villages(x, y, kind, key)
        for angle, offset in self._roads:
            put(np.abs(self._across(xw, yw, angle) - offset) < 6, Kind.ROAD, "main road")
        put(self._patch("lake", x, y) > self._thresholds["lake"], Kind.LAKE, self._voronoi(x, y, 3000, "lake").key)
        if region.river_m:
            distance = self._river_distance(x, y)
            half = 0.5 * region.river_m * (1 + 0.18 * self._relief(x, y))
            bars = half + 0.35 * region.river_m * np.clip(self._outline(x, y) - 0.3, 0, None)
            put(distance < bars, Kind.BAR, "bar")
            put(distance < half, Kind.RIVER, "river")
        return kind, key

    def _patch(self, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The random field whose highest parts are forest or grass (more on hills), marsh (more near the river), or lake."""
        field = self._patches[name](x, y).astype(np.float64)
        if name in ("forest", "grass") and self.region.relief_m > 100:
            field += 1.1 * self.elevation_m(x, y) / self.region.relief_m * 2
        if name == "marsh" and self.region.river_m:
            field += 1.6 * np.exp(-self._river_distance(x, y) / 700)
        return field

    def _across(self, x: np.ndarray, y: np.ndarray, angle: float) -> np.ndarray:
        """Signed distance of points from the line through the centre at `angle`."""
        return (x - self._extent / 2) * np.cos(angle) + (y - self._extent / 2) * np.sin(angle)

    def _river_distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = self._across(x, y, self._river_angle + np.pi / 2) + self._extent
        middle = self._river_offset - self._extent / 2 + min(420.0, 0.06 * self._extent) * self._meander(along, np.zeros(1))
        return np.abs(self._across(x, y, self._river_angle) - middle)

    def _fields(self, x: np.ndarray, y: np.ndarray, district: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kind and key of lanes of parallel fields; each district has one direction and one size."""
        region, names = self.region, self._names
        ids, inverse = np.unique(district, return_inverse=True)
        turned = 0.5 * np.pi * (uniform(ids, *names, "turn") < 0.5)
        bent = 0.0 if region.sections else self._field_angle + 0.22 * normal(ids, *names, "angle")
        angle = (bent + turned)[inverse]
        scale = np.exp(0.5 * region.field_spread * normal(ids, *names, "size"))[inverse]
        u = x * np.cos(angle) + y * np.sin(angle)
        v = y * np.cos(angle) - x * np.sin(angle)
        length, width = region.field_m
        lanes = self._cuts(v, length * scale, district, "lane")
        spread = np.exp(region.field_spread * normal(lanes.key, *names, "lane width"))
        fields = self._cuts(u, width * scale * np.clip(spread, 0.5, 2.0), lanes.key, "field")
        kind = np.zeros(x.shape, dtype=np.uint8)
        key = fields.key.copy()
        margin = fields.border_m < 1.2
        kind[margin], key[margin] = Kind.MARGIN, hashed(district, "margin")[margin]
        track = lanes.border_m < 2.2
        kind[track], key[track] = Kind.TRACK, hashed(district, "track")[track]
        return kind, key

    def _cuts(self, position: np.ndarray, spacing: np.ndarray, parent: np.ndarray, name: str) -> Cells:
        """Cut a line into pieces of about `spacing` metres; the cuts depend on the key of the parent."""
        t = position / spacing
        whole = np.floor(t)

        def cut(index: np.ndarray) -> np.ndarray:
            return index + 0.62 * (uniform(parent ^ hashed(index.astype(np.int64).view(np.uint64), name), "cut") - 0.5)

        low, high = cut(whole), cut(whole + 1)
        index = whole - (t < low) + (t >= high)
        border = np.minimum(np.abs(t - low), np.abs(t - high)) * spacing
        return Cells(key=hashed(parent ^ hashed(index.astype(np.int64).view(np.uint64), name), *self._names), border_m=border)

    def _sections(self, x: np.ndarray, y: np.ndarray) -> Cells:
        """Square miles along the axes, with a road around each."""
        mile = min(1609.0, self._district_m)
        column, row = np.floor(x / mile + 0.3), np.floor(y / mile + 0.6)
        key = hashed((row.astype(np.int64) << 20) + column.astype(np.int64), *self._names, "section")
        u, v = (x / mile + 0.3 - column) * mile, (y / mile + 0.6 - row) * mile
        return Cells(key=key, border_m=np.minimum(np.minimum(u, mile - u), np.minimum(v, mile - v)))

    def _voronoi(self, x: np.ndarray, y: np.ndarray, size: float, name: str) -> Cells:
        """Voronoi cells of one random site in each square of `size` metres."""
        column, row = np.floor(x / size).astype(np.int64), np.floor(y / size).astype(np.int64)
        nearest = np.full(x.shape, np.inf)
        second = np.full(x.shape, np.inf)
        key = np.zeros(x.shape, dtype=np.uint64)
        columns, rows = np.arange(column.min() - 1, column.max() + 2), np.arange(row.min() - 1, row.max() + 2)
        keys = hashed((rows[:, None] << 20) + columns[None, :] + (1 << 40), *self._names, name)
        site_x = size * (columns[None, :] + 0.5 + 0.8 * (uniform(keys, "x") - 0.5))
        site_y = size * (rows[:, None] + 0.5 + 0.8 * (uniform(keys, "y") - 0.5))
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                i, j = row + dr - rows[0], column + dc - columns[0]
                distance = np.hypot(x - site_x[i, j], y - site_y[i, j])
                nearer = distance < nearest
                second = np.where(nearer, nearest, np.minimum(second, distance))
                key = np.where(nearer, keys[i, j], key)
                nearest = np.where(nearer, distance, nearest)
        return Cells(key=key, border_m=0.5 * (second - nearest))

    def _villages(self, x: np.ndarray, y: np.ndarray, kind: np.ndarray, key: np.ndarray) -> None:
        """Put villages with their streets and houses over `kind` and `key`, in place."""
        size = min(1000.0 / np.sqrt(self.region.villages), 0.6 * self._extent)
        column, row = np.floor(x / size).astype(np.int64), np.floor(y / size).astype(np.int64)
        distance = np.full(x.shape, np.inf)  # from the border of the nearest village, negative inside
        site = np.zeros(x.shape, dtype=np.uint64)
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                i, j = row + dr, column + dc
                cell = hashed((i << 20) + j + (1 << 40), *self._names, "village")
                radius = np.minimum(self.region.village_m * np.exp(0.45 * normal(cell, "radius")), 0.45 * size)
                away = np.hypot(x - size * (j + uniform(cell, "x")), y - size * (i + uniform(cell, "y"))) - radius
                nearer = (away < distance) & (uniform(cell, "there") < 0.85)
                distance, site = np.where(nearer, away, distance), np.where(nearer, cell, site)
        inside = np.flatnonzero(distance + 0.3 * self.region.village_m * self._outline(x, y) < 0)
        if not inside.size:
            return
        site, angle = site[inside], np.pi * uniform(site[inside], "angle")
        u = x[inside] * np.cos(angle) + y[inside] * np.sin(angle)
        v = y[inside] * np.cos(angle) - x[inside] * np.sin(angle)
        streets = self._cuts(v, np.full(u.shape, 72.0), site, "street")
        plots = self._cuts(u, np.full(u.shape, 30.0), streets.key ^ (v - 36 * np.floor(v / 36) > 18).astype(np.uint64), "plot")
        is_street = streets.border_m < 3.5
        kind[inside] = np.where(is_street, Kind.ROAD, Kind.HOUSE)
        key[inside] = np.where(is_street, hashed(site, "streets"), plots.key)
