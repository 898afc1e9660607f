"""A landscape in which context matters: classes that differ in their pattern and outline, but not in what a pixel reflects.

| class | pattern | looks in one pixel like |
|---|---|---|
| orchard | parallel rows of crowns on a parcel | open woodland: clumps of the same crowns, irregular outline |
| plantation | closed stand with straight lanes on a parcel | forest: the same crowns, irregular clearings and outline |
| greenhouses | parallel strips of roofs | buildings: the same roofs as blocks in all directions |
| fish ponds | rectangular pools between dykes | still water: the same water, irregular outline |
| irrigated crops | round fields of centre pivots, and long narrow strips | rainfed crops: the same crops on blocks |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from data_prep.simulation.landscape import Kind, Landscape
from data_prep.simulation.objects import whole_key
from data_prep.simulation.randomness import SmoothNoise, hashed, normal, uniform
from data_prep.simulation.regions import Region

CLUMP_M = 34.0  # distance between nodes of the random field of clumps and clearings
CROWN_SHARE = 0.5  # of an orchard, and of open woodland
CLOSED_SHARE = 0.8  # of a plantation, and of forest
ROW_M = (26.0, 40.0)  # spacing of the rows of an orchard
LANE_M = (56.0, 80.0)  # spacing of the lanes of a plantation
HOUSE_M = (34.0, 40.0)  # spacing of greenhouses
ROOF_SHARE = 0.56
ROOF_BORDER_M = 4.2  # from a roof to the border of its cell of 34 m, so that roofs fill ROOF_SHARE
DYKE_M = 6.0  # half the width of a dyke between ponds
PIVOT_CELL_M = 330.0
PIVOT_M = (105.0, 150.0)  # radius
PURE_SHARE = 0.8  # parcels with the use of their district
AFFINITY = 1.8  # by how much crops cluster
_USES = {
    "fields": Kind.FIELD, "strips": Kind.STRIP, "orchard": Kind.ORCHARD, "plantation": Kind.PLANTATION,
    "greenhouse": Kind.GREENHOUSE, "fish_pond": Kind.FISH_POND,
}  # fmt: skip
# Length and width of a parcel, as a share of the region's fields; strips in metres.
_SIZES = {Kind.ORCHARD: 1.0, Kind.PLANTATION: 1.6, Kind.GREENHOUSE: 0.9, Kind.FISH_POND: 0.6, Kind.FIELD: 1.0}
STRIP_M = (300.0, 26.0)


class Parcels(NamedTuple):
    """Parcels at some points, (N,) each: use, key, distance to the border in metres, and metres across the parcel's rows."""

    use: np.ndarray
    key: np.ndarray
    border_m: np.ndarray
    across_m: np.ndarray


