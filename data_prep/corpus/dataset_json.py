"""The content of dataset.json, from the plan and the summaries of shards, and its file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.atomic_files import whole_file
from common.json_files import json_bytes
from common.storage import AnyPath
from data_prep.corpus.dataset import DATASET, DATASET_VERSION
from data_prep.corpus.sample_index import sample_index_name
from data_prep.corpus.summary import ShardSummary, by_source_and_split, merged
from data_prep.landcover.sample_map import map_layout
from data_prep.plan.plan import Plan
from data_prep.shards.band_statistics import robust_normalization


def dataset_json(
    plan: Plan, output: AnyPath, summaries: Sequence[ShardSummary], sample_indexes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of dataset.json of the corpus in `output`.

    `summaries` are those of the plan's shards in their order; `sample_indexes` the xxh3_128 of each sample index by file name.
    """
    groups = by_source_and_split(summaries)
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
    columns = ("shard", "source", "split", "bytes", "xxh3_128", "samples")
    labels = {source: legend.to_dict() for source, legend in plan.labels.items() if source in sources}
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
        "mean_shares": {legend: (sums / group.counted[legend]).tolist() for legend, sums in group.shares.items()},
    }


def corpus_fingerprint(indexes: Iterable[bytes]) -> str:
    """Return the fingerprint in dataset.json: the sha256 over the contents of all shard indexes in the order of shards."""
    digest = hashlib.sha256()
    for content in indexes:
        digest.update(content)
    return digest.hexdigest()


def write_dataset_json(plan: Plan, summaries: Sequence[ShardSummary], sample_indexes: Mapping[str, str]) -> None:
    """Write dataset.json, which finishes the corpus. `summaries` and `sample_indexes`: see `dataset_json`."""
    with whole_file(plan.folder / DATASET) as temporary:
        temporary.write_bytes(json_bytes(dataset_json(plan, plan.folder, summaries, sample_indexes)))
