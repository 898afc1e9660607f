"""Sensors: what tells their bands apart, and what is refused in their YAML."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from data_prep.archive.sensor import load_sensors, sensor_from_dict
from data_prep.archive.spectral_bands import COMMON_NAMES, contradicts

SENSORS = load_sensors()
# Centres of Sentinel-2 bands in nanometres as catalogues and ESA's older documents have them, beside those of the YAML.
STATED = {
    "B02": (490, 496.6),
    "B08": (842, 834),
    "B05": (705,),
    "B07": (783, 779.7),
    "B8A": (865,),
    "B11": (1610,),
    "B12": (2190, 2185.7),
}


@pytest.mark.parametrize("source", SENSORS)
def test_no_two_bands_of_a_sensor_are_taken_for_one(source: str) -> None:
    sensor = SENSORS[source]
    assert set(sensor.wavelengths_nm) == set(sensor.bands)
    for one, other in combinations(sensor.bands, 2):
        assert contradicts(None, sensor.wavelengths_nm[one], None, sensor.wavelengths_nm[other]), (one, other)
    for band, name in sensor.common_names.items():
        low, high = COMMON_NAMES[name]
        assert low <= sensor.wavelengths_nm[band] <= high


@pytest.mark.parametrize("source", ["sentinel2", "hls_s30"])
def test_other_statements_of_the_same_band_agree(source: str) -> None:
    sensor = SENSORS[source]
    for band, wavelengths in STATED.items():
        for wavelength in wavelengths:
            assert not contradicts(sensor.common_names[band], sensor.wavelengths_nm[band], None, wavelength), (band, wavelength)


def test_a_name_alone_contradicts_where_its_range_is_another() -> None:
    assert contradicts("nir08", 865, "rededge071", None)
    assert contradicts("nir08", None, "rededge071", None)
    assert not contradicts("nir08", 865, "nir", None)
    assert not contradicts("nir08", None, "nir", None)
    assert not contradicts(None, None, "nir", 833)
    assert not contradicts("nir08", 865, None, None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("common_names", {"B02": "blau"}, "band B02 has the common name 'blau'; the STAC EO extension knows pan, coastal"),
        ("common_names", {"b2": "blue"}, r"common_names is {'b2': 'blue'}; expected a mapping of its bands \['B02'"),
        ("common_names", ["blue"], "expected a mapping of its bands"),
        ("wavelengths_nm", {"B02": 0.482}, "band B02 has the wavelength 0.482; expected its centre in nanometres"),
        ("wavelengths_nm", {"B02": "482"}, "band B02 has the wavelength '482'"),
        ("wavelengths_nm", {"B05": 704}, "band B05 is nir08, but its wavelength is 704 nm"),
        ("products", "HLS.L30", "products is 'HLS.L30'; expected a list of names"),
    ],
)
def test_mistakes_in_a_yaml_are_named(key: str, value: Any, message: str) -> None:
    values = SENSORS["landsat"].to_dict()
    with pytest.raises(ValueError, match=message):
        sensor_from_dict({**values, key: value}, "landsat.yaml")


def test_keys_that_tell_bands_apart_are_optional_and_change_no_corpus() -> None:
    sensor = SENSORS["landsat"]
    values = sensor.to_dict()
    assert sensor_from_dict(values) == sensor
    earlier = {key: value for key, value in values.items() if key not in ("common_names", "wavelengths_nm", "products")}
    assert sensor_from_dict(earlier) == sensor  # so a corpus that an earlier version began is resumed
