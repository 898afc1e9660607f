"""One shard: read its samples, write the tar, prove it, then its index. Nothing here knows who else writes which shard.

A shard exists when its index does: the tar is written under a temporary name, synced, read back and renamed, and the index
follows the same way. A kill at any moment leaves temporary files and whole shards, and the same plan gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.blocks import BlockReader
from data_prep.corpus import MEMBERS, VERSION, read_json
from data_prep.durable import json_bytes, sha256_of, whole_file
from data_prep.faults import shard_faults
from data_prep.landcover import Legend
from data_prep.landcover_codes import LandCoverCodes, open_land_cover
from data_prep.normalization import BandStatistics
from data_prep.plan import PLAN, Plan, PlannedSample, PlannedShard, Rejection
from data_prep.plan import load_plan as read_plan
from data_prep.planned_reader import load_planned, open_planned
from data_prep.sample import Sample
from data_prep.scene import Scene

NOTHING_VALID = "no valid observation in the year"
NOTHING_MAPPED = "no mapped land cover in the footprint"

_plan_of = lru_cache(maxsize=1)(lambda folder, _written: read_plan(folder))


def load_plan(folder: Path) -> Plan:
    """The plan in `folder`, parsed once a process: a worker asks for it with every shard."""
    path = folder / PLAN
    return _plan_of(folder, path.stat().st_mtime_ns if path.exists() else None)


def write_shard(archive: Path, output: Path, shard_id: int) -> int:
    """Write shard number `shard_id` of the plan in `output`, unless it is there; returns the bytes of its tar.

    Raises ValueError when the archive is no longer what was planned, OSError when the output cannot be written.
    """
    plan = load_plan(output)
    shard = plan.shard(shard_id)
    if is_written(plan, shard.name, output):
        return (output / f"{shard.name}.tar").stat().st_size
    tar_path, index_path = output / f"{shard.name}.tar", output / f"{shard.name}.json"
    statistics = BandStatistics.empty(len(plan.sensors[shard.source].bands))
    entries: list[dict[str, Any]] = []
    rejected: list[Rejection] = []
    with whole_file(tar_path) as temporary:
        with temporary.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for sample in read_samples(archive, plan, shard):
                if isinstance(sample, Rejection):
                    rejected.append(sample)
                else:
                    entries.append(_add(tar, sample, plan.sensors[shard.source].bands))
                    statistics += BandStatistics.of_pixels(sample.pixels, sample.valid)
        index = {
            "version": VERSION,
            "shard": tar_path.name,
            "source": shard.source,
            "split": shard.split,
            "bytes": temporary.stat().st_size,
            "sha256": sha256_of(temporary),
            "plan": plan.hash,
            "samples": entries,
            "rejected": [asdict(rejection) for rejection in rejected],
            "statistics": statistics.to_dict(),
        }
        faults = shard_faults(plan, shard, temporary, index)
        if faults:
            raise OSError(f"{faults[0]}: what was read back is not what was written; is the disk sound?")
    with whole_file(index_path) as temporary:
        temporary.write_bytes(json_bytes(index))
    return tar_path.stat().st_size


def is_written(plan: Plan, name: str, output: Path) -> bool:
    """True when the index of the shard `name` is there, belongs to the plan, and the tar has the size that it states."""
    index_path, tar_path = output / f"{name}.json", output / f"{name}.tar"
    if not index_path.is_file() or not tar_path.is_file():
        return False
    try:
        index = read_json(index_path)
    except ValueError:
        return False
    found = (index.get("plan"), index.get("shard"), index.get("bytes"))
    return found == (plan.hash, tar_path.name, tar_path.stat().st_size)


def read_samples(archive: Path, plan: Plan, shard: PlannedShard) -> Iterator[Sample | Rejection]:
    """The shard's samples in order, read from the archive, or why they are rejected."""
    for planned, group in groupby(shard.samples, key=lambda sample: sample.series):
        scene = load_planned(archive, planned)
        legend = plan.legends[planned.legend]
        with open_planned(scene, planned, plan.sensors) as reader, open_land_cover(scene, legend) as land_cover:
            samples = list(group)
            blocks = BlockReader(reader, samples)
            for sample in samples:
                yield _read_sample(blocks, land_cover, scene, legend, sample)


def _read_sample(
    blocks: BlockReader, land_cover: LandCoverCodes, scene: Scene, legend: Legend, planned: PlannedSample
) -> Sample | Rejection:
    """Read one sample. What is wrong with its data is a reason to reject it; what is wrong with the machine is raised."""

    def reject(reason: str) -> Rejection:
        return Rejection(planned.key, planned.source, planned.scene, reason)

    def unreadable(error: Exception) -> Rejection:  # paths inside the scene only: equal archives give equal bytes anywhere
        return reject("cannot be read: " + " ".join(str(error).split()).replace(f"{scene.folder}/", ""))

    try:
        footprint = planned.series.grid.window(planned.row, planned.col, planned.size, planned.size)
        series = blocks.read(planned)
        if not series.valid.any():
            return reject(NOTHING_VALID)
        counts = legend.count(land_cover.codes(planned, series))
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
        )
    except (ValueError, RuntimeError) as error:  # codecs of zarr raise RuntimeError for damaged chunks
        return unreadable(error)
    except OSError as error:
        if error.errno is not None:  # a full disk, a lost mount: not this sample's fault. HDF5 and GDAL give no errno.
            raise
        return unreadable(error)


def sample_members(sample: Sample, bands: Sequence[str]) -> dict[str, bytes]:
    """The members of a sample by name, sorted as they lie in the tar."""
    about = {
        "source": sample.source,
        "scene": sample.scene,
        "region": sample.region,
        "split": sample.split,
        "year": int(str(sample.dates[0].astype("datetime64[Y]"))),
        "crs": sample.footprint.crs,
        "transform": list(sample.footprint.transform)[:6],
        "height": sample.footprint.height,
        "width": sample.footprint.width,
        "legend": sample.legend,
        "bands": list(bands),
    }
    members = {
        "dates.npy": _npy(sample.dates.astype(np.int32)),
        "json": json_bytes(about),
        "landcover.npy": _npy(sample.land_cover),
        "pixels.npy": _npy(sample.pixels),
        "valid.npy": _npy(sample.valid),
    }
    assert tuple(members) == MEMBERS
    return members


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, sample: Sample, bands: Sequence[str]) -> dict[str, Any]:
    """Append a sample to the tar; returns its entry in the index."""
    places = {}
    for name, data in sample_members(sample, bands).items():
        info = tarfile.TarInfo(f"{sample.key}.{name}")  # TarInfo's defaults: mtime 0, no owner, mode 0644
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        places[name] = {"offset": tar.offset - padded, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {
        "key": sample.key,
        "frames": len(sample.dates),
        "members": places,
        "legend": sample.legend,
        "land_cover": sample.land_cover.tolist(),
    }
