"""One shard: read its samples, write the tar, read it back, then its index. Nothing here knows who else writes which shard.

A shard exists when its index does: the tar is written under a temporary name, read back, synced and renamed, and the index
follows the same way. A kill at any moment leaves temporary files and whole shards, and the same plan gives the same bytes.

What is wrong with a sample's data is a row of the index; the error's traceback goes to a file beside it, because it holds
line numbers of libraries, and the index and so the fingerprint of a corpus must not change with them. What is wrong with the
machine or the network is tried again and then raised: it never becomes part of a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.errors import is_infrastructure_error, portable_text, portable_traceback
from common.json_files import json_bytes
from common.retries import retried
from data_prep.archive.scene import Scene
from data_prep.landcover.base import LandCoverReader, SampleWindow
from data_prep.landcover.label_raster import LabelRaster
from data_prep.landcover.legend import Legend
from data_prep.landcover.opening import open_land_cover
from data_prep.plan.opening import load_planned, open_planned
from data_prep.plan.plan import PLAN, Plan, PlannedSample, PlannedShard, Rejection
from data_prep.plan.plan import load_plan as read_plan
from data_prep.shards.band_statistics import BandStatistics
from data_prep.shards.block_reader import BlockReader
from data_prep.shards.sample import Sample
from data_prep.shards.tar_format import FAILED, INDEX_VERSION, TarWriter, sample_members

NOTHING_VALID = "no valid observation in the year"
NOTHING_MAPPED = "no mapped land cover in the footprint"


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read: its row among the rejected ones, and how the error came about."""

    rejection: Rejection
    traceback: list[str]


_plan_of = lru_cache(maxsize=1)(lambda folder, _written: read_plan(folder))


def load_plan(folder: Path) -> Plan:
    """The plan in `folder`, parsed once a process: a worker asks for it with every shard."""
    path = folder / PLAN
    return _plan_of(folder, path.stat().st_mtime_ns if path.exists() else None)


def write_shard(archive: Path, output: Path, shard_id: int, retries: int = 3) -> int:
    """Write shard number `shard_id` of the plan in `output`, unless it is there; returns the bytes of its tar.

    Raises ValueError when the archive is no longer what was planned, OSError when the archive still cannot be reached after
    `retries`, or when the output cannot be written.
    """
    plan = load_plan(output)
    name = plan.names[shard_id]
    tar_path, index_path, failed_path = (output / f"{name}{suffix}" for suffix in (".tar", ".json", FAILED))
    if is_written(plan, name, output):
        return tar_path.stat().st_size
    shard = plan.shard(shard_id)
    bands = plan.sensors[shard.source].bands
    statistics = BandStatistics.empty(len(bands))
    entries: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    with whole_file(tar_path) as temporary:
        with temporary.open("wb") as file:
            tar = TarWriter(file)
            for sample in read_samples(archive, plan, shard, retries):
                match sample:
                    case Sample():
                        entries.append(_add(tar, sample, bands))
                        statistics += BandStatistics.of_pixels(sample.pixels, sample.valid)
                    case Rejection():
                        rejected.append({**asdict(sample), "failed": False})
                    case Failure(rejection, traceback):
                        rejected.append({**asdict(rejection), "failed": True})
                        failures.append({**asdict(rejection), "traceback": traceback})
            tar.end()
        if checksum_of(temporary) != tar.checksum:
            raise OSError(f"{tar_path.name}: what was read back is not what was written; is the disk sound?")
    if failures:
        with whole_file(failed_path) as temporary:
            temporary.write_bytes(b"".join(json_bytes(failure) + b"\n" for failure in failures))
    else:
        failed_path.unlink(missing_ok=True)
    index = {
        "version": INDEX_VERSION,
        "shard": tar_path.name,
        "source": shard.source,
        "split": shard.split,
        "bytes": tar.size,
        "xxh3_128": tar.checksum,
        "plan": plan.hash,
        "samples": entries,
        "rejected": rejected,
        "statistics": statistics.to_dict(),
    }
    with whole_file(index_path) as temporary:
        temporary.write_bytes(json_bytes(index))
    return tar.size


