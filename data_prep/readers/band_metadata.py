"""What files say of their bands in metadata, and whether it fits the sensor: names, common names and centre wavelengths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.archive.spectral_bands import COMMON_NAMES, band_text, contradicts

# Attributes of STAC (eo:common_name, center_wavelength), CF (radiation_wavelength), GDAL (CENTRAL_WAVELENGTH_UM) and ENVI.
_ATTRIBUTE = re.compile(
    r"(?:eo:)?(?:(?P<name>common_name)|(?:cent(?:er|re|ral)_|radiation_)?wavelength)s?(?:_(?:nm|um))?", re.IGNORECASE
)
_TEXTS = ("description", "long_name")  # free texts, which count where they are exactly a common name
_NUMBER = re.compile(r"\s*(\d+\.?\d*(?:e-?\d+)?)\s*[\w\u00b5]*\s*", re.IGNORECASE)


def band_positions(found: Sequence[str], sensor: Sensor, origin: str) -> list[int]:
    """Position of each band of the sensor among the bands `found` in the metadata of a file, in the order of the sensor.

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


def check_band(band: str, attributes: Mapping[str, Any], sensor: Sensor, origin: str) -> None:
    """Raises ValueError when the metadata of a file state a common name or a wavelength that the sensor's band does not have.

    `attributes`: metadata by name. What they do not state is not checked.
    """
    name: str | None = None
    wavelength: float | None = None
    for key, value in attributes.items():
        found = _ATTRIBUTE.fullmatch(key)
        if (found and found["name"]) or key.lower() in _TEXTS:
            text = str(value).strip().lower()
            name = text if text in COMMON_NAMES else name
        elif found:
            wavelength = _nanometres(value) or wavelength
    own_name, own_wavelength = sensor.common_names.get(band), sensor.wavelengths_nm.get(band)
    if contradicts(own_name, own_wavelength, name, wavelength):
        raise ValueError(
            f"{origin}: the file says that this band is {band_text(name, wavelength)}, but {band} of source {sensor.name} is "
            f"{band_text(own_name, own_wavelength)}; products use one name for different bands: give {sensor.name} the files "
            "of its own product, name the bands in scene.yaml, or describe the data as a sensor of its own"
        )


def check_stacked_bands(positions: Sequence[int], attributes: Mapping[str, Any], count: int, sensor: Sensor, origin: str) -> None:
    """`check_band` for bands along an axis of `count` bands: of `attributes`, those with a value for each band are looked at.

    `positions`: position of each band of the sensor on the axis.
    """
    lists = {key: np.ravel(v) for key, v in attributes.items() if not isinstance(v, str) and np.size(v) == count}
    for band, position in zip(sensor.bands, positions, strict=True):
        of_band = {key: values[position] for key, values in lists.items()}
        check_band(band, {key: v.decode() if isinstance(v, bytes) else v for key, v in of_band.items()}, sensor, origin)


def _nanometres(value: Any) -> float | None:
    """A wavelength of light in nanometres, stated in nanometres, micrometres or metres: its size tells which. Else None."""
    match = _NUMBER.fullmatch(str(value))
    if match is None:
        return None
    number = float(match[1])
    return next((number * factor for factor in (1.0, 1e3, 1e9) if 200 <= number * factor <= 20_000), None)
