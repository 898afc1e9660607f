"""How files say that they encode reflectance and quality codes: type, no data, scale and offset. Checks it against the sensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor

SCALE_TOLERANCE = 1e-4  # relative; files state scales as float32, or rounded


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The encoding of a band, as its file states it; None for what it does not state.

    Attributes:
        dtype: type of the stored numbers.
        nodata: number that means "no data".
        scale, offset: reflectance = scale * number + offset.
    """

    dtype: np.dtype
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None


def cf_encoding(dtype: np.dtype, attributes: Mapping[str, Any], origin: str) -> Encoding:
    """The encoding that attributes state by the CF Conventions: `_FillValue`, `missing_value`, `scale_factor`, `add_offset`.

    A scale of 1 without an offset counts as not stated: GDAL has it for every band, and libraries copy it into other files.
    Raises ValueError for a scale or offset that is not one number. Source: CF Conventions 1.11, sections 2.5.1 and 8.1.
    """
    scale, offset = (_number(attributes, name, origin) for name in ("scale_factor", "add_offset"))
    if scale in (None, 1) and offset in (None, 0):
        scale = offset = None
    return Encoding(dtype=dtype, nodata=_nodata(attributes, origin), scale=scale, offset=offset)


def hdf_eos_encoding(dtype: np.dtype, attributes: Mapping[str, Any], origin: str) -> Encoding:
    """The encoding that attributes of an HDF4 field state: reflectance = scale_factor * (number - add_offset).

    Some MODIS products state the inverse of the scale, 10,000 (MOD09, MOD13). Sources: HDF4 User's Guide, section on SDsetcal;
    MODIS Surface Reflectance User's Guide.
    """
    stated = cf_encoding(dtype, attributes, origin)
    scale = 1 / stated.scale if stated.scale is not None and stated.scale > 1 else stated.scale
    offset = None if stated.offset is None else -stated.offset * (1 if scale is None else scale)
    return Encoding(dtype=dtype, nodata=stated.nodata, scale=scale, offset=offset)


def check_encoding(stated: Encoding, sensor: Sensor, origin: str) -> float | None:
    """Return the additive offset of the stored numbers that a file states: -1000 for 0.0001 * number - 0.1, None for none.

    Raises ValueError unless the type fits that of the sensor, and no data and scale are those of the sensor where stated.
    """
    if not np.can_cast(stated.dtype, np.dtype(sensor.dtype), "safe"):
        if np.issubdtype(stated.dtype, np.floating):
            advice = (
                f"pixels must stay integers as the product stores them, which cannot be NaN: convert with "
                f"round(reflectance / {sensor.scale:g}), NaN to {sensor.nodata}, as {sensor.dtype}"
            )
        else:
            advice = "convert them, or describe the sensor in a YAML of its own"
        raise ValueError(
            f"{origin}: numbers are stored as {stated.dtype}; source {sensor.name} has {sensor.dtype} as the product stores; "
            + advice
        )
    return check_numbers(stated, sensor, origin)


def check_numbers(stated: Encoding, sensor: Sensor, origin: str) -> float | None:
    """`check_encoding` for numbers of any type."""
    if stated.nodata is not None and not np.isnan(stated.nodata) and stated.nodata != sensor.nodata:
        raise ValueError(f"{origin}: no data is {stated.nodata:g} in the file, but {sensor.nodata} for source {sensor.name}")
    if stated.scale is None and stated.offset is None:
        return None
    scale = 1.0 if stated.scale is None else stated.scale
    if abs(scale / sensor.scale - 1) > SCALE_TOLERANCE:
        raise ValueError(
            f"{origin}: the file states reflectance = {scale:g} * number {stated.offset or 0:+g}, but it is "
            f"{sensor.scale:g} * number for source {sensor.name}; describe the data as a sensor of its own with "
            f"`scale: {scale:g}`, or correct the scale that the file states"
        )
    return None if stated.offset is None else stated.offset / scale


def check_quality(dtype: np.dtype, attributes: Mapping[str, Any], sensor: Sensor, origin: str) -> None:
    """Raises ValueError unless quality codes are integers, and the code that attributes state for no data is not a clear one."""
    if not np.issubdtype(dtype, np.integer):
        raise ValueError(f"{origin}: quality codes are stored as {dtype}; expected integers, never scaled or averaged")
    nodata = _nodata(attributes, origin)
    if nodata is None or np.isnan(nodata):
        return
    if sensor.quality.clear(np.array([int(nodata)])).any():
        raise ValueError(
            f"{origin}: no data is {nodata:g} in the file, but that code of {sensor.quality.name} is clear for source "
            f"{sensor.name}, which has {sensor.quality.nodata} for no data; correct the no-data number of the file, or describe "
            "the data as a sensor of its own"
        )


def _nodata(attributes: Mapping[str, Any], origin: str) -> float | None:
    """The number for no data; None where none is stated. Raises ValueError for anything but numbers.

    It is `_FillValue` or `missing_value` (CF Conventions), or `nodata`, as rioxarray and the Open Data Cube write it.
    """
    nodata = next((attributes[name] for name in ("_FillValue", "missing_value", "nodata") if name in attributes), None)
    if nodata is None or isinstance(nodata, str | bytes):  # Zarr version 3 may hold an encoded text
        return None
    try:
        return float(np.ravel(nodata)[0])
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{origin}: _FillValue, missing_value or nodata is {nodata!r}; expected a number") from error


def _number(attributes: Mapping[str, Any], name: str, origin: str) -> float | None:
    """An attribute as a number; GDAL has texts, HDF5 arrays. None where it is missing."""
    value = attributes.get(name)
    if value is None:
        return None
    try:
        numbers = np.unique(np.ravel(value).astype(np.float64))
    except (ValueError, TypeError):
        numbers = np.array([])
    if len(numbers) != 1 or not np.isfinite(numbers[0]):
        raise ValueError(f"{origin}: {name} is {value!r}; expected one number")
    return float(numbers[0])