def is_written(plan: Plan, name: str, output: Path) -> bool:
    """True when the index of the shard `name` is there, belongs to the plan, and the tar has the size that it states.

    Canonical JSON sorts its keys, so these two head the index and the rest of it need not be read.
    """
    try:
        size = (output / f"{name}.tar").stat().st_size
        expected = json_bytes({"bytes": size, "plan": plan.hash}).removesuffix(b"}") + b","
        with (output / f"{name}.json").open("rb") as index:
            return index.read(len(expected)) == expected
    except FileNotFoundError:
        return False


def read_samples(archive: Path, plan: Plan, shard: PlannedShard, retries: int) -> Iterator[Sample | Rejection | Failure]:
    """The shard's samples in order, read from the archive, or why they are rejected or could not be read."""
    for planned, group in groupby(shard.samples, key=lambda sample: sample.series):
        scene = load_planned(archive, planned)
        legend, label = plan.legends[planned.legend], plan.labels.get(shard.source)
        with (
            nullcontext() if label is None else retried(partial(LabelRaster, scene, label.name, planned.grid), retries) as labels,
            retried(partial(open_planned, scene, planned, plan.sensors), retries) as reader,
            retried(partial(open_land_cover, scene, legend), retries) as land_cover,
        ):
            samples = list(group)
            blocks = BlockReader(reader, samples)
            for sample in samples:
                yield retried(partial(_read_sample, blocks, land_cover, labels, scene, legend, sample), retries)


def _window(planned: PlannedSample) -> SampleWindow:
    return SampleWindow(
        source=planned.source,
        file=planned.series.file,
        grid=planned.series.grid,
        row=planned.row,
        col=planned.col,
        size=planned.size,
        year=planned.year,
    )


def _read_sample(
    blocks: BlockReader,
    land_cover: LandCoverReader,
    labels: LabelRaster | None,
    scene: Scene,
    legend: Legend,
    planned: PlannedSample,
) -> Sample | Rejection | Failure:
    """Read one sample. What is wrong with its data is a failure of this sample; what is wrong with the machine is raised."""

    def reject(reason: str) -> Rejection:
        return Rejection(planned.key, planned.source, planned.scene, reason)

    try:
        footprint = planned.series.grid.window(planned.row, planned.col, planned.size, planned.size)
        series = blocks.read(planned)
        if not series.valid.any():
            return reject(NOTHING_VALID)
        counts = legend.count(land_cover.codes(_window(planned), series))
        if not counts.any():
            return reject(NOTHING_MAPPED)
        return Sample(
            key=planned.key,
            source=planned.source,
            scene=scene.name,
            region=scene.region,
            split=planned.split,
            pixels=series.pixels,
            valid=series.valid,
            dates=series.dates,
            footprint=footprint,
            legend=legend.name,
            land_cover=counts,
            label=None if labels is None else labels.read(planned.row, planned.col, planned.size),
        )
    except Exception as error:  # codecs raise errors of all kinds for damaged chunks
        if is_infrastructure_error(error):
            raise
        reason = "cannot be read: " + portable_text(error, scene.folder)
        return Failure(reject(reason), portable_traceback(error, scene.folder))


def _add(tar: TarWriter, sample: Sample, bands: Sequence[str]) -> dict[str, Any]:
    """Append a sample to the tar; returns its entry in the index."""
    members = sample_members(sample, bands)
    days = sample.dates.astype(np.int64)
    return {
        "key": sample.key,
        "frames": len(days),
        "days": [int(days[0]), int(days[-1])],
        "members": {name: tar.add(f"{sample.key}.{name}", content) for name, content in members.items()},
        "legend": sample.legend,
        "land_cover": sample.land_cover.tolist(),
    }
