"""Packing of a stream of samples into sweeps, and of the samples of each sweep into shards of about equal size.

A sweep is what one worker reads in one go: a run of whole chunk groups, so that each stored chunk is decoded once, and the shards
that it fills, of one split or of several. No shard belongs to two sweeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Shards of a sweep, on average. Many: a split with a tenth of the samples still fills whole shards. Few: a worker that dies loses
# little, and many workers have equal work.
SWEEP_SHARDS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """The samples of one shard: the first one's position in the stream, their number, their bytes, and their sweep."""

    first: int
    samples: int
    bytes: int
    sweep: int


def sweep_numbers(group_bytes: np.ndarray, before: int, sweep_bytes: float) -> np.ndarray:
    """Return the sweep of each chunk group of a stream, int64 (n,), which never decreases.

    A sweep has `sweep_bytes` on average; chunk groups that are larger have one each, and then some numbers are left out.

    Args:
        group_bytes: bytes of the samples of each chunk group, int64 (n,).
        before: bytes of the chunk groups that come before these in the stream.
    """
    begins = before + np.cumsum(group_bytes) - group_bytes
    return np.asarray(begins // sweep_bytes, dtype=np.int64)


def divide(batches: Iterable[tuple[np.ndarray, np.ndarray]], shard_bytes: float) -> Iterator[Span]:
    """Divide a stream of samples into shards; yield them in order.

    The number of shards of a sweep is the least that keeps them to `shard_bytes` on average. A shard ends with the sample in
    which its ideal end lies.

    Args:
        batches: pairs (sizes, sweeps) of int64 (n,): bytes of each sample, and its sweep, which never decreases over the stream.
        shard_bytes: largest mean size of a shard.
    """
    row = 0
    for sizes, sweep in _whole_sweeps(batches):
        ends = np.cumsum(sizes)
        total = int(ends[-1])
        count = int(np.ceil(total / shard_bytes))
        targets = np.arange(1, count + 1) * (total / count)
        stops = np.unique(np.minimum(np.searchsorted(ends, targets - 0.5) + 1, len(sizes)))
        first, done = 0, 0
        for stop in stops.tolist():
            yield Span(row + first, stop - first, int(ends[stop - 1]) - done, sweep)
            first, done = stop, int(ends[stop - 1])
        row += len(sizes)


def _whole_sweeps(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the sizes of the samples of each sweep, and its number."""
    sizes, sweeps = np.empty(0, np.int64), np.empty(0, np.int64)
    for more_sizes, more_sweeps in batches:
        sizes, sweeps = np.concatenate([sizes, more_sizes]), np.concatenate([sweeps, more_sweeps])
        begins = [0, *(np.flatnonzero(np.diff(sweeps)) + 1).tolist()]
        for first, stop in pairwise(begins):
            yield sizes[first:stop], int(sweeps[first])
        sizes, sweeps = sizes[begins[-1] :], sweeps[begins[-1] :]
    if len(sizes):
        yield sizes, int(sweeps[0])
