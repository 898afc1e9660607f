"""The content of dataset.json, from the plan and the contents of shards, and its file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from common.atomic_files import whole_file
from common.json_files import json_bytes
from data_prep.corpus.dataset import DATASET, DATASET_VERSION
from data_prep.corpus.sample_index import sample_index_name
from data_prep.corpus.shard_contents import CorpusContents, WrittenShard
from data_prep.corpus.summary import ShardSummary, merged
from data_prep.landcover.sample_map import map_layout
from data_prep.plan.plan import Plan
from data_prep.shards.band_statistics import robust_normalization


def dataset_json(plan: Plan, contents: CorpusContents, sample_indexes: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of dataset.json; `sample_indexes` are the xxh3_128 of each sample index by file name."""
    groups, shards = contents.groups, contents.shards
    sources: dict[str, dict[str, Any]] = {}
    for name, sensor in plan.sensors.items():
        of_source = {split: group for (source, split), group in groups.items() if source == name and group.samples}
        if of_source:
            sources[name] = {
                "sensor": sensor.to_dict(),
                "shape": [len(sensor.bands), sensor.chip_px, sensor.chip_px],
                "normalization": _normalization(of_source),
                "splits": {split: _split(group, sample_indexes) for split, group in of_source.items()},
            }
            if plan.has_maps:  # the key is absent without maps, as in earlier versions
                legends = sorted({legend for group in of_source.values() for legend in group.counted})
                layouts = {legend: map_layout(sensor, plan.legends[legend]).to_dict() for legend in legends}
                sources[name]["land_cover_maps"] = layouts
    labels = {source: legend.to_dict() for source, legend in plan.labels.items() if source in sources}
    return {
        "version": DATASET_VERSION,
        "plan": plan.hash,
        "fingerprint": corpus_fingerprint(plan.hash, shards),
        "sources": sources,
        "legends": {name: legend.to_dict() for name, legend in plan.legends.items()},
        "shards": [asdict(shard) for shard in shards],
        "rejected": plan.num_rejected + sum(group.rejected.total() for group in groups.values()),
        "failed": sum(group.failed for group in groups.values()),
        **({"labels": labels} if labels else {}),
    }


def _normalization(of_source: Mapping[str, ShardSummary]) -> dict[str, Any]:
    """Return mean and standard deviation of each band over the training split, or over all splits when it has no samples.

    Without what is as bright as snow, and with limits, where the shards keep it apart.
    """
    train = of_source.get("train")
    group = merged(list(of_source.values())) if train is None else train
    split = "all" if train is None else "train"
    if group.snow is not None:
        return {**robust_normalization(group.statistics, group.snow), "split": split}
    return {"mean": group.statistics.mean.tolist(), "std": group.statistics.std.tolist(), "split": split}


def _split(group: ShardSummary, sample_indexes: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry of one source and split."""
    name = sample_index_name(group.source, group.split)
    return {
        "table": name,
        "xxh3_128": sample_indexes[name],
        "samples": group.samples,
        "frames": {"shortest": min(group.frames), "longest": max(group.frames)},
        "mean_shares": group.mean_shares(),
    }


def corpus_fingerprint(plan_hash: str, shards: Iterable[WrittenShard]) -> str:
    """Return the fingerprint in dataset.json: the sha256 over the hash of the plan, and name, bytes and XXH3 of each tar."""
    lines = (f"{shard.shard} {shard.bytes} {shard.xxh3_128}" for shard in shards)
    return hashlib.sha256("\n".join([plan_hash, *lines]).encode()).hexdigest()


def write_dataset_json(plan: Plan, contents: CorpusContents, sample_indexes: Mapping[str, str]) -> None:
    """Write dataset.json, which finishes the corpus. `sample_indexes`: see `dataset_json`."""
    with whole_file(plan.folder / DATASET) as temporary:
        temporary.write_bytes(json_bytes(dataset_json(plan, contents, sample_indexes)))