class ContextLandscape(Landscape):
    """A landscape whose districts are used in different ways, with patterns within parcels and stands.

    The last two bits of an object's key are its part: 0 for the ground between, 1 for crowns, roofs or water.
    """

    PATCHES: ClassVar[dict[str, tuple[float, int]]] = {
        "forest": (800, 4), "woodland": (800, 4), "grass": (800, 4), "lake": (700, 3), "village": (700, 3), "pivots": (1200, 2)
    }  # fmt: skip

    def __init__(self, region: Region, extent_m: float, seed: int) -> None:
        super().__init__(region, extent_m, seed)
        self._clumps = SmoothNoise(*self._names, "clumps", scale=CLUMP_M, extent=2 * extent_m, octaves=1)
        side = np.linspace(0, extent_m, 317)
        sample = self._clumps(*(a.ravel() for a in np.meshgrid(side, side)))
        self._open, self._closed = (float(np.quantile(sample, 1 - share)) for share in (CROWN_SHARE, CLOSED_SHARE))
        self._affinity = {
            crop: SmoothNoise(*self._names, "affinity", crop, scale=1200.0, extent=2 * extent_m, octaves=2)
            for crop in region.crops
        }

    def preference(self, cover: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By how much the logarithm of the weight of a crop grows at each place (N,): each crop has belts of its own."""
        return AFFINITY * self._affinity[cover](x, y) if cover in self._affinity else np.zeros(x.shape)

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kind (uint8) and key (uint64) of the object at each point, (N,) each; x and y in metres, (N,) each."""
        xw, yw = x + 25 * self._warp[0](x, y), y + 25 * self._warp[1](x, y)
        district = self._voronoi(xw, yw, self._district_m, "district")
        parcels = self._parcels(xw, yw, district.key)
        kind, key = parcels.use.copy(), whole_key(parcels.key)
        self._put_pivots(x, y, kind, key)
        edge = (parcels.border_m < 1.2) & np.isin(kind, (Kind.FIELD, Kind.STRIP))
        kind[edge], key[edge] = Kind.MARGIN, whole_key(hashed(district.key, "margin"))[edge]
        self._put_patches(xw, yw, x, y, kind, key)
        road = district.border_m < 3.5
        kind[road], key[road] = Kind.TRACK, whole_key(hashed(district.key, "road"))[road]
        key |= self._parts(x, y, kind, parcels).astype(np.uint64)
        return kind, key

    def _parcels(self, x: np.ndarray, y: np.ndarray, district: np.ndarray) -> Parcels:
        """Rectangular parcels; those of a district have one direction, and most of them one use."""
        ids, inverse = np.unique(district, return_inverse=True)
        angle = (np.pi * uniform(ids, *self._names, "angle"))[inverse]
        main = self._drawn_uses(ids, "use of district", self.region.uses)[inverse]
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        scale = np.exp(0.5 * self.region.field_spread * normal(ids, *self._names, "size"))[inverse]
        length, width = (np.array([_size_m(Kind(use), self.region)[i] for use in range(len(Kind))])[main] for i in (0, 1))
        is_strip = main == Kind.STRIP
        lanes = self._cuts(v, length * np.where(is_strip, 1.0, scale), district, "lane")
        spread = np.clip(np.exp(self.region.field_spread * normal(lanes.key, *self._names, "lane width")), 0.6, 1.7)
        fields = self._cuts(u, width * np.where(is_strip, 1.0, scale * spread), lanes.key, "field")
        others = {name: weight for name, weight in self.region.uses.items() if name != "strips"}
        own = self._drawn_uses(fields.key, "use of parcel", others)
        is_mixed = (uniform(fields.key, *self._names, "mixed") > PURE_SHARE) & ~is_strip
        border = np.minimum(lanes.border_m, fields.border_m)
        return Parcels(use=np.where(is_mixed, own, main), key=fields.key, border_m=border, across_m=u)

    def _drawn_uses(self, keys: np.ndarray, name: str, weights: Mapping[str, float]) -> np.ndarray:
        """A use for each key by weight: uint8 kinds (N,)."""
        ends = np.cumsum(list(weights.values())) / sum(weights.values())
        drawn = np.minimum(np.searchsorted(ends, uniform(keys, *self._names, name)), len(ends) - 1)
        return np.array([_USES[use] for use in weights], dtype=np.uint8)[drawn]

    def _put_pivots(self, x: np.ndarray, y: np.ndarray, kind: np.ndarray, key: np.ndarray) -> None:
        """Put round fields over the parcels, in place; they lie together where the field of pivots is high."""
        column, row = np.floor(x / PIVOT_CELL_M), np.floor(y / PIVOT_CELL_M)
        cell = hashed((row.astype(np.int64) << 20) + column.astype(np.int64) + (1 << 40), *self._names, "pivot")
        centre_x, centre_y = (
            PIVOT_CELL_M * (at + 0.5 + 0.08 * (uniform(cell, name) - 0.5)) for at, name in ((column, "x"), (row, "y"))
        )
        smallest, largest = PIVOT_M
        radius = smallest + (largest - smallest) * uniform(cell, "radius")
        here = self._patch("pivots", centre_x, centre_y) > self._thresholds["pivots"]
        inside = here & (np.hypot(x - centre_x, y - centre_y) < radius)
        kind[inside], key[inside] = Kind.PIVOT, whole_key(cell)[inside]

    def _put_patches(
        self, xw: np.ndarray, yw: np.ndarray, x: np.ndarray, y: np.ndarray, kind: np.ndarray, key: np.ndarray
    ) -> None:
        """Put natural land and villages with irregular outlines over kind and key, in place."""
        for name, what, size in (
            ("grass", Kind.MEADOW, 200), ("woodland", Kind.OPEN_WOODLAND, 180), ("forest", Kind.FOREST, 180),
            ("village", Kind.BUILDINGS, CLUMP_M), ("lake", Kind.STILL_WATER, 3000),
        ):  # fmt: skip
            inside = np.flatnonzero(self._patch(name, x, y) > self._thresholds[name])
            if inside.size:
                kind[inside], key[inside] = what, whole_key(self._voronoi(xw[inside], yw[inside], size, name).key)

    def _parts(self, x: np.ndarray, y: np.ndarray, kind: np.ndarray, parcels: Parcels) -> np.ndarray:
        """Whether each point of an object with a pattern lies in its crowns, roofs or water: bool (N,)."""
        part = np.zeros(kind.shape, dtype=bool)

        def strips(use: Kind, spacing_m: tuple[float, float], share: float) -> None:
            at = np.flatnonzero(kind == use)
            low, high = spacing_m
            period = low + (high - low) * uniform(parcels.key[at], "period")
            phase = parcels.across_m[at] / period + uniform(parcels.key[at], "phase")
            part[at] = phase - np.floor(phase) < share

        strips(Kind.ORCHARD, ROW_M, CROWN_SHARE)
        strips(Kind.PLANTATION, LANE_M, CLOSED_SHARE)
        strips(Kind.GREENHOUSE, HOUSE_M, ROOF_SHARE)
        for natural, threshold in ((Kind.OPEN_WOODLAND, self._open), (Kind.FOREST, self._closed)):
            at = np.flatnonzero(kind == natural)
            part[at] = self._clumps(x[at], y[at]) > threshold
        at = np.flatnonzero(kind == Kind.BUILDINGS)
        if at.size:
            xw, yw = x[at] + 25 * self._warp[0](x[at], y[at]), y[at] + 25 * self._warp[1](x[at], y[at])
            part[at] = self._voronoi(xw, yw, CLUMP_M, "village").border_m > ROOF_BORDER_M
        part |= (kind == Kind.FISH_POND) & (parcels.border_m > DYKE_M)
        return part | (kind == Kind.STILL_WATER)


def _size_m(use: Kind, region: Region) -> tuple[float, float]:
    """Length and width in metres of the parcels of a district with a use."""
    if use == Kind.STRIP:
        return STRIP_M
    length, width = region.field_m
    share = _SIZES.get(use, 1.0)
    return share * length, share * width
