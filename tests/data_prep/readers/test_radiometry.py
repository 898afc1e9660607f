"""Harmonised offsets."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from data_prep.archive.sensor import load_sensors
from data_prep.readers.radiometry import as_stored, harmonised_series
from tests.support.archives import days

SENSOR = load_sensors()["sentinel2"]


def test_an_offset_takes_no_more_memory_than_a_date() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 3_000, (40, 10, 64, 64)).astype(np.uint16)
    offsets = np.where(np.arange(40) < 20, 0, -1000)
    expected = np.where((pixels == 0) | (offsets == 0)[:, None, None, None], pixels, np.maximum(pixels.astype(int) - 1000, 1))
    expected[20:][pixels[20:] == 0] = 0
    tracemalloc.start()
    found = harmonised_series(pixels, np.full((40, 64, 64), 4, np.uint8), days(2021, 40), SENSOR, offsets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < pixels.nbytes / 2
    np.testing.assert_array_equal(found.pixels, expected)
    np.testing.assert_array_equal(found.valid, (expected != 0).all(axis=1))


def test_zeros_in_all_bands_are_no_observation_without_quality_codes() -> None:
    landsat = load_sensors()["landsat"]  # whose valid range holds 0
    pixels = np.full((2, 6, 8, 8), 500, np.int16)
    pixels[0, :, 2, 3] = 0
    pixels[1, :5, 2, 3] = 0
    offsets = np.zeros(2, int)
    found = harmonised_series(pixels, None, days(2021, 2), landsat, offsets)
    assert np.argwhere(~found.valid).tolist() == [[0, 2, 3]]
    assert harmonised_series(pixels, np.full((2, 8, 8), 64, np.uint8), days(2021, 2), landsat, offsets).valid.all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_stored_numbers_of_another_type(dtype: type) -> None:
    numbers = np.array([0, 1, 2500, 65_535, 65_536, -3, 100_000]).astype(dtype)
    assert as_stored(numbers, SENSOR, "a").tolist() == [0, 1, 2500, 65_535, 0, 0, 0]
    if dtype(0.5):
        assert as_stored(np.array([1.4, 2500.5, np.nan, np.inf, -np.inf], dtype), SENSOR, "a").tolist() == [1, 2500, 0, 0, 0]
        with pytest.raises(ValueError, match=r"a: its largest number is 0\.7, as of reflectance"):
            as_stored(np.array([0.1, 0.7, np.nan, 0], dtype), SENSOR, "a")
