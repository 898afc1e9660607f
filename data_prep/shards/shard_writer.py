"""Writes one shard: reads its samples, writes the tar, reads the tar back, and writes the index.

A shard exists when its index exists. The tar is written under a temporary name, read back, synced and renamed; the index follows
in the same way. A kill at any moment leaves temporary files and whole shards, and the same plan gives the same bytes. Several
processes may write shards of one plan; none needs to know of the others.

A sample that could not be read is a row of the index. The traceback of its error goes to a file beside the index, because it
contains line numbers of libraries, which must not change the index and so the fingerprint of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.errors import InfrastructureError
from common.json_files import json_bytes
from common.storage import AnyPath
from data_prep.plan.plan import Plan, PlannedShard, Rejection, cached_plan
from data_prep.shards.band_statistics import ShardStatistics
from data_prep.shards.planned_samples import Failure, read_samples
from data_prep.shards.sample import Sample
from data_prep.shards.shard_index import has_written_index
from data_prep.shards.tar_format import FAILED, INDEX_VERSION, TarWriter, tar_members


def write_shard(archive: AnyPath, output: AnyPath, shard_id: int, retries: int = 3) -> int:
    """Write shard number `shard_id` of the plan in `output`, unless it exists; return the bytes of its tar.

    Raises ValueError when the archive is no longer as it was planned, OSError when the archive still cannot be reached after
    `retries`, or when the output cannot be written.
    """
    return write_once(output, shard_id, partial(_write_tar, archive, retries))


def write_once(
    output: AnyPath,
    shard_id: int,
    write_tar: Callable[[Path, Plan, PlannedShard], tuple[dict[str, Any], list[dict[str, Any]]]],
) -> int:
    """Write shard number `shard_id` of the plan in `output`, unless it exists; return the bytes of its tar.

    `write_tar` writes the tar and returns the index and the rows of the file of failures.
    """
    plan = cached_plan(output)
    name = plan.names[shard_id]
    tar_path, index_path = output / f"{name}.tar", output / f"{name}.json"
    if has_written_index(output, name, plan.hash):
        return tar_path.stat().st_size
    shard = plan.shard(shard_id)
    with whole_file(tar_path) as temporary:
        index, failures = write_tar(temporary, plan, shard)
        if checksum_of(temporary) != index["xxh3_128"]:
            raise InfrastructureError(f"{tar_path.name}: what was read back is not what was written; is the disk sound?")
    _write_failures(output / f"{name}{FAILED}", failures)
    with whole_file(index_path) as temporary:
        temporary.write_bytes(json_bytes(index))
    return int(index["bytes"])


def _write_tar(
    archive: AnyPath, retries: int, path: Path, plan: Plan, shard: PlannedShard
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the samples of a shard and write its tar; return the index, and the rows of the file of failures."""
    sensor = plan.sensors[shard.source]
    bands = sensor.bands
    statistics = ShardStatistics(sensor, keeps_snow_apart=plan.keeps_snow_apart)
    entries: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    with path.open("wb") as file:
        tar = TarWriter(file)
        for sample in read_samples(archive, plan, shard, retries):
            match sample:
                case Sample():
                    entries.append(_add(tar, sample, bands))
                    statistics.add(sample.pixels, sample.valid)
                case Rejection():
                    rejected.append({**asdict(sample), "failed": False})
                case Failure(rejection, traceback):
                    rejected.append({**asdict(rejection), "failed": True})
                    failures.append({**asdict(rejection), "traceback": traceback})
        tar.end()
    index = {
        "version": INDEX_VERSION,
        "shard": f"{shard.name}.tar",
        "source": shard.source,
        "split": shard.split,
        "bytes": tar.size,
        "xxh3_128": tar.checksum,
        "plan": plan.hash,
        "samples": entries,
        "rejected": rejected,
        **statistics.to_dict(),
    }
    return index, failures


def _add(tar: TarWriter, sample: Sample, bands: Sequence[str]) -> dict[str, Any]:
    """Append a sample to the tar; return its entry in the index."""
    members = tar_members(sample, bands)
    days = sample.dates.astype(np.int64)
    return {
        "key": sample.key,
        "frames": len(days),
        "days": [int(days[0]), int(days[-1])],
        "members": {name: tar.add(f"{sample.key}.{name}", content) for name, content in members.items()},
        "legend": sample.legend,
        "land_cover": sample.land_cover.tolist(),
    }


def _write_failures(path: AnyPath, failures: Sequence[dict[str, Any]]) -> None:
    """Write the file of failures, or remove it when there are none."""
    if failures:
        with whole_file(path) as temporary:
            temporary.write_bytes(b"".join(json_bytes(failure) + b"\n" for failure in failures))
    else:
        path.unlink(missing_ok=True)
