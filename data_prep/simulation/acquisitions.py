"""The acquisitions of a simulated sensor in a year: dates, cloud cover, position of the sun, and edges of the swath."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.randomness import generator
from data_prep.simulation.weather import Weather

KEEP_AT_LEAST = 20  # acquisitions per sensor and year, however cloudy they are


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One overpass: day of the year (1 January is 0), cloud cover 0..1, and whether the edge of the swath crosses the scene."""

    day: int
    cloud_cover: float
    cut_by_swath: bool


def plan_acquisitions(
    names: tuple[object, ...], weather: Weather, every_days: int, max_cover: float, days: int
) -> list[Acquisition]:
    """The overpasses of a year that an archive would hold: some are missing, and those above the cloud limit are left out.

    When fewer than KEEP_AT_LEAST remain, the clearest of the others are kept, too.
    """
    rng = generator(*names, "overpasses")
    start = int(rng.integers(every_days))
    passes = []
    for day in range(start, days, every_days):
        expected = weather.cloudiness[min(day, len(weather.cloudiness) - 1)]
        cover = float(rng.beta(1.1 * expected + 0.08, 1.1 * (1 - expected) + 0.08))  # mostly clear or mostly overcast
        missing, cut = rng.random() < 0.06, rng.random() < 0.10
        if not missing:
            passes.append(Acquisition(day=day, cloud_cover=cover, cut_by_swath=bool(cut)))
    clearest = sorted(passes, key=lambda p: p.cloud_cover)
    limit = max(max_cover, clearest[min(KEEP_AT_LEAST, len(clearest)) - 1].cloud_cover)
    return [p for p in passes if p.cloud_cover <= limit]


def sun_position(latitude: float, day: int) -> tuple[float, float]:
    """Zenith and azimuth of the sun in radians at 10:30 local solar time (Cooper 1969 for the declination)."""
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day + 1) / 365)
    hour, lat = np.radians(-22.5), np.radians(latitude)
    cosine = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(hour)
    zenith = np.arccos(cosine)
    azimuth = np.arctan2(np.sin(hour), np.cos(hour) * np.sin(lat) - np.tan(declination) * np.cos(lat)) + np.pi
    return float(zenith), float(azimuth)


def swath_mask(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """True outside the swath of an acquisition, that is beyond a slanted line: bool (H, W)."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    slope, side, share = np.tan(np.radians(13.0)), rng.integers(2), rng.uniform(0.15, 0.7)
    beyond = column + slope * row > share * (shape[1] + slope * shape[0])
    return beyond if side else ~beyond
