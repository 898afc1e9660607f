"""What is said of a corpus as a whole, made from the plan and the indexes alone: dataset.json, rejected.jsonl, the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from data_prep.corpus import VERSION, corpus_fingerprint
from data_prep.durable import json_bytes
from data_prep.normalization import BandStatistics, statistics_from_dict
from data_prep.plan import Plan

REJECTED = "rejected.jsonl"


def describe(plan: Plan, output: Path, indexes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of dataset.json. `indexes` are those of the plan's shards, in their order.

    Normalisation is over the training split; a source without training samples takes what it has, and says so.
    """
    sources = {}
    for name, sensor in plan.sensors.items():
        of_source = [index for index in indexes if index["source"] == name and index["samples"]]
        if not of_source:
            continue
        train = [index for index in of_source if index["split"] == "train"]
        statistics = BandStatistics.empty(len(sensor.bands))
        for index in train or of_source:
            statistics += statistics_from_dict(index["statistics"])
        normalization = {"mean": statistics.mean.tolist(), "std": statistics.std.tolist(), "split": "train" if train else "all"}
        shape = [len(sensor.bands), sensor.chip_px, sensor.chip_px]
        sources[name] = {"sensor": sensor.to_dict(), "shape": shape, "normalization": normalization}
    shards = [
        {**{key: index[key] for key in ("shard", "source", "split", "bytes", "sha256")}, "samples": len(index["samples"])}
        for index in indexes
    ]
    return {
        "version": VERSION,
        "plan": plan.hash,
        "fingerprint": corpus_fingerprint((output / f"{name}.json").read_bytes() for name in plan.names),
        "sources": sources,
        "legends": {name: legend.to_dict() for name, legend in plan.legends.items()},
        "shards": shards,
        "rejected": plan.num_rejected + sum(len(index["rejected"]) for index in indexes),
    }


def rejected_lines(plan: Plan, indexes: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    """The lines of rejected.jsonl: what the plan left out, then what the writers did, shard by shard."""
    for rejection in plan.rejected():
        yield json_bytes(asdict(rejection)) + b"\n"
    for index in indexes:
        for row in index["rejected"]:
            yield json_bytes(row) + b"\n"


def summary(plan: Plan, indexes: Sequence[Mapping[str, Any]]) -> str:
    """Two tables for people: samples, frames, valid share and size by source and split; rejected samples by reason."""
    rows = []
    for source, split in sorted({(index["source"], index["split"]) for index in indexes}):
        group = [index for index in indexes if (index["source"], index["split"]) == (source, split)]
        frames = sum(sample["frames"] for index in group for sample in index["samples"])
        valid = sum(index["statistics"]["count"][0] for index in group)
        share = valid / max(1, frames * plan.sensors[source].chip_px ** 2)
        size = sum(index["bytes"] for index in group) / 1e6
        rows.append(
            [source, split, len(group), sum(len(index["samples"]) for index in group), frames, f"{share:.0%}", f"{size:.1f}"]
        )
    tables = [tabulate(rows, ["source", "split", "shards", "samples", "frames", "valid", "MB"], disable_numparse=True)]
    reasons = Counter({(group.source, group.reason): group.samples for group in plan.rejected_groups})
    reasons.update((row["source"], row["reason"]) for index in indexes for row in index["rejected"])
    if reasons:
        lines = [[source, count, reason] for (source, reason), count in sorted(reasons.items())]
        tables.append(tabulate(lines, ["source", "rejected", "reason"]))
    return "\n\n".join(tables)
