"""What is said of a corpus as a whole, from the plan and the indexes alone: dataset.json, rejected.jsonl, tables for people.

An index becomes a short `ShardSummary` as soon as it is read, where it is read: the indexes of 25 million samples would not
fit in memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from common.json_files import json_bytes, read_json
from data_prep.archive.scene import SPLITS
from data_prep.corpus.dataset import DATASET_VERSION, corpus_fingerprint
from data_prep.corpus.sample_index import table_name
from data_prep.plan.plan import Plan
from data_prep.shards.band_statistics import BandStatistics, statistics_from_dict

REJECTED = "rejected.jsonl"
_MOST_REASONS = 30  # lines of the table for people; rejected.jsonl has all


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """One index in short, or several of one source and split together (`merged`, whose `shard` is then the first's name).

    Attributes:
        shard, source, split, bytes, xxh3_128: as in the index.
        samples: how many it holds.
        frames: number of samples by their number of frames.
        key_bytes: bytes of the longest key.
        days: first and last day of all samples since 1970-01-01, or None without samples.
        land_cover: sums of the fine counts int64 (codes,), by legend.
        shares: sums of the samples' shares of the fine codes float64 (codes,), by legend.
        counted: number of samples by legend.
        statistics: of the valid pixels.
        rejected: number of samples by (reason, whether it is a failure to read).
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
    rejected: Counter[tuple[str, bool]]

    @property
    def failed(self) -> int:
        """Samples that could not be read."""
        return sum(count for (_, failed), count in self.rejected.items() if failed)

    @property
    def total_frames(self) -> int:
        return sum(length * count for length, count in self.frames.items())

    def valid_share(self, chip_px: int) -> float:
        """Share of valid pixels over all frames of chips of `chip_px` x `chip_px` pixels."""
        return self.statistics.count[0] / max(1, self.total_frames * chip_px**2)


def summarise(index: Mapping[str, Any]) -> ShardSummary:
    """An index in short."""
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
        rejected=Counter((row["reason"], row["failed"]) for row in index["rejected"]),
    )


def exact_sum(rows: np.ndarray) -> np.ndarray:
    """Sums over the first axis of float64 (N, codes), each rounded once: the same in any order of the rows."""
    return np.array([math.fsum(column) for column in rows.T.tolist()])


def merged(summaries: Sequence[ShardSummary]) -> ShardSummary:
    """At least one summary of one source and split -> one of all together."""
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
        rejected=sum((summary.rejected for summary in summaries), Counter()),
    )


def by_source_and_split(summaries: Iterable[ShardSummary]) -> dict[tuple[str, str], ShardSummary]:
    """One summary for each source and split: sources by name, splits in their usual order."""
    groups: dict[tuple[str, str], list[ShardSummary]] = {}
    for summary in summaries:
        groups.setdefault((summary.source, summary.split), []).append(summary)
    order = sorted(groups, key=lambda name: (name[0], SPLITS.index(name[1])))
    return {name: merged(groups[name]) for name in order}


def describe(plan: Plan, output: Path, summaries: Sequence[ShardSummary], tables: Mapping[str, str]) -> dict[str, Any]:
    """The content of dataset.json. `summaries` are those of the plan's shards, in their order; `tables` xxh3_128 by file name.

    Normalisation is over the training split; a source without training samples takes what it has, and says so.
    """
    groups = by_source_and_split(summaries)
    sources = {}
    for name, sensor in plan.sensors.items():
        of_source = {split: group for (source, split), group in groups.items() if source == name and group.samples}
        if not of_source:
            continue
        train = of_source.get("train")
        statistics = BandStatistics.empty(len(sensor.bands))
        for group in [train] if train is not None else of_source.values():
            statistics += group.statistics
        normalization = {
            "mean": statistics.mean.tolist(),
            "std": statistics.std.tolist(),
            "split": "all" if train is None else "train",
        }
        shape = [len(sensor.bands), sensor.chip_px, sensor.chip_px]
        splits = {split: _split(group, tables) for split, group in of_source.items()}
        sources[name] = {"sensor": sensor.to_dict(), "shape": shape, "normalization": normalization, "splits": splits}
    columns = ("shard", "source", "split", "bytes", "xxh3_128", "samples")
    labels = {source: names.to_dict() for source, names in plan.labels.items() if source in sources}
    return {
        "version": DATASET_VERSION,
        "plan": plan.hash,
        "fingerprint": corpus_fingerprint((output / f"{name}.json").read_bytes() for name in plan.names),
        "sources": sources,
        "legends": {name: legend.to_dict() for name, legend in plan.legends.items()},
        "shards": [{column: getattr(summary, column) for column in columns} for summary in summaries],
        "rejected": plan.num_rejected + sum(summary.rejected.total() for summary in summaries),
        "failed": sum(summary.failed for summary in summaries),
        **({"labels": labels} if labels else {}),
    }


def _split(group: ShardSummary, tables: Mapping[str, str]) -> dict[str, Any]:
    """What dataset.json says of one source and split."""
    table = table_name(group.source, group.split)
    return {
        "table": table,
        "xxh3_128": tables[table],
        "samples": group.samples,
        "frames": {"shortest": min(group.frames), "longest": max(group.frames)},
        "mean_shares": {legend: (sums / group.counted[legend]).tolist() for legend, sums in group.shares.items()},
    }


def rejected_lines(plan: Plan, output: Path, summaries: Sequence[ShardSummary]) -> Iterator[bytes]:
    """The lines of rejected.jsonl: what the plan left out, then what the writers did, shard by shard."""
    for rejection in plan.rejected():
        yield json_bytes({**asdict(rejection), "failed": False}) + b"\n"
    for name, summary in zip(plan.names, summaries, strict=True):
        if summary.rejected:
            for row in read_json(output / f"{name}.json")["rejected"]:
                yield json_bytes(row) + b"\n"


def summary_tables(plan: Plan, summaries: Sequence[ShardSummary]) -> str:
    """Two tables for people: samples, frames, valid share and size by source and split; rejected samples by reason."""
    shards = Counter((summary.source, summary.split) for summary in summaries)
    groups = by_source_and_split(summaries)
    rows = []
    for (source, split), group in groups.items():
        share = f"{group.valid_share(plan.sensors[source].chip_px):.0%}"
        size = f"{group.bytes / 1e6:.1f}"
        rows.append([source, split, shards[source, split], group.samples, group.total_frames, share, size])
    tables = [tabulate(rows, ["source", "split", "shards", "samples", "frames", "valid", "MB"], disable_numparse=True)]
    reasons = Counter({(group.source, group.reason): group.samples for group in plan.rejected_groups})
    for (source, _), group in groups.items():
        for (reason, _), count in group.rejected.items():
            reasons[source, reason] += count
    if reasons:
        shown = sorted(reasons.most_common(_MOST_REASONS))
        lines = [[source, str(count), reason] for (source, reason), count in shown]
        if len(reasons) > len(shown):
            lines.append(["...", "", f"{len(reasons) - len(shown)} more reasons in {REJECTED}"])
        tables.append(tabulate(lines, ["source", "rejected", "reason"]))
    return "\n\n".join(tables)
