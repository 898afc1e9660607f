"""Series of pixels at points, as arrays; every layout of a table becomes these.

Shapes: n points, N observations of one source at all points together, C bands of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.offsets import stated_offsets
from data_prep.readers.radiometry import add_offset, as_stored
from finetune.data.tables.description import TableDescription

NO_YEAR = -1
SATURATED = 65535  # the largest number of 16 bits; WorldCereal marks missing numbers by it


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSeries:
    """The observations of one source, those of a point together and in the order of their dates.

    Attributes:
        starts: int64 (n + 1,): point i has the observations from starts[i] to starts[i + 1] - 1.
        pixels: (N, C), numbers as the product stores them, in the type of the sensor.
        days: datetime64[D] (N,).
    """

    starts: np.ndarray
    pixels: np.ndarray
    days: np.ndarray

    def of_point(self, number: int) -> slice:
        """The observations of a point."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSeries:
    """Points and their series.

    Attributes:
        ids: id of each point.
        lon, lat: float64 (n,), degrees; NaN where the table states no places.
        years: int32 (n,): year in which the season ends, NO_YEAR where it is not stated.
        labels: content of the label column, a text, a whole number or None for each point.
        splits: content of the split column, a text or None for each point.
        sources: observations by source.
    """

    ids: Sequence[str]
    lon: np.ndarray
    lat: np.ndarray
    years: np.ndarray
    labels: Sequence[str | int | None]
    splits: Sequence[str | None]
    sources: Mapping[str, SourceSeries]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, number: int) -> str:
        """Name of a point in messages: its id, and its year where that is stated."""
        year = int(self.years[number])
        return self.ids[number] if year == NO_YEAR else f"{self.ids[number]}-{year}"


@dataclass(frozen=True, kw_only=True, eq=False)
class RawObservations:
    """Observations of one source as a table holds them, those of a point together.

    Attributes:
        starts: int64 (n + 1,), as in `SourceSeries`.
        numbers: float64 (N, C), NaN where a cell is empty.
        days: datetime64[D] (N,), in any order.
    """

    starts: np.ndarray
    numbers: np.ndarray
    days: np.ndarray


def source_series(
    raw: RawObservations, sensor: Sensor, table: TableDescription, names: Sequence[str], origin: str
) -> SourceSeries:
    """Stored numbers in the order of dates, one observation per day, with missing numbers as the sensor's no data.

    `names`: of the points, for messages. Raises ValueError for reflectance, for numbers that may mean "missing" without being
    stated so, for an offset that is not stated, and for several observations of one day where the table does not say what to do.
    """
    source = table.sources[sensor.name]
    numbers = raw.numbers
    if source.missing is not None:
        numbers = np.where(numbers == source.missing, np.nan, numbers)
    else:
        _check_no_number_may_mean_missing(numbers, sensor, origin)
    stored = as_stored(np.where(np.isfinite(numbers), numbers, sensor.nodata), sensor, origin)
    days, day_of_observation = np.unique(raw.days, return_inverse=True)
    of_days = stated_offsets(source.offset, sensor, days, origin)
    if of_days is None:
        raise ValueError(
            f"{origin}: archives of {sensor.name} differ in an additive offset, and the table cannot tell: state `offset: 0` for "
            "numbers without one or harmonised already, `offset: -1000` for those of processing baseline 04.00 on, or both by "
            "date, `offset: {2015-06-23: 0, 2022-01-25: -1000}`"
        )
    offsets = of_days[day_of_observation]
    for offset in np.unique(of_days).tolist():
        if offset:
            part = stored[offsets == offset]
            add_offset(part, np.array(offset), sensor)
            stored[offsets == offset] = part
    point = np.repeat(np.arange(len(raw.starts) - 1), np.diff(raw.starts))
    is_empty = np.isnan(numbers).all(axis=1)
    # Of one day first the complete observations, then those that hold anything at all, in the order of rows.
    pixels = stored[:, :, None, None]
    rank = np.where(sensor.observed(pixels)[:, 0, 0], 0, np.where(is_empty, 2, 1))
    order = np.lexsort((np.arange(len(point)), rank, raw.days, point))
    point, days, stored, is_empty = point[order], raw.days[order], stored[order], is_empty[order]
    again = np.zeros(len(point), dtype=bool)
    again[1:] = (point[1:] == point[:-1]) & (days[1:] == days[:-1])
    if table.same_day == "error" and (again & ~is_empty).any():
        at = int(np.argmax(again & ~is_empty))
        raise ValueError(
            f"{origin}: point {names[point[at]]} has several observations of {sensor.name} on {days[at]}; remove all but one, "
            "or say `same_day: mosaic`, then the first complete one counts"
        )
    kept = ~again
    starts = np.concatenate([[0], np.cumsum(np.bincount(point[kept], minlength=len(raw.starts) - 1))]).astype(np.int64)
    return SourceSeries(starts=starts, pixels=stored[kept], days=days[kept])


def _check_no_number_may_mean_missing(numbers: np.ndarray, sensor: Sensor, origin: str) -> None:
    """Raises ValueError for the largest number of 16 bits, where the sensor has it in its valid range."""
    low, high = sensor.valid_range
    count = int((numbers == SATURATED).sum())
    if count and low <= SATURATED <= high and sensor.nodata != SATURATED:
        raise ValueError(
            f"{origin}: {sensor.name} has {count} numbers {SATURATED}, by which tables such as those of WorldCereal mark missing "
            f"numbers: state `missing: {SATURATED}`, or if they are observations `missing: {sensor.nodata}`, which is the "
            "no-data number of the sensor"
        )


def joined_series(parts: Sequence[PointSeries]) -> PointSeries:
    """All points of several parts, in their order. There is at least one part, and all have the same sources."""

    def together(name: str) -> Any:
        return [value for part in parts for value in getattr(part, name)]

    sources = {}
    for source in parts[0].sources:
        of_source = [part.sources[source] for part in parts]
        counts = np.concatenate([np.diff(one.starts) for one in of_source])
        sources[source] = SourceSeries(
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            pixels=np.concatenate([one.pixels for one in of_source]),
            days=np.concatenate([one.days for one in of_source]),
        )
    lon, lat, years = (np.concatenate([getattr(part, name) for part in parts]) for name in ("lon", "lat", "years"))
    return PointSeries(
        ids=together("ids"), lon=lon, lat=lat, years=years, labels=together("labels"), splits=together("splits"), sources=sources
    )
