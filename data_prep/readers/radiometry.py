"""From stored numbers to a Series: the type is checked, the additive offset removed, clear observations found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series

# What a scene states: one number; or by the date or by the processing baseline from which on it holds.
Offset = int | Mapping[Any, int] | None


def stated_offsets(
    offset: Offset, sensor: Sensor, dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None = None
) -> np.ndarray:
    """The offset of each date as the scene states it, to be added to stored numbers: int64 (T,).

    `offset`: one whole number, or `{2015-06-23: 0, 2022-01-25: -1000}`, numbers by the date from which on they hold, or
    `{00.00: 0, 04.00: -1000}`, by the processing baseline from which on they hold, where `baselines` (T,) are known.
    Raises ValueError when archives of the product differ in it and the scene is silent (it must be said, never guessed),
    when they do not differ and the scene states one, and when a date is covered by none.
    """
    if sensor.offset_varies and offset is None:
        raise ValueError(
            f"{origin}: archives of {sensor.name} differ in an additive offset, so scene.yaml must state it: "
            "`offset: -1000` for Sentinel-2 from processing baseline 04.00 on, `offset: 0` before or when harmonised already, "
            "or both by date or baseline, `offset: {2015-06-23: 0, 2022-01-25: -1000}`"
        )
    stated = offset if isinstance(offset, Mapping) else {None: 0 if offset is None else offset}
    for number in stated.values():
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"{origin}: offset is {number!r}; expected a whole number that is added to the stored numbers")
        check_offset(number, sensor, origin)
    if not sensor.offset_varies and any(stated.values()):
        raise ValueError(
            f"{origin}: offset {offset}, but source {sensor.name} has none; "
            "if its archives differ in it, its YAML needs offset_varies: true"
        )
    if not isinstance(offset, Mapping):
        return np.full(len(dates), stated[None], dtype=np.int64)
    by_baseline = bool(offset) and all(re.fullmatch(r"\d{1,2}\.\d{1,2}", str(key)) for key in offset)
    if by_baseline:
        if baselines is None or None in baselines:
            raise ValueError(
                f"{origin}: offset by processing baseline, but file names give none; `pattern` needs a group baseline"
            )
        keys = np.array([baseline_number(str(key)) for key in offset])
        sought = np.array([baseline_number(str(baseline)) for baseline in baselines])
    else:
        try:
            keys = np.array([np.datetime64(str(key), "D") for key in offset])
        except ValueError as error:
            raise ValueError(
                f"{origin}: offset {dict(offset)}: keys must all be dates like 2022-01-25, or baselines: {error}"
            ) from error
        sought = dates
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], sought, side="right") - 1
    if (place < 0).any():
        first = int(np.argmax(place < 0))
        raise ValueError(f"{origin}: offset {dict(offset)} says nothing of {dates[first]}, which lies before all of its keys")
    return np.array(list(offset.values()), dtype=np.int64)[order][place]


def check_offset(offset: int, sensor: Sensor, origin: str) -> None:
    """Raises ValueError when no number that the sensor's type can hold is in the valid range after `offset` is added."""
    limits, (low, high) = np.iinfo(sensor.dtype), sensor.valid_range
    if not (limits.min + offset <= high and limits.max + offset >= low):
        raise ValueError(f"{origin}: offset {offset} moves every number of {sensor.dtype} out of the valid range {low} to {high}")


def baseline_number(baseline: str) -> int:
    """A processing baseline in one of the ways it is written, 04.00, 4.0, 0400 or N0400, as a number that compares: 400."""
    match = re.fullmatch(r"N?(?:(\d{2})(\d{2})|(\d{1,2})\.(\d{1,2}))", baseline)
    if match is None:
        raise ValueError(f"{baseline!r} is no processing baseline; expected one like 04.00 or N0400")
    major, minor = (match[1], match[2]) if match[1] else (match[3], match[4].ljust(2, "0"))
    return int(major) * 100 + int(minor)


def check_stored(dtype: np.dtype, nodata: float | None, sensor: Sensor, origin: str) -> None:
    """Raises ValueError unless stored numbers fit the sensor's type and the file's no-data value is the sensor's."""
    if not np.can_cast(dtype, np.dtype(sensor.dtype), "safe"):
        if np.issubdtype(dtype, np.floating):
            advice = (
                f"pixels stay integers as the product stores them, and NaN has no place in them: convert with "
                f"round(reflectance / {sensor.scale:g}), NaN to {sensor.nodata}, as {sensor.dtype}"
            )
        else:
            advice = "convert them, or describe the sensor in a YAML of its own"
        raise ValueError(
            f"{origin}: numbers are stored as {dtype}; source {sensor.name} has {sensor.dtype} as the product stores; {advice}"
        )
    if nodata is not None and not np.isnan(nodata) and nodata != sensor.nodata:
        raise ValueError(f"{origin}: no data is {nodata:g} in the file, but {sensor.nodata} for source {sensor.name}")


def check_quality_type(dtype: np.dtype, origin: str) -> None:
    """Raises ValueError unless quality codes are integers."""
    if not np.issubdtype(dtype, np.integer):
        raise ValueError(f"{origin}: quality codes are stored as {dtype}; expected integers, never scaled or averaged")


def series(pixels: np.ndarray, quality: np.ndarray | None, dates: np.ndarray, sensor: Sensor, offsets: np.ndarray) -> Series:
    """Stored pixels (T, C, H, W) and quality codes (T, H, W) -> Series with the offsets (T,) or (T, C) removed, in place.

    Observed numbers that leave the product's valid range by the offset are clipped to it (dark pixels of Sentinel-2
    baseline 04.00 lie below 1000 and mean a reflectance of about zero); no data stays no data. Quality is never changed.
    Without quality codes (None) all complete observations count as clear, and the codes are those of "not observed".
    """
    pixels = pixels.astype(sensor.dtype, copy=False)
    frames, _, height, width = pixels.shape
    added = offsets.reshape(len(offsets), -1, 1, 1)
    valid = np.empty((frames, height, width), np.bool_)
    unknown = sensor.quality.nodata
    codes = np.full(valid.shape, unknown, np.min_scalar_type(unknown)) if quality is None else quality
    for time in range(frames):  # date by date: what is in between never is as large as a block of pixels
        frame = pixels[time : time + 1]
        if added[time].all():
            _add(frame[0], added[time], sensor)
        elif added[time].any():
            some = np.flatnonzero(added[time])
            part = frame[0, some]
            _add(part, added[time, some], sensor)
            frame[0, some] = part
        valid[time] = (sensor.observed(frame) if quality is None else sensor.valid(frame, codes[time : time + 1]))[0]
    return Series(pixels=pixels, quality=codes, valid=valid, dates=dates)


def _add(frame: np.ndarray, added: np.ndarray, sensor: Sensor) -> None:
    """Add int64 `added` (C or 1, 1, 1), nowhere 0, to (C, H, W) in place, clipped to the valid range; no data stays.

    In the numbers' own type, since wider ones would cost more than reading: they are clipped first to what stays in range (see
    `check_offset`), so that the sum fits, even if the number to add wraps around.
    """
    limits = np.iinfo(frame.dtype)
    low, high = (np.clip(bound - added, limits.min, limits.max).astype(frame.dtype) for bound in sensor.valid_range)
    unseen = frame == sensor.nodata
    np.clip(frame, low, high, out=frame)
    frame += added.astype(frame.dtype)
    np.copyto(frame, sensor.nodata, where=unseen)
