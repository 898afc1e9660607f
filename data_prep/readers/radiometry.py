"""From stored numbers to a Series: marks what was not observed, adds the offsets and finds the clear observations."""

from __future__ import annotations

import numpy as np

from data_prep.archive.sensor import Quality, Sensor
from data_prep.readers.base import Series
from data_prep.readers.same_day import mosaicked

DARKEST = 0.002  # reflectance below which no land is in all bands and images


def unobserved_number(dtype: np.dtype, sensor: Sensor, origin: str) -> int:
    """The number that marks pixels stored as `dtype` as not observed. Raises ValueError when the type cannot hold it."""
    if not _holds(dtype, sensor.nodata):
        raise ValueError(
            f"{origin}: numbers are stored as {dtype}, which cannot hold the no-data number {sensor.nodata} of source "
            f"{sensor.name}; store them as {sensor.dtype}"
        )
    return sensor.nodata


def unobserved_code(dtype: np.dtype, quality: Quality, origin: str) -> int:
    """The code that marks pixels of a quality layer stored as `dtype` as not observed: its own, else one that is not clear."""
    limits = np.iinfo(dtype)
    for code in (quality.nodata, limits.max, limits.min):
        if _holds(dtype, code) and not quality.clear(np.array([code], dtype)).any():
            return int(code)
    raise ValueError(f"{origin}: quality codes are stored as {dtype}, which cannot hold {quality.nodata}, the code of no data")


def _holds(dtype: np.dtype, number: int) -> bool:
    if np.issubdtype(dtype, np.floating):
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= number <= limits.max)


def as_stored(pixels: np.ndarray, sensor: Sensor, origin: str) -> np.ndarray:
    """Stored numbers of any type in the type of the sensor: rounded, and no data where they are not finite or do not fit.

    Raises ValueError for floats that are reflectance: a model that learned it would map scenes of stored numbers to nonsense.
    """
    if np.can_cast(pixels.dtype, np.dtype(sensor.dtype), "safe"):
        return pixels.astype(sensor.dtype, copy=False)
    limits = np.iinfo(sensor.dtype)
    numbers = np.rint(pixels)
    fits = (numbers >= limits.min) & (numbers <= limits.max)  # not NaN
    if np.issubdtype(pixels.dtype, np.floating):
        known = np.isfinite(pixels) & (pixels != sensor.nodata) & (pixels != 0)
        largest = float(np.abs(pixels[known]).max(initial=0))
        if 0 < largest * sensor.scale < DARKEST:
            raise ValueError(
                f"{origin}: its largest number is {largest:g}, as of reflectance; expected numbers as the product stores them, "
                f"which are reflectance / {sensor.scale:g}"
            )
    return np.where(fits, numbers, sensor.nodata).astype(sensor.dtype)


def complete(pixels: np.ndarray, sensor: Sensor) -> np.ndarray:
    """True where an observation without a quality code counts as clear: pixels (T, C, H, W) -> bool (T, H, W).

    All its bands are observed and in the valid range, and not all are zero, with which files are filled where nothing was seen.
    """
    return sensor.observed(pixels) & pixels.any(axis=1)


def harmonised_series(
    pixels: np.ndarray, quality: np.ndarray | None, image_dates: np.ndarray, sensor: Sensor, offsets: np.ndarray
) -> Series:
    """Stored pixels (N, C, H, W) and quality codes (N, H, W) -> Series. Adds the offsets (N,) or (N, C) to the pixels in place.

    Observed numbers that the offset moves out of the valid range are clipped to it: dark pixels of Sentinel-2 from baseline
    04.00 on lie below 1000 and mean a reflectance of about zero. No data stays no data, and quality codes never change.
    Without quality codes (None) all observations that are `complete` as stored are clear, and the codes of the series are "not
    observed".
    Images of one day (equal `image_dates`, which ascend) become one by `mosaicked`.
    """
    pixels = pixels.astype(sensor.dtype, copy=False)
    frames, _, height, width = pixels.shape
    added = offsets.reshape(len(offsets), -1, 1, 1)
    valid = np.empty((frames, height, width), np.bool_)
    unknown = sensor.quality.nodata
    codes = np.full(valid.shape, unknown, np.min_scalar_type(unknown)) if quality is None else quality
    for time in range(frames):  # date by date, so that intermediate arrays stay small
        frame = pixels[time : time + 1]
        is_seen = frame.any(axis=1) if quality is None else None  # as stored: dark pixels may be clipped to zeros
        if added[time].all():
            add_offset(frame[0], added[time], sensor)
        elif added[time].any():
            some = np.flatnonzero(added[time])
            part = frame[0, some]
            add_offset(part, added[time, some], sensor)
            frame[0, some] = part
        clear = sensor.observed(frame) & is_seen if is_seen is not None else sensor.valid(frame, codes[time : time + 1])
        valid[time] = clear[0]
    if (image_dates[1:] == image_dates[:-1]).any():
        return mosaicked(pixels, codes, valid, image_dates, sensor)
    return Series(pixels=pixels, quality=codes, valid=valid, dates=image_dates)


def add_offset(frame: np.ndarray, added: np.ndarray, sensor: Sensor) -> None:
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
