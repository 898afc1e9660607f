"""Harmonised offsets."""

from __future__ import annotations

import tracemalloc

import numpy as np

from data_prep.archive.sensor import load_sensors
from data_prep.readers.radiometry import harmonised_series
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
