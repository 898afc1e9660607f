"""The objects of a landscape: the fields, stands of trees, houses, ... found on a fine raster, and what grows on each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.covers import COVERS, INDEX
from data_prep.simulation.landscape import ANNUAL, PARCELS, Kind, Landscape
from data_prep.simulation.landscape_raster import Raster
from data_prep.simulation.randomness import uniform


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of a landscape, as arrays (N,) in ascending order of the key.

    Attributes:
        key, kind: see Raster.
        cover: index into COVERS this year.
        next_cover: index into COVERS next year; winter crops are sown this year.
        x, y: centre in metres.
        elevation_m: height in metres.
        parcel: number of the field, 1, 2, ...; 0 for all other objects.
    """

    key: np.ndarray
    kind: np.ndarray
    cover: np.ndarray
    next_cover: np.ndarray
    x: np.ndarray
    y: np.ndarray
    elevation_m: np.ndarray
    parcel: np.ndarray

    def __len__(self) -> int:
        return len(self.key)


def find_objects(landscape: Landscape, rasters: list[Raster], year: int, seed: int) -> Objects:
    """All objects on the rasters, with their covers."""
    keys, kinds, xs, ys = [], [], [], []
    for raster in rasters:
        found, first, inverse, counts = np.unique(raster.key, return_index=True, return_inverse=True, return_counts=True)
        inverse = inverse.ravel()
        columns = np.tile(raster.x, len(raster.y))
        rows = np.repeat(raster.y, len(raster.x))
        keys.append(found)
        kinds.append(raster.kind.ravel()[first])
        xs.append(np.bincount(inverse, weights=columns) / counts)
        ys.append(np.bincount(inverse, weights=rows) / counts)
    key, first = np.unique(np.concatenate(keys), return_index=True)
    kind, x, y = (np.concatenate(parts)[first] for parts in (kinds, xs, ys))
    cover = _choose_covers(landscape, kind, key, x, y, year, seed)
    following = _choose_covers(landscape, kind, key, x, y, year + 1, seed)
    parcel = _numbered_parcels(kind, key)
    return Objects(
        key=key,
        kind=kind,
        cover=cover,
        next_cover=following,
        x=x,
        y=y,
        elevation_m=landscape.elevation_m(x, y),
        parcel=parcel,
    )


def whole_key(key: np.ndarray) -> np.ndarray:
    """Key of the whole, uint64: the parts of one object differ in the last two bits of their keys."""
    return key & ~np.uint64(3)


def _numbered_parcels(kind: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Number of the field of each object, uint32 (N,): 1, 2, ... in the order of the keys; 0 for other land."""
    in_field = np.isin(kind, PARCELS)
    number = np.zeros(key.shape, dtype=np.uint32)
    number[in_field] = 1 + np.unique(whole_key(key[in_field]), return_inverse=True)[1]
    return number


def _choose_covers(
    landscape: Landscape, kind: np.ndarray, key: np.ndarray, x: np.ndarray, y: np.ndarray, year: int, seed: int
) -> np.ndarray:
    """Index into COVERS of each object: crops by the mix of the region, clustered in space; annual crops change with the year."""
    region = landscape.region
    fixed = {Kind.MARGIN: region.grassland, Kind.TRACK: "track", Kind.ROAD: "paved_road", Kind.RIVER: "river"}
    fixed |= {Kind.LAKE: "lake", Kind.BAR: "rock", Kind.MARSH: "marsh"}
    cover = np.zeros(key.shape, dtype=np.int64)
    for what, name in fixed.items():
        cover[kind == what] = INDEX[name]
    for what, parts in _covers_of_parts(region.grassland).items():
        for part, name in enumerate(parts):
            cover[(kind == what) & ((key & np.uint64(3)) == part)] = INDEX[name]
    gardens = {"yard": 1.5, "grassland": 2.0, "deciduous_forest": 1.6}
    meadow = {region.grassland: 4.0, "shrubland": 1.0}
    mixes = {
        **dict.fromkeys(ANNUAL, region.crops),
        Kind.WOOD: region.forests,
        Kind.MEADOW: meadow,
        Kind.HOUSE: {**{name: 5 * w / sum(region.roofs.values()) for name, w in region.roofs.items()}, **gardens},
    }
    for what, mix in mixes.items():
        chosen = np.flatnonzero(kind == what)
        if not chosen.size:
            continue
        # Annual crops rotate between their fields; rice and perennial crops stay where they are.
        stays = {name: w for name, w in mix.items() if w > 0 and (COVERS[INDEX[name]].perennial or "rice" in name)}
        turns = {name: w for name, w in mix.items() if w > 0 and name not in stays}
        where = landscape, key[chosen], x[chosen], y[chosen]
        first = _draw({**stays, "turns": sum(turns.values())} if turns else stays, *where, (seed, "stays"))
        second = _draw(turns, *where, (seed, "turns", year)) if turns else first
        cover[chosen] = [INDEX[b if a == "turns" else a] for a, b in zip(first, second, strict=True)]
    return cover


def _covers_of_parts(grassland: str) -> dict[Kind, tuple[str, str]]:
    """Covers of the two parts of objects with a pattern. What differs in its pattern alone has the same covers."""
    crowns, roofs, pool = ("sparse_vegetation", "deciduous_forest"), ("yard", "grey_roofs"), (grassland, "pond")
    trees = dict.fromkeys((Kind.ORCHARD, Kind.PLANTATION, Kind.FOREST, Kind.OPEN_WOODLAND), crowns)
    return {
        **trees, Kind.GREENHOUSE: roofs, Kind.BUILDINGS: roofs, Kind.FISH_POND: pool, Kind.STILL_WATER: pool
    }  # fmt: skip


def _draw(
    weights: dict[str, float], landscape: Landscape, key: np.ndarray, x: np.ndarray, y: np.ndarray, names: tuple[object, ...]
) -> list[str]:
    """Draw a name for each key by weight, and by what the landscape prefers at (x, y).

    With Gumbel noise, the largest of log(weight) + noise belongs to each name as often as its share says.
    """
    options = list(weights)
    scores = np.empty((len(options), len(key)))
    for i, name in enumerate(options):
        noise = -np.log(-np.log(uniform(key, "cover", *names, name)))
        scores[i] = np.log(weights[name]) + noise + landscape.preference(name, x, y)
    return [options[i] for i in scores.argmax(axis=0)]
