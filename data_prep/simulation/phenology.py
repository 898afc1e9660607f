"""The growing season: leaf area and senescence of each object on each day, and the composition of the ground between leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.covers import COVERS, INDEX, REFERENCE_LATITUDE, Cover, Cycle
from data_prep.simulation.landscape import ANNUAL, Kind
from data_prep.simulation.logistic import logistic
from data_prep.simulation.objects import Objects
from data_prep.simulation.randomness import normal, uniform
from data_prep.simulation.regions import Region
from data_prep.simulation.spectra import BACKGROUNDS, PLANTS
from data_prep.simulation.weather import HIGH_M, Weather

LOAM, DARK, RED, MOIST, STRAW, FLOODED, SNOW = range(len(BACKGROUNDS))
_PLANT = np.array([PLANTS.index(cover.plant) if cover.plant else -1 for cover in COVERS])


@dataclass(frozen=True, kw_only=True)
class State:
    """The objects on one day, as arrays over the N objects.

    Attributes:
        plant: (N,) index into PLANTS, -1 for objects without leaves.
        lai: (N,) leaf area, m2/m2.
        senescence: (N,) from 0, green, to 1, dead.
        ground: (N, 7) shares of BACKGROUNDS; each row sums to 1.
        snow: (N,) share of open ground under snow.
    """

    plant: np.ndarray
    lai: np.ndarray
    senescence: np.ndarray
    ground: np.ndarray
    snow: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Growth:
    """Arrays (N,) that the cycles fill in place for one day; see State. `flooded` and `straw` are shares of the ground."""

    plant: np.ndarray
    lai: np.ndarray
    senescence: np.ndarray
    flooded: np.ndarray
    straw: np.ndarray


class Season:
    """The growing season of all objects of one region in one year."""

    def __init__(self, region: Region, objects: Objects, weather: Weather, year: int, seed: int) -> None:
        self._region, self._objects, self._weather = region, objects, weather
        key = objects.key
        self._shift = region.field_days * normal(key, "shift", year, seed) + weather.shift_days + 0.02 * objects.elevation_m
        self._vigour = np.exp(0.14 * normal(key, "vigour", year, seed))
        self._tillage = 8 + 70 * uniform(key, "tillage", year, seed)  # days from harvest to ploughing
        self._floods_winter = uniform(key, "winter flood", year, seed) < region.winter_flood
        self._wetness = 0.15 * normal(key, "wetness", seed)
        # The seasons of trees differ less than those of fields.
        self._shift = np.where(np.isin(objects.kind, ANNUAL), self._shift, 0.5 * self._shift)
        loam, dark, red = region.soil
        darkness = np.clip(dark + 0.22 * normal(key, "soil", seed), 0.0, 1.0)
        darkness = np.where(objects.kind == Kind.WOOD, 0.9, darkness)  # litter, stems and their shade
        brown = (1 - darkness) / (loam + red) if loam + red else 0 * darkness
        self._soil = np.stack([loam * brown, darkness, red * brown], axis=1)
        self._water = np.array([c.glc == 210 for c in COVERS])[objects.cover]
        self._members = [
            (COVERS[c], np.flatnonzero(objects.cover == c), np.flatnonzero(objects.next_cover == c)) for c in range(len(COVERS))
        ]

    def state(self, day: float) -> State:
        """The objects on a day of the year (1 January is 0)."""
        growth = self._growth(day)
        if self._region.winter_flood:
            self._flood_stubble(day, growth.flooded)
        index = min(max(int(day), 0), 365)
        ground = self._ground(growth, index)
        return State(plant=growth.plant, lai=growth.lai, senescence=growth.senescence, ground=ground, snow=self._snow(index))

    def _growth(self, day: float) -> _Growth:
        """What the cycles of all covers, of this year and of its neighbours, have grown until a day."""
        covers = self._objects.cover
        growth = _Growth(
            plant=_PLANT[covers],
            lai=np.array([c.base_lai for c in COVERS])[covers],
            senescence=np.array([resting(c) for c in COVERS])[covers],
            flooded=np.array([c.wet for c in COVERS])[covers],
            straw=np.zeros(len(self._objects)),
        )
        for cover, now, following in self._members:
            for cycle in cover.cycles:
                for members, shift in ((now, 0.0), (following, 365.0), (now if cover.perennial else now[:0], -365.0)):
                    if members.size:
                        self._grow(cover, cycle, members, day - shift, growth)
        return growth

    def _ground(self, growth: _Growth, index: int) -> np.ndarray:
        """Shares of BACKGROUNDS (N, 7) without snow, on the day with this index in the weather."""
        moisture = np.clip(self._weather.moisture[index] + self._wetness, 0.0, 1.0)
        free = (1 - growth.flooded) * (1 - growth.straw)
        ground = np.zeros((len(self._objects), len(BACKGROUNDS)))
        ground[:, :MOIST] = self._soil * (free * (1 - moisture))[:, None]
        ground[:, MOIST] = free * moisture
        ground[:, STRAW] = (1 - growth.flooded) * growth.straw
        ground[:, FLOODED] = growth.flooded
        return ground

    def _snow(self, index: int) -> np.ndarray:
        """Share of open ground under snow (N,); on water, of the ice."""
        height = np.clip(self._objects.elevation_m / HIGH_M, 0.0, 1.5)
        snow = np.clip(self._weather.snow[index] * (1 - height) + self._weather.snow_high[index] * height, 0.0, 1.0)
        patchy = np.clip(snow * 1.25 - 0.25 * uniform(self._objects.key, "drift"), 0.0, 1.0)
        return np.where(self._water, patchy * self._weather.ice[index], patchy)

    def _grow(self, cover: Cover, cycle: Cycle, members: np.ndarray, day: float, growth: _Growth) -> None:
        """Add one cycle of one cover: its leaves and their colour replace those of smaller leaf area."""
        north = self._region.latitude - REFERENCE_LATITUDE
        early = day - self._shift[members] - cycle.start_per_degree * north  # day on the calendar of the start
        late = day - self._shift[members] - cycle.end_per_degree * north  # day on the calendar of the end
        up = logistic((early - cycle.rise) / cycle.rise_days)
        down = logistic((late - cycle.turn) / cycle.turn_days)
        leaves = cycle.lai * up * (1 - (1 - cycle.standing) * down)
        if cycle.sow is not None:
            emerged = logistic((early - cycle.sow - 24) / 5.0)
            leaves = np.maximum(leaves, cycle.autumn_lai * emerged * (1 - down)) * (early > cycle.sow)
        leaves *= self._vigour[members]
        # Leaves change colour before they fall; evergreens, which do not lose them, stay green.
        dead = logistic((late - cycle.turn + 0.3 * cycle.turn_days) / (0.8 * cycle.turn_days)) if cycle.turn < 365 else 0 * late
        if cover.plant == "evergreen":
            dead = 0.25 * dead
        if cycle.harvest is not None:
            since = late - cycle.harvest
            leaves *= logistic(-since / 0.7)
            stubble = 0.75 * logistic(since / 0.7) * np.exp(-np.clip(since, 0, None) / 90.0)
            stubble *= since < self._tillage[members]
            growth.straw[members] = np.maximum(growth.straw[members], stubble)
            growth.straw[members[leaves > 0.3]] *= 0.3
        more = leaves > growth.lai[members]
        larger = members[more]
        old = (cover.base_lai / leaves[more]) ** 2  # brown stems and litter of perennials show through the first leaves
        growth.plant[larger] = PLANTS.index(cycle.plant or cover.plant or "")
        growth.lai[larger], growth.senescence[larger] = leaves[more], dead[more] + (resting(cover) - dead[more]) * old
        if cycle.flood is not None:
            first, last = cycle.flood
            under = logistic((early - first) / 1.5) * logistic((last - late) / 3.0)
            growth.flooded[members] = np.maximum(growth.flooded[members], 0.9 * under)

    def _flood_stubble(self, day: float, flooded: np.ndarray) -> None:
        """Put harvested paddies under water from November to February, as is done to rot the straw and for birds."""
        rice = (self._objects.cover == INDEX["paddy_rice"]) & self._floods_winter
        since = (day - self._shift - 312) % 365
        flooded[rice] = np.maximum(flooded[rice], 0.9 * (logistic(since / 4) * logistic((102 - since) / 4))[rice])


def resting(cover: Cover) -> float:
    """Senescence outside the cycles: vegetation is brown in winter, except for evergreens."""
    return {"grass": 0.7, "reed": 1.0, "deciduous": 1.0}.get(cover.plant or "", 0.0) if cover.base_lai else 0.0
