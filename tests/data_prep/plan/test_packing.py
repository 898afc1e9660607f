"""Packing of samples into sweeps and shards against plain loops."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.plan.packing import divide, sweep_numbers


def divided_plainly(sizes: list[int], sweeps: list[int], shard_bytes: float) -> list[tuple[int, int]]:
    """Return (bytes, sweep) of each shard, sample by sample, as the docstring of `divide` says."""
    found = []
    for sweep in sorted(set(sweeps)):
        of_sweep = [size for size, other in zip(sizes, sweeps, strict=True) if other == sweep]
        count, total = math.ceil(sum(of_sweep) / shard_bytes), sum(of_sweep)
        held = done = shards = 0
        for size in of_sweep:
            held, done = held + size, done + size
            if done >= total / count * (shards + 1) - 0.5:
                found.append((held, sweep))
                held = 0
                while done >= total / count * (shards + 1) - 0.5:  # a sample larger than a shard
                    shards += 1
    return found


@given(data=st.data(), shard_bytes=st.integers(50, 3_000))
@settings(max_examples=200, deadline=None)
def test_division_equals_a_plain_loop_whatever_the_batches(data: st.DataObject, shard_bytes: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=1, max_size=60))
    steps = data.draw(st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes)))
    sweeps = np.cumsum(np.array(steps) // 2)
    edges = sorted(data.draw(st.sets(st.integers(1, len(sizes)), max_size=5)))
    parts = zip(np.split(np.array(sizes), edges), np.split(sweeps, edges), strict=True)
    spans = list(divide((part for part in parts if len(part[0])), shard_bytes))
    assert [(span.bytes, span.sweep) for span in spans] == divided_plainly(sizes, sweeps.tolist(), shard_bytes)
    assert [span.first for span in spans] == [0, *np.cumsum([span.samples for span in spans])[:-1].tolist()]
    assert sum(span.samples for span in spans) == len(sizes)
    assert all(span.bytes == sum(sizes[span.first : span.first + span.samples]) for span in spans)


def test_a_sweep_is_whole_chunk_groups_of_about_equal_bytes() -> None:
    rng = np.random.default_rng(0)
    group_bytes = rng.integers(1, 100, 1000)
    sweeps = sweep_numbers(group_bytes, 0, 500.0)
    of_sweep = np.bincount(sweeps, group_bytes)
    assert (np.diff(sweeps) >= 0).all()
    assert (np.abs(of_sweep[:-1] - 500) < 100).all()  # off by less than a chunk group
    halves = [sweep_numbers(group_bytes[:300], 0, 500.0), sweep_numbers(group_bytes[300:], int(group_bytes[:300].sum()), 500.0)]
    np.testing.assert_array_equal(np.concatenate(halves), sweeps)  # series by series, as the planner adds them
    assert sweep_numbers(np.array([900, 900, 900]), 0, 500.0).tolist() == [0, 1, 3]
