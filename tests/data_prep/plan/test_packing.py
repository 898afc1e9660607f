"""Packing of samples into shards against a plain loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.plan.packing import SLACK, divide


def divided_plainly(sizes: list[int], group_of: list[int], shard_bytes: float) -> list[int]:
    """Return where shards end, sample by sample, as the docstring of `divide` says."""
    ends = np.cumsum(sizes).tolist()
    total = ends[-1]
    count = -(-total // int(shard_bytes))
    group_ends = [0] + [end for n, end in enumerate(ends) if n + 1 == len(ends) or group_of[n] != group_of[n + 1]]
    cuts = []
    for target in (total / count * n for n in range(1, count)):
        near = min(group_ends, key=lambda end: abs(end - target))
        if abs(near - target) > SLACK * total / count:
            near = next(end for end in ends if end >= target)
        if 0 < near < total and near > (cuts or [0])[-1]:
            cuts.append(near)
    return [*cuts, total]


@given(data=st.data(), shard_bytes=st.integers(50, 3_000))
@settings(max_examples=200, deadline=None)
def test_division_equals_a_plain_loop_whatever_the_batches(data: st.DataObject, shard_bytes: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=1, max_size=60))
    steps = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    group_of = np.cumsum(steps)
    edges = sorted(data.draw(st.sets(st.integers(1, len(sizes)), max_size=5)))
    parts = zip(np.split(np.array(sizes), edges), np.split(group_of, edges), strict=True)
    spans = list(divide((part for part in parts if len(part[0])), sum(sizes), shard_bytes))
    assert np.cumsum([span.bytes for span in spans]).tolist() == divided_plainly(sizes, group_of.tolist(), shard_bytes)
    assert [span.first for span in spans] == [0, *np.cumsum([span.samples for span in spans])[:-1].tolist()]
    assert sum(span.samples for span in spans) == len(sizes)
    assert all(span.bytes == sum(sizes[span.first : span.first + span.samples]) for span in spans)
