"""Metadata of files: dates, grids and band names by the conventions of CF and GDAL, and by attributes of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from common.grid import Grid
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import check_dates

UNIX_EPOCH = "days since 1970-01-01"
LAST_PLAUSIBLE_DAY = 47_482  # 2100-01-01 in days since 1970; a number like 20210103 does not count days
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")  # these are equal after 1582
SECONDS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


def text(value: Any) -> str:
    """An attribute as str. HDF5 returns bytes, numpy strings, or arrays with one of them."""
    value = value.item() if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1 else value
    return value.decode() if isinstance(value, bytes) else str(value)


def decode_dates(values: np.ndarray, attributes: Mapping[str, Any], origin: str) -> np.ndarray:
    """Decode a time axis: numbers with CF `units`, ISO texts or datetime64 -> datetime64[D] (T,), strictly increasing.

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


def crs_text(value: Any, origin: str) -> str:
    """A CRS given as EPSG number, `EPSG:n`, WKT or PROJ text -> `EPSG:n` where it has one, else WKT."""
    value = int(value) if isinstance(value, int | np.integer) else text(value)
    try:
        return _canonical_crs(value)
    except (CRSError, ValueError) as error:
        raise ValueError(f"{origin}: {value!r} is no coordinate reference system: {error}") from error


@lru_cache(maxsize=64)  # finding the EPSG number takes longer than opening a file
def _canonical_crs(value: int | str) -> str:
    crs = CRS.from_epsg(value) if isinstance(value, int) else CRS.from_user_input(value)
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def grid_from_transform(values: Any, crs: Any, shape: tuple[int, int], origin: str) -> Grid:
    """Grid from an attribute `transform`: six numbers (a, b, c, d, e, f) in the order of rasterio and affine."""
    numbers = [float(value) for value in np.ravel(values)[:6]]
    if len(numbers) != 6:
        raise ValueError(f"{origin}: transform has {len(numbers)} numbers; expected a, b, c, d, e, f as rasterio orders them")
    transform = Affine(*numbers)
    if transform.is_degenerate:
        raise ValueError(f"{origin}: transform {numbers} has pixels of no area; is it in GDAL's order instead of rasterio's?")
    return Grid(crs=crs_text(crs, origin), transform=transform, height=shape[0], width=shape[1])


def grid_from_centres(x: np.ndarray, y: np.ndarray, crs: Any, origin: str) -> Grid:
    """Grid from the coordinates of pixel centres, x (W,) and y (H,).

    Raises ValueError unless they are evenly spaced to a hundredth of a pixel.
    """
    steps = []
    for name, centres in (("x", x), ("y", y)):
        if len(centres) < 2:
            raise ValueError(f"{origin}: {name} has {len(centres)} coordinate; two are needed to know the pixel size")
        step = (float(centres[-1]) - float(centres[0])) / (len(centres) - 1)
        regular = float(centres[0]) + step * np.arange(len(centres))
        if step == 0 or not np.allclose(centres, regular, rtol=0, atol=abs(step) / 100):
            raise ValueError(f"{origin}: coordinates {name} are not evenly spaced; regrid the images first")
        steps.append(step)
    dx, dy = steps
    transform = Affine(dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2)
    return Grid(crs=crs_text(crs, origin), transform=transform, height=len(y), width=len(x))


def band_positions(found: Sequence[str], sensor: Sensor, origin: str) -> list[int]:
    """Position of each band of the sensor among the bands `found` in a file, in the order of the sensor.

    Bands that the sensor does not have are ignored. Raises ValueError when a band of the sensor is missing or named twice.
    """
    missing = [band for band in sensor.bands if band not in found]
    if missing:
        raise ValueError(
            f"{origin}: has {len(found)} bands {list(found)}; source {sensor.name} needs {len(sensor.bands)} and misses {missing}"
        )
    repeated = [band for band in sensor.bands if list(found).count(band) > 1]
    if repeated:
        raise ValueError(f"{origin}: bands {repeated} are named more than once in {list(found)}")
    return [list(found).index(band) for band in sensor.bands]
