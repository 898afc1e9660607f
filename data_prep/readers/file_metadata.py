"""Metadata of files: texts, dates and coordinate reference systems in attributes and coordinates (CF Conventions)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

UNIX_EPOCH = "days since 1970-01-01"
# Days since 1970 between the launch of Landsat 1 and 2100. A number like 20210103 or 194 does not count days since 1970, and
# times of 0 in 1970 were never written.
FIRST_PLAUSIBLE_DAY, LAST_PLAUSIBLE_DAY = 934, 47_482
YEARS = 1972, 2100  # the first and last of these days
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")  # these are equal from GREGORIAN on
GREGORIAN = datetime(1582, 10, 15)
# Milliseconds of each unit of time (UDUNITS), and for shorter units how many of them a millisecond has.
UNITS = {
    ("days", "day", "d"): 86_400_000,
    ("hours", "hour", "hrs", "hr", "h"): 3_600_000,
    ("minutes", "minute", "mins", "min"): 60_000,
    ("seconds", "second", "secs", "sec", "s"): 1_000,
    ("milliseconds", "millisecond", "msecs", "msec", "ms"): 1,
}
SHORT_UNITS = {("microseconds", "microsecond", "us"): 1_000, ("nanoseconds", "nanosecond", "ns"): 1_000_000}
# A moment as in ISO 8601 and in CF units: 2021-1-3, 2021-01-03T10:30:00.5Z, 2021-01-03 10:30:00 -6:00.
MOMENT = re.compile(
    r"(?P<date>\d{1,4}-\d{1,2}-\d{1,2})"
    r"(?:(?:T|\s+)(?P<time>\d{1,2}(?::\d{1,2}){0,2})(?:[.,]\d*)?)?"
    r"\s*(?:Z|UTC|GMT|(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d\d))?)?",
    re.IGNORECASE,
)


def text(value: Any) -> str:
    """An attribute as str. HDF5 returns bytes, numpy strings, or arrays with one of them."""
    value = value.item() if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1 else value
    return value.decode() if isinstance(value, bytes) else str(value)


def texts(values: Any) -> list[str]:
    """A list or an attribute of texts, such as names of bands; a single value is a list of one."""
    return [text(value) for value in np.ravel(values)]


def crs_attribute(value: Any) -> int | str:
    """A coordinate reference system in the metadata of a file, as an EPSG number or as a text."""
    return int(value) if isinstance(value, int | np.integer) else text(value)


def decode_days(values: np.ndarray, attributes: Mapping[str, Any], origin: str) -> np.ndarray:
    """Decode times, numbers with CF `units`, ISO texts or datetime64, to days in UTC: datetime64[D] (T,).

    Whole numbers without units are days since 1970-01-01, but for those of the future and those that may be years. A time without
    a time zone is in UTC.
    Raises ValueError for values that are not dates, and for dates before the launch of Landsat 1 (1972-07-23) or after 2100.
    Sources: CF Conventions 1.11, section 4.4; UDUNITS; ISO 8601.
    """
    if values.dtype.kind == "M":
        dates = values.astype("datetime64[D]")
    elif values.dtype.kind in "OSTU":
        moments = [_moment(text(value)) for value in values.ravel()]
        if None in moments:
            wrong = text(values.ravel()[moments.index(None)])
            raise ValueError(f"{origin}: dates as text must be ISO 8601 like 2021-05-01, got {wrong!r}")
        dates = np.array(moments, dtype="datetime64[s]").astype("datetime64[D]")
    elif values.dtype.kind in "iuf":
        dates = _decode_numbers(values, attributes, origin)
    else:
        raise ValueError(f"{origin}: dates have type {values.dtype}; expected numbers with CF units, or ISO 8601 texts")
    days = dates.astype(np.int64)
    implausible = np.isnat(dates) | (days < FIRST_PLAUSIBLE_DAY) | (days > LAST_PLAUSIBLE_DAY)
    if implausible.any():
        first = int(np.argmax(implausible))
        raise ValueError(
            f"{origin}: {int(implausible.sum())} of {dates.size} dates are missing, before 1972-07-23 or after 2100, first "
            f"{dates.ravel()[first]} for {values.ravel()[first]}; correct the values or their units, as in '{UNIX_EPOCH}'"
        )
    return dates


def _moment(value: str) -> datetime | None:
    """A moment in UTC, without a fraction of a second; None for a text that is none."""
    found = MOMENT.fullmatch(value.strip())
    try:
        if found is None:  # the other formats of ISO 8601, such as 20210103 and 20210103T103000+0100
            other = datetime.fromisoformat(value.strip())
            return (other.astimezone(UTC) if other.tzinfo else other).replace(microsecond=0, tzinfo=None)
        year, month, day = (int(number) for number in found["date"].split("-"))
        hour, minute, second, *_ = [int(number) for number in (found["time"] or "0").split(":")] + [0, 0]
        local = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    ahead = timedelta(hours=int(found["hours"] or 0), minutes=int(found["minutes"] or 0))
    return local + ahead if found["sign"] == "-" else local - ahead


def _decode_numbers(values: np.ndarray, attributes: Mapping[str, Any], origin: str) -> np.ndarray:
    """Numbers of a unit of time since a moment -> datetime64[D]; what is not finite is NaT."""
    units = attributes.get("units")
    if units is None:
        whole = np.isfinite(values) & (np.rint(values) == values)
        as_years = (values >= YEARS[0]) & (values <= YEARS[1])  # as days they lie in 1975, before all sensors of this project
        if as_years.any():
            raise ValueError(
                f"{origin}: {values[as_years].ravel()[0]} without units may be a year, which is no date; write ISO texts like "
                f"2021-05-01, or numbers with an attribute units, as in '{UNIX_EPOCH}'"
            )
        tomorrow = (datetime.now(UTC).date() - date(1970, 1, 1)).days + 1  # numbers since 1900 or 1950 lie beyond it
        if not whole.all() or (values < 0).any() or (values > tomorrow).any():
            example = values[~whole | (values < 0) | (values > tomorrow)].ravel()[0]
            raise ValueError(
                f"{origin}: numbers like {example} without units are no dates; write ISO texts like 2021-05-01, or numbers "
                f"with an attribute units, as in '{UNIX_EPOCH}'"
            )
        units = UNIX_EPOCH
    calendar = text(attributes.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise ValueError(f"{origin}: calendar {calendar!r}; satellite dates need one of {', '.join(CALENDARS)}")
    unit, _, since = re.sub(r"\s+", " ", text(units)).strip().partition(" since ")
    start = _moment(since)
    length = next((length for names, length in UNITS.items() if unit.lower() in names), None)
    part = next((part for names, part in SHORT_UNITS.items() if unit.lower() in names), None)
    if start is None or (length is None and part is None):
        raise ValueError(f"{origin}: units {text(units)!r}; expected CF units like '{UNIX_EPOCH}'")
    if start < GREGORIAN and calendar != "proleptic_gregorian":
        raise ValueError(f"{origin}: units {text(units)!r} count from before 1582 in calendar {calendar}; expected a later start")
    # To the nearest millisecond, as a day of a float may lie just before its midnight. Integers are exact.
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        elapsed = np.rint(np.where(finite, values, 0).astype(np.float64) * (length or 1 / (part or 1))).astype(np.int64)
    else:
        finite, elapsed = np.True_, values.astype(np.int64) * (length or 1) // (part or 1)
    dates = (np.datetime64(start, "ms") + elapsed.astype("timedelta64[ms]")).astype("datetime64[D]")
    return np.where(finite, dates, np.datetime64("NaT", "D"))
