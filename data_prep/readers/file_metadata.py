"""Metadata of files: texts, dates and coordinate reference systems in attributes and coordinates (CF Conventions)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.readers.base import check_dates

UNIX_EPOCH = "days since 1970-01-01"
LAST_PLAUSIBLE_DAY = 47_482  # 2100-01-01 in days since 1970; a number like 20210103 does not count days
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")  # these are equal after 1582
SECONDS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


def text(value: Any) -> str:
    """An attribute as str. HDF5 returns bytes, numpy strings, or arrays with one of them."""
    value = value.item() if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1 else value
    return value.decode() if isinstance(value, bytes) else str(value)


def crs_attribute(value: Any) -> int | str:
    """A coordinate reference system in the metadata of a file, as an EPSG number or as a text."""
    return int(value) if isinstance(value, int | np.integer) else text(value)


def decode_dates(values: np.ndarray, attributes: Mapping[str, Any], origin: str) -> np.ndarray:
    """Decode the time axis of a file, numbers with CF `units`, ISO texts or datetime64 -> datetime64[D] (T,), increasing.

    Whole numbers without units are days since 1970-01-01 if all of them then lie before 2100.
    Raises ValueError for values that are not dates, and for dates that repeat or decrease.
    Source: CF Conventions 1.11, section 4.4.
    """
    if values.dtype.kind == "M":
        dates = values.astype("datetime64[D]")
    elif values.dtype.kind in "OSU":
        try:
            dates = np.array([np.datetime64(text(value), "D") for value in values.ravel()], dtype="datetime64[D]")
        except ValueError as error:
            raise ValueError(f"{origin}: dates as text must be ISO 8601 like 2021-05-01: {error}") from error
    elif values.dtype.kind in "iuf":
        dates = _decode_numbers(values, attributes, origin)
    else:
        raise ValueError(f"{origin}: dates have type {values.dtype}; expected numbers with CF units, or ISO 8601 texts")
    try:
        check_dates(dates, len(values))
    except ValueError as error:
        raise ValueError(f"{origin}: {error}; sort the images and mosaic those of one day first") from error
    return dates


def _decode_numbers(values: np.ndarray, attributes: Mapping[str, Any], origin: str) -> np.ndarray:
    units = attributes.get("units")
    if units is None:
        if values.dtype.kind == "f" or (values < 0).any() or (values > LAST_PLAUSIBLE_DAY).any():
            raise ValueError(f"{origin}: numbers like {values[0]} without units; write an attribute units = '{UNIX_EPOCH}'")
        units = UNIX_EPOCH
    calendar = text(attributes.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise ValueError(f"{origin}: calendar {calendar!r}; satellite dates need one of {', '.join(CALENDARS)}")
    pattern = r"\s*([a-z]+?)s?\s+since\s+(\d{4}-\d\d-\d\d)(?:[T ]+(\d\d:\d\d(?::\d\d)?)(?:\.\d*)?)?\s*(?:Z|UTC)?\s*"
    match = re.fullmatch(pattern, text(units))
    if match is None or match[1] not in SECONDS:
        raise ValueError(f"{origin}: units {text(units)!r}; expected CF units like '{UNIX_EPOCH}'")
    start = np.datetime64(f"{match[2]}T{match[3] or '00:00'}", "s")
    elapsed = np.floor(values * np.float64(SECONDS[match[1]])).astype(np.int64)  # whole seconds: exact in float64
    return (start + elapsed.astype("timedelta64[s]")).astype("datetime64[D]")
