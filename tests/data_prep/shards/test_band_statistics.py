"""Streaming statistics against numpy on the whole."""

from __future__ import annotations

import json
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.archive.sensor import load_sensors
from data_prep.shards.band_statistics import (
    SNOW,
    BandStatistics,
    ShardStatistics,
    robust_normalization,
    statistics_from_dict,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int16", "uint16", "uint8", "int32", "uint32"]),
    frames=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    clear=st.sampled_from([0.02, 0.5, 1.0]),
    spread=st.sampled_from([3, 60_000]),
    end=st.sampled_from(["min", "max"]),
)
def test_merged_samples_equal_numpy_on_the_whole(
    seed: int, dtype: str, frames: list[int], shape: tuple[int, int, int], clear: float, spread: int, end: str
) -> None:
    rng = np.random.default_rng(seed)
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    spread = min(spread, highest - lowest)  # a small spread at an end of the range is where naive sums of squares cancel
    low = lowest if end == "min" else highest - spread
    bands, height, width = shape
    samples = []
    for count in frames:
        pixels = rng.integers(low, low + spread, (count, bands, height, width), dtype=dtype, endpoint=True)
        samples.append((pixels, rng.random((count, height, width)) < clear))
    parts = [BandStatistics.of_pixels(pixels, valid) for pixels, valid in samples]
    left = reduce(add, parts, BandStatistics.empty(bands))
    shuffled = reduce(add, [parts[i] for i in rng.permutation(len(parts))])
    half = len(parts) // 2
    tree = reduce(add, parts[:half], BandStatistics.empty(bands)) + reduce(add, parts[half:])
    assert left == shuffled == tree
    values = np.concatenate([np.moveaxis(p, 1, 0)[:, v] for p, v in samples], axis=1).astype(np.longdouble)
    assert left.count == (values.shape[1],) * bands
    if values.shape[1]:
        np.testing.assert_allclose(left.mean, values.mean(axis=1).astype(float), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(left.std, values.std(axis=1).astype(float), rtol=1e-9, atol=1e-9)
    else:
        assert left.mean.tolist() == left.std.tolist() == [0] * bands


def test_the_largest_numbers_of_a_large_frame_are_summed_exactly() -> None:
    pixels = np.full((1, 1, 2048, 1024), 65_535, np.uint16)
    pixels[0, 0, 0, 0] = 65_534
    statistics = BandStatistics.of_pixels(pixels, np.ones((1, 2048, 1024), bool))
    assert statistics.squares == ((2**21 - 1) * 65_535**2 + 65_534**2,)
    assert statistics.std[0] == pytest.approx(np.sqrt((2**21 - 1) / 2**42), rel=1e-12)


def test_twenty_five_million_merges_lose_nothing() -> None:
    """Doubling 25 times merges 2^25 = 33.5 million samples; an outlier among them still shows to the last digit."""
    sample = BandStatistics((16_384,), (16_384 * 60_000,), (16_384 * 60_000**2,))
    merged = sample
    for _ in range(25):
        merged = merged + merged
    merged = merged + BandStatistics((1,), (60_001,), (60_001**2,))
    count = 16_384 * 2**25 + 1
    assert merged.count == (count,)
    assert merged.mean[0] == pytest.approx(60_000 + 1 / count, rel=1e-15)
    assert merged.std[0] == pytest.approx(np.sqrt(count - 1) / count, rel=1e-12)


def test_json_keeps_every_digit() -> None:
    statistics = BandStatistics((2**80, 1), (2**90 + 1, 0), (3**70, 0))
    assert statistics_from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics


def test_nothing_valid_is_neutral() -> None:
    pixels = np.full((2, 3, 4, 4), 7, np.int16)
    some = BandStatistics.of_pixels(pixels, np.ones((2, 4, 4), bool))
    none = BandStatistics.of_pixels(pixels, np.zeros((2, 4, 4), bool))
    assert some + none == none + some == some
    assert some.mean.tolist() == [7, 7, 7]
    assert some.std.tolist() == none.std.tolist() == [0, 0, 0]


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="float32; statistics are over integers"):
        BandStatistics.of_pixels(np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1), bool))


@pytest.mark.parametrize("source", ["sentinel2", "landsat", "modis"])
def test_statistics_without_snow_are_those_of_numpy(source: str) -> None:
    sensor, rng = load_sensors()[source], np.random.default_rng(3)
    visible = [sensor.bands.index(band) for band in sensor.rgb]
    shard = ShardStatistics(sensor, keeps_snow_apart=True)
    kept = []
    for _ in range(3):
        pixels = rng.integers(100, 2900, (5, len(sensor.bands), 6, 7)).astype(sensor.dtype)
        snow, valid = rng.random((5, 6, 7)) < 0.3, rng.random((5, 6, 7)) < 0.7
        snow[:2] = False  # most images have none
        for band in visible:
            pixels[:, band][snow] = rng.integers(3001, 9000)
        pixels[4, visible[0], 0, 0] = 9000  # a band alone is no snow
        snow[4, 0, 0] = False
        pixels[4, visible[1:], 0, 0] = 3000
        shard.add(pixels, valid)
        kept.append(pixels.transpose(1, 0, 2, 3)[:, valid & ~snow].astype(float))
    values = np.concatenate(kept, axis=1)
    mean, std = values.mean(axis=1), values.std(axis=1)
    index = json.loads(json.dumps(shard.to_dict()))
    found = robust_normalization(*(statistics_from_dict(index[name]) for name in ("statistics", SNOW)))
    for name, expected in (("mean", mean), ("std", std), ("low", mean - 4 * std), ("high", mean + 4 * std)):
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, err_msg=name)


def test_where_nearly_all_is_white_it_counts() -> None:
    sensor = load_sensors()["modis"]
    pixels = np.full((10, 7, 2, 2), 8000, np.int16)
    pixels[0] = 500
    valid = np.ones((10, 2, 2), dtype=bool)
    everything = BandStatistics.of_pixels(pixels, valid)
    white = BandStatistics.of_pixels(pixels, sensor.white(pixels))
    assert (everything - white) == BandStatistics.of_pixels(pixels[:1], valid[:1])
    assert robust_normalization(everything, white)["mean"] == pytest.approx([7250.0] * 7)
    assert "statistics_of_snow" not in ShardStatistics(sensor, keeps_snow_apart=False).to_dict()
