"""The weather of one year in one region, drawn from the region's climate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.logistic import logistic
from data_prep.simulation.randomness import generator
from data_prep.simulation.regions import Region

HIGH_M = 500.0  # height of the second snow record above the first
LAPSE_C = 6.5e-3  # decrease of temperature in degrees per metre of height


@dataclass(frozen=True, kw_only=True)
class Weather:
    """The weather of one year in one region, one value per day from 1 January: (days,) each.

    Attributes:
        temperature_c: mean of the day in degrees Celsius.
        ice: share of water that is frozen over.
        cloudiness: expected cloud cover, 0..1.
        moisture: moisture of bare soil, 0..1.
        snow, snow_high: share of open ground under snow in the plain, and 500 m above it.
        shift_days: delay of the growing season in days.
    """

    temperature_c: np.ndarray
    ice: np.ndarray
    cloudiness: np.ndarray
    moisture: np.ndarray
    snow: np.ndarray
    snow_high: np.ndarray
    shift_days: float


def make_weather(region: Region, year: int, seed: int) -> Weather:
    """Draw the weather from the climate of the region.

    The simulation starts in the winter before, so that 1 January has its snow and wet soil.
    """
    rng = generator("weather", region.name, year, seed)
    spin_up = 120
    day = np.arange(-spin_up, 366)
    climate = region.climate
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (day - 15) / 365.25)
    departure = 3.3 * _persistent(rng, len(day), 0.8)
    temperature = climate.temperature_c - climate.swing_c * np.cos(2 * np.pi * (day - 20) / 365.25) + departure
    usual = climate.cloud[0] + (climate.cloud[1] - climate.cloud[0]) * summer
    cloudiness = np.clip(usual + 0.22 * _persistent(rng, len(day), 0.75), 0.02, 0.98)  # fair and dull spells of days
    frozen = np.convolve(temperature, np.ones(21) / 21, mode="full")[: len(day)]  # mean of three weeks
    rain = rng.gamma(0.8, 1.25, len(day)) * (rng.random(len(day)) < 0.55 * cloudiness)
    rain *= climate.rain_mm[0] + (climate.rain_mm[1] - climate.rain_mm[0]) * summer
    moisture, snow, snow_high = (np.zeros(len(day)) for _ in range(3))
    wet, depth, depth_high = 0.4, 0.0, 0.0
    for i in range(len(day)):
        wet = min(1.0, wet * (0.93 - 0.12 * summer[i]) + rain[i] / 18.0)
        depth = _snow_depth(depth, rain[i], temperature[i])
        depth_high = _snow_depth(depth_high, 1.3 * rain[i], temperature[i] - LAPSE_C * HIGH_M)
        moisture[i], snow[i], snow_high[i] = wet, np.tanh(depth / 9), np.tanh(depth_high / 9)
    return Weather(
        temperature_c=temperature[spin_up:],
        ice=logistic((-4.0 - frozen[spin_up:]) / 0.8),
        cloudiness=cloudiness[spin_up:],
        moisture=moisture[spin_up:],
        snow=snow[spin_up:],
        snow_high=snow_high[spin_up:],
        shift_days=region.calendar_days + _delay_of_year(rng, region.year_days),
    )


def _delay_of_year(rng: np.random.Generator, year_days: float) -> float:
    """Delay of the growing season of a year in days, see Region."""
    return year_days * float(rng.uniform(-1, 1)) if year_days else 4.0 * float(rng.standard_normal())


def _snow_depth(depth_mm: float, rain_mm: float, temperature_c: float) -> float:
    """Water in the snow after a day, in mm.

    Rain falls as snow below 0.5 degrees. Wind and sun remove a little, and each degree above zero 3.5 mm.
    """
    fallen = rain_mm if temperature_c < 0.5 else 0.0
    return max(0.0, 0.995 * depth_mm + fallen - 0.1 - 3.5 * max(0.0, temperature_c))


def _persistent(rng: np.random.Generator, days: int, memory: float) -> np.ndarray:
    """A daily autoregressive series of first order, with zero mean and unit variance."""
    series, state = np.empty(days), 0.0
    for i, kick in enumerate(rng.standard_normal(days)):
        state = memory * state + np.sqrt(1 - memory**2) * kick
        series[i] = state
    return series
