"""Streaming statistics against numpy on the whole."""

from __future__ import annotations

import json
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards.band_statistics import BandStatistics, statistics_from_dict


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
