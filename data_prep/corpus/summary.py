"""Summaries of shard indexes, and of all shards of one source and split together.

The process that reads an index keeps its summary only, because the indexes of 25 million samples would not fit in memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.json_files import read_json
from common.storage import AnyPath
from data_prep.archive.scene import SPLITS
from data_prep.shards.band_statistics import SNOW, BandStatistics, statistics_from_dict
from data_prep.shards.tar_format import LAND_COVER_MAP


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """Summary of one shard index, or of several of one source and split (see `merged`).

    Attributes:
        shard, source, split, bytes, xxh3_128: as in the index; of a merged summary, `shard` is that of the first one.
        samples: number of samples.
        frames: number of samples by their number of frames.
        key_bytes: bytes of the longest key.
        days: first and last day of all samples since 1970-01-01, or None without samples.
        land_cover: sums of the fine land-cover counts, int64 (codes,), by legend.
        shares: sums of the samples' shares of the fine codes, float64 (codes,), by legend.
        counted: number of samples by legend.
        statistics: band statistics of the valid pixels.
        snow: band statistics of those valid pixels that are as bright as snow; None for shards of earlier versions.
        rejected: number of rejected samples by (reason, True for samples that could not be read).
        has_maps: True when the samples hold a land-cover map.
    """

    shard: str
    source: str
    split: str
    bytes: int
    xxh3_128: str
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

    def valid_share(self, chip_px: int) -> float:
        """Return the share of valid pixels in all frames, for samples of `chip_px` x `chip_px` pixels."""
        return self.statistics.count[0] / max(1, self.total_frames * chip_px**2)


def summarise(index: Mapping[str, Any]) -> ShardSummary:
    """Summarise one shard index."""
    samples = index["samples"]
    by_legend: dict[str, list[list[int]]] = {}
    for sample in samples:
        by_legend.setdefault(sample["legend"], []).append(sample["land_cover"])
    counts = {legend: np.array(rows, dtype=np.int64) for legend, rows in by_legend.items()}
    days = [day for sample in samples for day in sample["days"]]
    return ShardSummary(
        **{name: index[name] for name in ("shard", "source", "split", "bytes", "xxh3_128")},
        samples=len(samples),
        frames=Counter(sample["frames"] for sample in samples),
        key_bytes=max((len(sample["key"].encode()) for sample in samples), default=0),
        days=(min(days), max(days)) if days else None,
        land_cover={legend: rows.sum(axis=0) for legend, rows in counts.items()},
        shares={legend: exact_sum(rows / rows.sum(axis=1, keepdims=True)) for legend, rows in counts.items()},
        counted=Counter({legend: len(rows) for legend, rows in counts.items()}),
        statistics=statistics_from_dict(index["statistics"]),
        snow=statistics_from_dict(index[SNOW]) if SNOW in index else None,
        rejected=Counter((row["reason"], row["failed"]) for row in index["rejected"]),
        has_maps=holds_maps(samples),
    )


def holds_maps(samples: Sequence[Mapping[str, Any]]) -> bool:
    """Return True when the samples of a shard index hold a land-cover map; all samples of a corpus do, or none."""
    return bool(samples) and LAND_COVER_MAP in samples[0]["members"]


def read_summary(index: AnyPath) -> ShardSummary:
    """Read and summarise one shard index."""
    return summarise(read_json(index))


def exact_sum(rows: np.ndarray) -> np.ndarray:
    """Sum float64 (N, codes) over the first axis, rounded once, so that the result does not depend on the order of rows."""
    return np.array([math.fsum(column) for column in rows.T.tolist()])


def merged(summaries: Sequence[ShardSummary]) -> ShardSummary:
    """Merge at least one summary of one source and split into one."""
    first = summaries[0]
    days = [day for summary in summaries if summary.days is not None for day in summary.days]
    land_cover: dict[str, np.ndarray] = {}
    shares: dict[str, list[np.ndarray]] = {}
    for summary in summaries:
        for legend, counts in summary.land_cover.items():
            land_cover[legend] = land_cover.get(legend, 0) + counts
            shares.setdefault(legend, []).append(summary.shares[legend])
    return ShardSummary(
        shard=first.shard,
        source=first.source,
        split=first.split,
        bytes=sum(summary.bytes for summary in summaries),
        xxh3_128="",
        samples=sum(summary.samples for summary in summaries),
        frames=sum((summary.frames for summary in summaries), Counter()),
        key_bytes=max(summary.key_bytes for summary in summaries),
        days=(min(days), max(days)) if days else None,
        land_cover=land_cover,
        shares={legend: exact_sum(np.array(sums)) for legend, sums in shares.items()},
        counted=sum((summary.counted for summary in summaries), Counter()),
        statistics=sum((summary.statistics for summary in summaries[1:]), first.statistics),
        snow=None if first.snow is None else sum((s.snow for s in summaries[1:] if s.snow is not None), first.snow),
        rejected=sum((summary.rejected for summary in summaries), Counter()),
        has_maps=any(summary.has_maps for summary in summaries),
    )


def by_source_and_split(summaries: Iterable[ShardSummary]) -> dict[tuple[str, str], ShardSummary]:
    """Merge summaries by source and split; sources are in the order of names, splits in their usual order."""
    groups: dict[tuple[str, str], list[ShardSummary]] = {}
    for summary in summaries:
        groups.setdefault((summary.source, summary.split), []).append(summary)
    order = sorted(groups, key=lambda name: (name[0], SPLITS.index(name[1])))
    return {name: merged(groups[name]) for name in order}
