"""Streaming statistics against numpy on the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.normalization import BandStatistics, statistics_from_dict


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int16", "uint16"]),
    frames=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    clear=st.sampled_from([0.02, 0.5, 1.0]),
    spread=st.sampled_from([3, 60_000]),
)
def test_merged_samples_equal_numpy_on_the_whole(seed: int, dtype: str, frames: list[int], clear: float, spread: int) -> None:
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max  # a small spread at the top of the range is where naive sums of squares cancel
    samples = []
    for count in frames:
        pixels = rng.integers(max(np.iinfo(dtype).min, top - spread), top, (count, 3, 5, 4), dtype=dtype, endpoint=True)
        samples.append((pixels, rng.random((count, 5, 4)) < clear))
    parts = [BandStatistics.of_pixels(pixels, valid) for pixels, valid in samples]
    left = sum(parts, BandStatistics.empty(3))
    half = len(parts) // 2
    tree = sum(parts[:half], BandStatistics.empty(3)) + sum(parts[half:], BandStatistics.empty(3))
    values = np.concatenate([np.moveaxis(p, 1, 0)[:, v] for p, v in samples], axis=1).astype(np.longdouble)
    for statistics in (left, tree):
        assert statistics.count.tolist() == [values.shape[1]] * 3
        if values.shape[1]:
            np.testing.assert_allclose(statistics.mean, values.mean(axis=1).astype(float), rtol=1e-12)
            np.testing.assert_allclose(statistics.std, values.std(axis=1).astype(float), rtol=1e-6, atol=1e-9)
    assert left.is_close(tree)


def test_json_keeps_every_digit() -> None:
    rng = np.random.default_rng(0)
    statistics = BandStatistics.of_pixels(rng.integers(0, 9, (2, 3, 4, 4), dtype=np.int16), np.ones((2, 4, 4), bool))
    back = statistics_from_dict(json.loads(json.dumps(statistics.to_dict())))
    for name in ("count", "mean", "m2"):
        np.testing.assert_array_equal(getattr(back, name), getattr(statistics, name))


def test_nothing_valid_is_neutral() -> None:
    pixels = np.full((2, 3, 4, 4), 7, np.int16)
    some = BandStatistics.of_pixels(pixels, np.ones((2, 4, 4), bool))
    none = BandStatistics.of_pixels(pixels, np.zeros((2, 4, 4), bool))
    for merged in (some + none, none + some):
        np.testing.assert_array_equal(merged.mean, [7, 7, 7])
        np.testing.assert_array_equal(merged.m2, [0, 0, 0])
    assert (none + none).std.tolist() == [0, 0, 0]


def test_is_close_sees_a_changed_mean() -> None:
    statistics = BandStatistics(np.array([5]), np.array([100.0]), np.array([3.0]))
    assert not statistics.is_close(BandStatistics(np.array([5]), np.array([100.001]), np.array([3.0])))
    with pytest.raises(AttributeError):
        statistics.mean = np.zeros(1)  # type: ignore[misc]
