"""From stored numbers to a Series: the type is checked, the additive offset removed, clear observations found."""

from __future__ import annotations

import numpy as np

from data_prep.sample import Series
from data_prep.sensors import Sensor


def stated_offset(offset: int | None, sensor: Sensor, origin: str) -> int:
    """The offset that the scene states, to be added to stored numbers.

    Raises ValueError when archives of the product differ in it and the scene is silent (it must be said, never guessed),
    and when they do not differ and the scene states one.
    """
    if sensor.offset_varies and offset is None:
        raise ValueError(
            f"{origin}: archives of {sensor.name} differ in an additive offset, so scene.yaml must state it: "
            "`offset: -1000` for Sentinel-2 from processing baseline 04.00 on, `offset: 0` before or when harmonised already"
        )
    if offset is not None and (isinstance(offset, bool) or not isinstance(offset, int)):
        raise ValueError(f"{origin}: offset is {offset!r}; expected a whole number that is added to the stored numbers")
    if offset and not sensor.offset_varies:
        raise ValueError(
            f"{origin}: offset {offset}, but source {sensor.name} has none; "
            "if its archives differ in it, its YAML needs offset_varies: true"
        )
    return offset or 0


def check_stored(dtype: np.dtype, nodata: float | None, sensor: Sensor, origin: str) -> None:
    """Raises ValueError unless stored numbers fit the sensor's type and the file's no-data value is the sensor's."""
    if not np.can_cast(dtype, np.dtype(sensor.dtype), "safe"):
        raise ValueError(
            f"{origin}: numbers are stored as {dtype}; source {sensor.name} has {sensor.dtype} as the product stores"
        )
    if nodata is not None and not np.isnan(nodata) and nodata != sensor.nodata:
        raise ValueError(f"{origin}: no data is {nodata:g} in the file, but {sensor.nodata} for source {sensor.name}")


def check_quality_type(dtype: np.dtype, origin: str) -> None:
    """Raises ValueError unless quality codes are integers."""
    if not np.issubdtype(dtype, np.integer):
        raise ValueError(f"{origin}: quality codes are stored as {dtype}; expected integers, never scaled or averaged")


def series(pixels: np.ndarray, quality: np.ndarray, dates: np.ndarray, sensor: Sensor, offset: int) -> Series:
    """Stored pixels (T, C, H, W) and quality codes (T, H, W) -> Series with the offset removed.

    Observed numbers that leave the product's valid range by the offset are clipped to it (dark pixels of Sentinel-2
    baseline 04.00 lie below 1000 and mean a reflectance of about zero); no data stays no data. Quality is never changed.
    """
    pixels = pixels.astype(sensor.dtype, copy=False)
    if offset:
        shifted = np.clip(pixels.astype(np.int64) + offset, *sensor.valid_range).astype(sensor.dtype)
        pixels = np.where(pixels == sensor.nodata, pixels, shifted)
    return Series(pixels=pixels, quality=quality, valid=sensor.valid(pixels, quality), dates=dates)
