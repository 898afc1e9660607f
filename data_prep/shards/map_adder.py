"""Adds land-cover maps to a shard that was written without: reads the maps, and copies the bytes of everything else.

The result is, byte for byte, the shard that `data_prep/shards/shard_writer.py` writes from the same archive. Of the archive only
the land cover is read, and no pixels are decoded: checksums of frames are over their bytes as they lie in the shard. Land cover
from a quality layer is the exception: it is part of the images, which are read again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.retries import retried
from common.storage import AnyPath, local_copy
from data_prep.landcover.opening import open_land_cover
from data_prep.landcover.sample_map import counts_and_map
from data_prep.plan.plan import Plan, PlannedSample, PlannedShard
from data_prep.plan.planned_reader import load_planned_scene, open_planned_reader
from data_prep.shards.chunk_reader import ChunkReader
from data_prep.shards.frame_checksums import Buffer, frame_checksums
from data_prep.shards.planned_samples import sample_window
from data_prep.shards.shard_index import INDEX_VERSION, Member, read_index, sample_columns, sample_rows
from data_prep.shards.shard_writer import write_once
from data_prep.shards.tar_format import FAILED, LABEL, LAND_COVER_MAP, TarWriter, member_names, npy_buffers

_MEND = "run data_prep/verify.py on it"
_MOST_BYTES = 1_000_000_000  # of images that a worker holds


def add_maps_to_shards(
    archive: AnyPath, former: AnyPath, former_hash: str, output: AnyPath, retries: int, numbers: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Write the shards `numbers` of the plan in `output` from those of the corpus `former`, except those that exist.

    `former_hash`: of the former plan. Yields the number of each shard and the bytes of its tar. Raises ValueError when a former
    shard is missing or damaged, and when scenes or their land cover are no longer as they were; OSError as `write_sweep`.
    """
    for number in numbers:
        yield number, write_once(output, number, partial(_write_tar, archive, former, former_hash, retries))


def _write_tar(
    archive: AnyPath, former: AnyPath, former_hash: str, retries: int, path: Path, plan: Plan, shard: PlannedShard
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write the tar; return the index, and the rows of the file of failures."""
    index_path, tar_path, failed = (former / f"{shard.name}{suffix}" for suffix in (".json", ".tar", FAILED))
    index, planned = read_index(index_path), {sample.key: sample for sample in shard.samples}
    samples = sample_rows(index["samples"])
    if index.get("plan") != former_hash or any(entry["key"] not in planned for entry in samples):
        raise ValueError(f"{index_path} does not fit the plan of its corpus; {_MEND}")
    if not tar_path.is_file():
        raise ValueError(f"{tar_path} is missing; {_MEND}")
    found = _land_cover(archive, plan, [planned[entry["key"]] for entry in samples], retries)
    entries = []
    with path.open("wb") as file, local_copy(tar_path) as local, local.open("rb") as source:
        tar = TarWriter(file)
        for entry, (counts, land_cover_map) in zip(samples, found, strict=True):
            if counts.tolist() != entry["land_cover"]:
                raise ValueError(
                    f"{entry['key']}: the land cover in {archive} is not the one that {tar_path} was written from; put the "
                    "former one back, or shard again"
                )
            entries.append(_add(tar, entry, _read_members(source, entry), counts, land_cover_map))
        tar.end()
    changed = {"version": INDEX_VERSION, "plan": plan.hash, "samples": sample_columns(entries)}
    changed |= {"bytes": tar.size, "xxh3_128": tar.checksum}
    failures = [json.loads(line) for line in failed.read_bytes().splitlines()] if failed.is_file() else []
    return {**index, **changed}, failures


def _land_cover(
    archive: AnyPath, plan: Plan, samples: Sequence[PlannedSample], retries: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read counts and map of each sample."""
    for planned, group in groupby(samples, key=lambda sample: sample.series):
        scene, legend, of_series = load_planned_scene(archive, planned), plan.legends[planned.legend], list(group)
        layout, chunks = plan.map_layout(planned.source, planned.legend), None
        with ExitStack() as stack:
            land_cover = stack.enter_context(retried(partial(open_land_cover, scene, legend), retries))
            if land_cover.needs_images:
                reader = stack.enter_context(retried(partial(open_planned_reader, scene, planned, plan.sensors), retries))
                chunks = ChunkReader(reader, of_series, _MOST_BYTES)
            for sample in of_series:
                series = None if chunks is None else retried(partial(chunks.read, sample), retries)
                read = partial(counts_and_map, land_cover, legend, layout, sample_window(sample), series)
                counts, land_cover_map = retried(read, retries)
                yield counts, np.empty(0) if land_cover_map is None else land_cover_map  # without counts, which are compared


def _read_members(tar: BinaryIO, entry: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the members of a sample."""
    members = {}
    for name, place in entry["members"].items():
        tar.seek(place["offset"])
        members[name] = tar.read(place["size"])
    return members


def _add(
    tar: TarWriter, entry: Mapping[str, Any], former: Mapping[str, bytes], counts: np.ndarray, land_cover_map: np.ndarray
) -> dict[str, Any]:
    """Append a sample with its map to the tar; return its entry in the index.

    Raises ValueError when a member of the `former` sample is damaged.
    """
    key = entry["key"]
    days, pixels, valid = (_raw_frames(former[name]) for name in ("dates.npy", "pixels.npy", "valid.npy"))
    contents: dict[str, list[Buffer]] = {name: [content] for name, content in former.items()}
    contents["checksums.npy"] = npy_buffers(frame_checksums(key, counts, days, pixels, valid, land_cover_map))
    contents[LAND_COVER_MAP] = npy_buffers(land_cover_map)
    names = member_names(has_map=True, has_label=LABEL in former)
    for name, place in entry["members"].items():
        if name != "checksums.npy" and not Member(**place).holds(former[name]):
            raise ValueError(f"{key}.{name} of the former corpus is not as it was written; {_MEND}")
    members = {name: tar.add(f"{key}.{name}", contents[name]) for name in names}
    return {**entry, "members": members}


def _raw_frames(content: bytes) -> np.ndarray:
    """View the array in the bytes of a .npy file as the raw bytes of its frames, uint8 (T, bytes)."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(content, np.uint8, offset=file.tell()).reshape(shape[0], -1)
