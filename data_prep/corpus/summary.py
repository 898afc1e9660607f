"""Summaries of shard indexes, and of all shards of one source and split together.

The process that reads an index keeps its summary only, because the indexes of 25 million samples would not fit in memory. All
sums are integers, so that summaries can be merged in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.storage import AnyPath
from data_prep.archive.scene import SPLITS
from data_prep.shards.band_statistics import SNOW, BandStatistics, statistics_from_dict
from data_prep.shards.shard_index import read_index
from data_prep.shards.tar_format import LAND_COVER_MAP

_SHARE_BITS = 60  # a share of one still fits in an int64


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """Summary of one shard index, or of several of one source and split (see `merged`).

    Attributes:
        source, split, bytes: as in the index.
        samples: number of samples.
        frames: number of samples by their number of frames.
        key_bytes: bytes of the longest key.
        days: first and last day of all samples since 1970-01-01, or None without samples.
        land_cover: sums of the fine land-cover counts, int64 (codes,), by legend.
        shares: sums of the samples' shares of the fine codes in units of 2^-60, Python integers (codes,), by legend.
        counted: number of samples by legend.
        statistics: band statistics of the valid pixels.
        snow: band statistics of those valid pixels that are as bright as snow; None for shards of earlier versions.
        rejected: number of rejected samples by (reason, True for samples that could not be read).
        has_maps: True when the samples hold a land-cover map.
    """

    source: str
    split: str
    bytes: int
    samples: int
    frames: Counter[int]
    key_bytes: int
    days: tuple[int, int] | None
    land_cover: Mapping[str, np.ndarray]
    shares: Mapping[str, np.ndarray]
    counted: Counter[str]
    statistics: BandStatistics
    snow: BandStatistics | None
    rejected: Counter[tuple[str, bool]]
    has_maps: bool

    @property
    def failed(self) -> int:
        """Number of samples that could not be read."""
        return sum(count for (_, failed), count in self.rejected.items() if failed)

    @property
    def total_frames(self) -> int:
        return sum(length * count for length, count in self.frames.items())

    def mean_shares(self) -> dict[str, list[float]]:
        """Return the mean share of each fine code over the samples, by legend."""
        return {name: [total / (self.counted[name] << _SHARE_BITS) for total in sums] for name, sums in self.shares.items()}

    def valid_share(self, chip_px: int) -> float:
        """Return the share of valid pixels in all frames, for samples of `chip_px` x `chip_px` pixels."""
        return self.statistics.count[0] / max(1, self.total_frames * chip_px**2)


def summarise(index: Mapping[str, Any]) -> ShardSummary:
    """Summarise one shard index."""
    samples = index["samples"]
    by_legend: dict[str, list[list[int]]] = {}
    for legend, land_cover in zip(samples["legend"], samples["land_cover"], strict=True):
        by_legend.setdefault(legend, []).append(land_cover)
    counts = {legend: np.array(rows, dtype=np.int64) for legend, rows in by_legend.items()}
    days = [day for ends in samples["days"] for day in ends]
    return ShardSummary(
        **{name: index[name] for name in ("source", "split", "bytes")},
        samples=len(samples["key"]),
        frames=Counter(samples["frames"]),
        key_bytes=max((len(key.encode()) for key in samples["key"]), default=0),
        days=(min(days), max(days)) if days else None,
        land_cover={legend: rows.sum(axis=0) for legend, rows in counts.items()},
        shares={legend: _shares(rows).sum(axis=0) for legend, rows in counts.items()},
        counted=Counter({legend: len(rows) for legend, rows in counts.items()}),
        statistics=statistics_from_dict(index["statistics"]),
        snow=statistics_from_dict(index[SNOW]) if SNOW in index else None,
        rejected=Counter((row["reason"], row["failed"]) for row in index["rejected"]),
        has_maps=LAND_COVER_MAP in samples["members"],
    )


def read_summary(index: AnyPath) -> ShardSummary:
    """Read and summarise one shard index."""
    return summarise(read_index(index))


def _shares(counts: np.ndarray) -> np.ndarray:
    """Shares of counts (N, codes) in each row, Python integers."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.rint(np.ldexp(shares, _SHARE_BITS)).astype(np.int64).astype(object)


def merged(summaries: Sequence[ShardSummary]) -> ShardSummary:
    """Merge at least one summary of one source and split into one."""
    first = summaries[0]
    days = [day for summary in summaries if summary.days is not None for day in summary.days]
    return ShardSummary(
        source=first.source,
        split=first.split,
        bytes=sum(summary.bytes for summary in summaries),
        samples=sum(summary.samples for summary in summaries),
        frames=sum((summary.frames for summary in summaries), Counter()),
        key_bytes=max(summary.key_bytes for summary in summaries),
        days=(min(days), max(days)) if days else None,
        land_cover=_summed([summary.land_cover for summary in summaries]),
        shares=_summed([summary.shares for summary in summaries]),
        counted=sum((summary.counted for summary in summaries), Counter()),
        statistics=sum((summary.statistics for summary in summaries[1:]), first.statistics),
        snow=None if first.snow is None else sum((s.snow for s in summaries[1:] if s.snow is not None), first.snow),
        rejected=sum((summary.rejected for summary in summaries), Counter()),
        has_maps=any(summary.has_maps for summary in summaries),
    )


def _summed(of_each: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Sum arrays by name, in the order of names."""
    names = sorted({name for one in of_each for name in one})
    return {name: np.sum([one[name] for one in of_each if name in one], axis=0) for name in names}


def by_source_and_split(summaries: Iterable[ShardSummary]) -> dict[tuple[str, str], ShardSummary]:
    """Merge summaries by source and split; sources are in the order of names, splits in their usual order."""
    groups: dict[tuple[str, str], ShardSummary] = {}
    for summary in summaries:
        name = summary.source, summary.split
        groups[name] = merged([groups[name], summary]) if name in groups else summary
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], SPLITS.index(item[0][1]))))
