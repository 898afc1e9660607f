"""Packing of a stream of samples into shards of about equal size, which end between chunk groups where possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# How far the end of a shard may move to fall between two chunk groups, as a share of a shard. Below a half, so that ends keep
# their order.
SLACK = 0.25


@dataclass(frozen=True, slots=True)
class Span:
    """The samples of one shard: the first one's position in the stream, their number, and their bytes."""

    first: int
    samples: int
    bytes: int


def divide(batches: Iterable[tuple[np.ndarray, np.ndarray]], total_bytes: int, shard_bytes: float) -> Iterator[Span]:
    """Divide a stream of samples into shards; yield them in order.

    The number of shards is the least that keeps them to `shard_bytes` on average. A shard ends at the end of a chunk group where
    one lies within SLACK of a shard from the ideal end, else within a chunk group.

    Args:
        batches: pairs (sizes, groups) of int64 (n,): bytes of each sample, and the number of its chunk group, which is the same
            for samples that are read together and never decreases over the whole stream.
        total_bytes: sum of all sizes.
        shard_bytes: largest mean size of a shard.
    """
    count = int(np.ceil(total_bytes / shard_bytes))
    targets = np.arange(1, count) * (total_bytes / count)
    slack = SLACK * total_bytes / max(count, 1)
    first = last_cut = row = done = 0
    for sizes, groups in _whole_groups(batches):
        ends = done + np.cumsum(sizes)
        group_ends = np.concatenate([[done], ends[np.flatnonzero(np.diff(groups, append=groups[-1] + 1))]])
        for target in targets[np.searchsorted(targets, done, "right") : np.searchsorted(targets, ends[-1], "right")]:
            after = int(np.searchsorted(group_ends, target))
            near = min(group_ends[max(after - 1, 0)], group_ends[after], key=lambda end: abs(end - target))
            cut = int(near if abs(near - target) <= slack else ends[np.searchsorted(ends, target)])
            if last_cut < cut < total_bytes:
                end = row + int(np.searchsorted(ends, cut, "right"))
                yield Span(first, end - first, cut - last_cut)
                first, last_cut = end, cut
        row += len(sizes)
        done = int(ends[-1])
    if row > first:
        yield Span(first, row - first, done - last_cut)


def _whole_groups(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the same samples in batches that end where a chunk group ends."""
    sizes, groups = np.empty(0, np.int64), np.empty(0, np.int64)
    for more_sizes, more_groups in batches:
        sizes, groups = np.concatenate([sizes, more_sizes]), np.concatenate([groups, more_groups])
        whole = int(np.searchsorted(groups, groups[-1])) if len(groups) else 0
        if whole:
            yield sizes[:whole], groups[:whole]
        sizes, groups = sizes[whole:], groups[whole:]
    if len(sizes):
        yield sizes, groups
