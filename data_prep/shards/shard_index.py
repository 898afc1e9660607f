"""The shard index: the JSON beside each tar that lists the samples of the shard, and where their members lie in the tar."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from common.json_files import json_bytes, read_json
from common.storage import AnyPath, read_range

INDEX_VERSION = 3
READ_INDEX_VERSIONS = (2, INDEX_VERSION)  # 2: an object for each sample and member, with a sha256 instead of the XXH3
_COLUMNS = ("key", "frames", "days", "legend", "land_cover")  # of samples
_OF_MEMBERS = {"offset": "offsets", "size": "sizes", "xxh3_64": "xxh3_64", "sha256": "sha256"}  # names of members' columns


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a shard: byte offset and size of its data in the tar, and their XXH3 (64 bits), in earlier versions sha256."""

    offset: int
    size: int
    xxh3_64: str | None = None
    sha256: str | None = None

    def holds(self, content: bytes | memoryview) -> bool:
        """Return True when `content` has the checksum of the member's data."""
        if self.xxh3_64 is None:
            return hashlib.sha256(content).hexdigest() == self.sha256
        return xxhash.xxh3_64_hexdigest(content) == self.xxh3_64


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
        for sample in sample_rows(index["samples"])
    ]


def read_index(path: AnyPath) -> dict[str, Any]:
    """Read a shard index, whose `samples` are columns (`sample_columns`), also of the former version.

    Raises ValueError that names the file when it is missing or damaged.
    """
    index = read_json(path)
    try:
        if index["version"] == 2:
            index["samples"] = sample_columns(index["samples"])
        columns = index["samples"]
        lengths = {len(column) for name, column in columns.items() if name != "members"}
        places = {len(of_sample) for name in ("offsets", "sizes") for of_sample in columns[name]}
        if len(lengths) != 1 or not set(_COLUMNS) <= set(columns) or not places <= {len(columns["members"])}:
            raise ValueError(f"its columns are {sorted(columns)} of {sorted(lengths)} samples and {sorted(places)} members")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not the index of a shard: {type(error).__name__} {error}") from error
    return index


def sample_columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of a shard index from one mapping per sample; `sample_rows` is the inverse.

    As names do not stand a hundred times in the file, it has two fifths of the bytes, and is read in a third of the time.
    """
    members: list[str] = list(samples[0]["members"]) if samples else []
    stated = samples[0]["members"][members[0]] if members else ("offset", "size", "xxh3_64")
    columns: dict[str, list[Any]] = {name: [sample[name] for sample in samples] for name in _COLUMNS}
    for name in stated:
        columns[_OF_MEMBERS[name]] = [[sample["members"][member][name] for member in members] for sample in samples]
    return {**columns, "members": members}


def sample_rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return one mapping per sample: key, frames, days, legend, land_cover, and `members` by name, as fields of `Member`."""
    stated = [name for name, column in _OF_MEMBERS.items() if column in columns]
    places = zip(*(columns[_OF_MEMBERS[name]] for name in stated), strict=True)
    members = [
        {member: dict(zip(stated, place, strict=True)) for member, *place in zip(columns["members"], *of_sample, strict=True)}
        for of_sample in places
    ]
    rows = zip(*(columns[name] for name in _COLUMNS), members, strict=True)
    return [dict(zip((*_COLUMNS, "members"), row, strict=True)) for row in rows]


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
