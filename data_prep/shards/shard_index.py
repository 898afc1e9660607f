"""The shard index: the JSON beside each tar that lists the samples of the shard, and where their members lie in the tar."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.json_files import json_bytes
from common.storage import AnyPath, read_range


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a shard: byte offset and size of its data in the tar, and their sha256."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """A sample in a shard index: its key, tar, number of frames, members by name, legend and fine land-cover counts."""

    key: str
    shard: AnyPath
    frames: int
    members: Mapping[str, Member]
    legend: str
    land_cover: tuple[int, ...]


def sample_entries(index: Mapping[str, Any], folder: AnyPath) -> list[SampleEntry]:
    """Return the entries of a shard index, one per sample, in the order of the tar."""
    shard = folder / index["shard"]
    return [
        SampleEntry(
            key=sample["key"],
            shard=shard,
            frames=sample["frames"],
            members={name: Member(**member) for name, member in sample["members"].items()},
            legend=sample["legend"],
            land_cover=tuple(sample["land_cover"]),
        )
        for sample in index["samples"]
    ]


def has_written_index(output: AnyPath, name: str, plan_hash: str) -> bool:
    """Return True when the shard index of the shard `name` exists, belongs to the plan, and states the size of the tar.

    Canonical JSON sorts its keys, so that `bytes` and `plan` come first and the rest of the index need not be read.
    """
    try:
        size = (output / f"{name}.tar").stat().st_size
        expected = json_bytes({"bytes": size, "plan": plan_hash}).removesuffix(b"}") + b","
        return read_range(output / f"{name}.json", 0, len(expected)) == expected
    except FileNotFoundError:
        return False


def read_array(entry: SampleEntry, name: str) -> np.ndarray:
    """Read one array of a sample from its tar, where its entry in the shard index says."""
    member = entry.members[name]
    content = read_range(entry.shard, member.offset, member.offset + member.size)
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array
