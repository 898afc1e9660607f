"""The series of one pixel: reflectance and NDVI of each source by date, and whether the observation was clear."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.base import SeriesReader

DIGITS = 5  # reflectance is shown with, more than any product has
RED, NEAR_INFRARED = ("red",), ("nir", "nir08")  # common names, the preferred one first


def pixel_series(reader: SeriesReader, times: np.ndarray, lon: float, lat: float) -> dict[str, Any] | None:
    """The series of the source's pixel at a place in degrees, as plain values; None outside of the source.

    Keys: "source", "title", "row", "col", "bands", "dates", "clear", "observed", "reflectance" (one list per date, null where
    not observed) and "ndvi" (one number per date, null where it is not defined; null for a sensor whose red and near-infrared
    bands are not known).
    """
    sensor = reader.sensor
    cols, rows = reader.grid.pixels_at(np.array([lon]), np.array([lat]))
    if not np.isfinite([*rows, *cols]).all():
        return None
    row, col = int(np.floor(rows[0])), int(np.floor(cols[0]))
    if not (0 <= row < reader.grid.height and 0 <= col < reader.grid.width):
        return None
    series = reader.read(row, col, 1, 1, times)
    observed = sensor.observed(series.pixels)[:, 0, 0]
    reflectance = series.pixels[:, :, 0, 0].astype(np.float64) * sensor.scale
    return {
        "source": sensor.name,
        "title": sensor.title,
        "row": row,
        "col": col,
        "bands": list(sensor.bands),
        "dates": [str(date) for date in series.dates],
        "clear": series.valid[:, 0, 0].tolist(),
        "observed": observed.tolist(),
        "reflectance": [
            np.round(one, DIGITS).tolist() if seen else None for one, seen in zip(reflectance, observed, strict=True)
        ],
        "ndvi": _ndvi(reflectance, observed, sensor),
    }


def _ndvi(reflectance: np.ndarray, observed: np.ndarray, sensor: Sensor) -> list[float | None] | None:
    """(near infrared - red) / (near infrared + red) by date (T,) of reflectance (T, C); None for bands that are not known."""
    red, near_infrared = band_named(sensor, RED), band_named(sensor, NEAR_INFRARED)
    if red is None or near_infrared is None:
        return None
    one, other = reflectance[:, near_infrared], reflectance[:, red]
    total = one + other
    defined = observed & (total > 0)
    values = np.divide(one - other, total, out=np.zeros_like(total), where=defined)
    return [round(float(value), DIGITS) if known else None for value, known in zip(values, defined, strict=True)]


def band_named(sensor: Sensor, names: tuple[str, ...]) -> int | None:
    """The index of the sensor's band with the first of these common names that a band has; None when none has one."""
    by_name = {name: sensor.bands.index(band) for band, name in sensor.common_names.items()}
    return next((by_name[name] for name in names if name in by_name), None)
