"""Division of a stream of samples into shards of about equal size that end where blocks end, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# How far, as a share of a shard, its end may move to fall between two blocks. Below a half, so that shards never swap ends.
SLACK = 0.25


@dataclass(frozen=True, slots=True)
class Span:
    """A shard to be: its first sample within the stream, how many samples, and their bytes."""

    first: int
    samples: int
    bytes: int


def divide(batches: Iterable[tuple[np.ndarray, np.ndarray]], total_bytes: int, shard_bytes: float) -> Iterator[Span]:
    """Shards of a stream of samples, in order; their number is the least that keeps them to `shard_bytes` on average.

    A batch is (sizes, blocks): int64 (n,) bytes of each sample, and the number of its block, which never decreases over the
    whole stream and is the same for samples that are read together. Their sizes sum to `total_bytes`. A shard ends at the
    end of a block where one lies within SLACK of a shard from where it should end, else within a block.
    """
    count = int(np.ceil(total_bytes / shard_bytes))
    targets = np.arange(1, count) * (total_bytes / count)
    slack = SLACK * total_bytes / max(count, 1)
    first = last_cut = row = done = 0
    for sizes, blocks in _whole_blocks(batches):
        ends = done + np.cumsum(sizes)
        block_ends = np.concatenate([[done], ends[np.flatnonzero(np.diff(blocks, append=blocks[-1] + 1))]])
        for target in targets[np.searchsorted(targets, done, "right") : np.searchsorted(targets, ends[-1], "right")]:
            after = int(np.searchsorted(block_ends, target))
            near = min(block_ends[max(after - 1, 0)], block_ends[after], key=lambda end: abs(end - target))
            cut = int(near if abs(near - target) <= slack else ends[np.searchsorted(ends, target)])
            if last_cut < cut < total_bytes:
                end = row + int(np.searchsorted(ends, cut, "right"))
                yield Span(first, end - first, cut - last_cut)
                first, last_cut = end, cut
        row += len(sizes)
        done = int(ends[-1])
    if row > first:
        yield Span(first, row - first, done - last_cut)


def _whole_blocks(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same samples in batches that end where a block ends."""
    sizes, blocks = np.empty(0, np.int64), np.empty(0, np.int64)
    for more_sizes, more_blocks in batches:
        sizes, blocks = np.concatenate([sizes, more_sizes]), np.concatenate([blocks, more_blocks])
        whole = int(np.searchsorted(blocks, blocks[-1])) if len(blocks) else 0
        if whole:
            yield sizes[:whole], blocks[:whole]
        sizes, blocks = sizes[whole:], blocks[whole:]
    if len(sizes):
        yield sizes, blocks
