"""From stored numbers to a Series: checks types, removes the additive offset and finds the clear observations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series

# The option `offset` in scene.yaml: one number, or numbers by the first date or the first processing baseline they apply to.
Offset = int | Mapping[Any, int] | None


def stated_offsets(
    offset: Offset, sensor: Sensor, dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None = None
) -> np.ndarray:
    """The additive offset of each date according to scene.yaml: int64 (T,), to be added to the stored numbers.

    Args:
        offset: one whole number for all dates; or numbers by the date from which they apply,
            `{2015-06-23: 0, 2022-01-25: -1000}`; or numbers by the processing baseline from which they apply,
            `{00.00: 0, 04.00: -1000}`.
        sensor: sensor of the source.
        dates: (T,) datetime64[D].
        origin: begins error messages.
        baselines: (T,) processing baselines where file names contain them.

    Raises ValueError when archives of the sensor differ in the offset and scene.yaml does not state it (it is never guessed),
    when they do not differ and scene.yaml states one, and when a date lies before all keys of `offset`.
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
    keys, sought = _offset_keys(offset, dates, origin, baselines)
    order = np.argsort(keys)
    position = np.searchsorted(keys[order], sought, side="right") - 1
    if (position < 0).any():
        first = int(np.argmax(position < 0))
        raise ValueError(f"{origin}: offset {dict(offset)} says nothing of {dates[first]}, which lies before all of its keys")
    return np.array(list(offset.values()), dtype=np.int64)[order][position]


def _offset_keys(
    offset: Mapping[Any, int], dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The keys of `offset` as dates or processing baselines, and those of the images (T,) to find among them."""
    if offset and all(re.fullmatch(r"\d{1,2}\.\d{1,2}", str(key)) for key in offset):
        if baselines is None or None in baselines:
            raise ValueError(
                f"{origin}: offset by processing baseline, but file names give none; `pattern` needs a group baseline"
            )
        keys = np.array([baseline_number(str(key)) for key in offset])
        return keys, np.array([baseline_number(str(baseline)) for baseline in baselines])
    try:
        return np.array([np.datetime64(str(key), "D") for key in offset]), dates
    except ValueError as error:
        raise ValueError(
            f"{origin}: offset {dict(offset)}: keys must all be dates like 2022-01-25, or baselines: {error}"
        ) from error


def check_offset(offset: int, sensor: Sensor, origin: str) -> None:
    """Raises ValueError when `offset` moves every number of the sensor's dtype out of the valid range."""
    limits, (low, high) = np.iinfo(sensor.dtype), sensor.valid_range
    if not (limits.min + offset <= high and limits.max + offset >= low):
        raise ValueError(f"{origin}: offset {offset} moves every number of {sensor.dtype} out of the valid range {low} to {high}")


def baseline_number(baseline: str) -> int:
    """A processing baseline as a number that can be compared: 400 for 04.00, 4.0, 0400 and N0400."""
    match = re.fullmatch(r"N?(?:(\d{2})(\d{2})|(\d{1,2})\.(\d{1,2}))", baseline)
    if match is None:
        raise ValueError(f"{baseline!r} is not a processing baseline; expected one like 04.00 or N0400")
    major, minor = (match[1], match[2]) if match[1] else (match[3], match[4].ljust(2, "0"))
    return int(major) * 100 + int(minor)


def check_stored(dtype: np.dtype, nodata: float | None, sensor: Sensor, origin: str) -> None:
    """Raises ValueError unless the stored dtype fits that of the sensor, and both have the same no-data value."""
    if not np.can_cast(dtype, np.dtype(sensor.dtype), "safe"):
        if np.issubdtype(dtype, np.floating):
            advice = (
                f"pixels must stay integers as the product stores them, which cannot be NaN: convert with "
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


def harmonised_series(
    pixels: np.ndarray, quality: np.ndarray | None, dates: np.ndarray, sensor: Sensor, offsets: np.ndarray
) -> Series:
    """Stored pixels (T, C, H, W) and quality codes (T, H, W) -> Series. Adds the offsets (T,) or (T, C) to the pixels in place.

    Observed numbers that the offset moves out of the valid range are clipped to it: dark pixels of Sentinel-2 from baseline
    04.00 on lie below 1000 and mean a reflectance of about zero. No data stays no data, and quality codes never change.
    Without quality codes (None) all complete observations are clear, and the codes of the series are "not observed".
    """
    pixels = pixels.astype(sensor.dtype, copy=False)
    frames, _, height, width = pixels.shape
    added = offsets.reshape(len(offsets), -1, 1, 1)
    valid = np.empty((frames, height, width), np.bool_)
    unknown = sensor.quality.nodata
    codes = np.full(valid.shape, unknown, np.min_scalar_type(unknown)) if quality is None else quality
    for time in range(frames):  # date by date, so that intermediate arrays stay small
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
    """Add int64 `added` (C or 1, 1, 1), without zeros, to `frame` (C, H, W) in place; clip to the valid range, keep no data.

    The sum has the dtype of `frame`, since a wider one would take longer than reading. Numbers are first clipped to those that
    stay in the valid range (see `check_offset`), so the sum fits the dtype, even if `added` itself wraps around.
    """
    limits = np.iinfo(frame.dtype)
    low, high = (np.clip(bound - added, limits.min, limits.max).astype(frame.dtype) for bound in sensor.valid_range)
    unseen = frame == sensor.nodata
    np.clip(frame, low, high, out=frame)
    frame += added.astype(frame.dtype)
    np.copyto(frame, sensor.nodata, where=unseen)
