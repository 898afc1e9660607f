"""What shard indexes say, for the files that describe a corpus: each index is read once, by a worker that takes several.

The contents of shards are joined as they arrive, in any order: counts and sums are integers, so that the result is always the
same. Rows of sample indexes and of rejected.jsonl wait in a temporary file, because those of 25 million samples fill the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from common.json_files import json_bytes
from data_prep.corpus.sample_index import indexed_members, record_dtype
from data_prep.corpus.summary import ShardSummary, by_source_and_split, merged, summarise

_SHARDS_TOGETHER = 64  # indexes that a worker reads in one job: a megabyte of rows


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """A shard as dataset.json lists it: the name of its tar, source, split, bytes, XXH3 (128 bits) and number of samples."""

    shard: str
    source: str
    split: str
    bytes: int
    xxh3_128: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class ShardContents:
    """What the indexes of consecutive shards of one source and split say.

    Attributes:
        shards: the shards.
        summary: the summary of all of them.
        rows: their rows of the sample index, (N,) of `record_dtype`; `shard` is 0, and keys are as wide as the longest of them.
        rejected: their lines of rejected.jsonl.
    """

    shards: tuple[WrittenShard, ...]
    summary: ShardSummary
    rows: np.ndarray
    rejected: bytes


def shards_together(counts: Sequence[int]) -> list[range]:
    """Divide shards, of which there are so many of each source and split in turn, into those that a worker reads in one job."""
    jobs, first = [], 0
    for count in counts:
        end = first + count
        jobs += [range(start, min(start + _SHARDS_TOGETHER, end)) for start in range(first, end, _SHARDS_TOGETHER)]
        first = end
    return jobs


def contents_of(index: Mapping[str, Any]) -> ShardContents:
    """Return what one shard index says."""
    summary = summarise(index)
    names = ("shard", "source", "split", "bytes", "xxh3_128")
    return ShardContents(
        shards=(WrittenShard(**{name: index[name] for name in names}, samples=summary.samples),),
        summary=summary,
        rows=_rows(index["samples"], summary),
        rejected=b"".join(json_bytes(row) + b"\n" for row in index["rejected"]),
    )


def joined(contents: Sequence[ShardContents]) -> ShardContents:
    """Join the contents of shards, at least one, in their order."""
    summary = merged([one.summary for one in contents])
    dtype = record_dtype(summary.key_bytes, summary.has_maps)
    return ShardContents(
        shards=tuple(shard for one in contents for shard in one.shards),
        summary=summary,
        rows=np.concatenate([_as(one.rows, dtype) for one in contents]),
        rejected=b"".join(one.rejected for one in contents),
    )


def _rows(samples: Mapping[str, Sequence[Any]], summary: ShardSummary) -> np.ndarray:
    rows = np.zeros(summary.samples, record_dtype(summary.key_bytes, summary.has_maps))
    if summary.samples:
        members = [samples["members"].index(name) for name in indexed_members(summary.has_maps)]
        rows["key"] = [key.encode() for key in samples["key"]]
        rows["frames"] = samples["frames"]
        rows["offsets"] = np.array(samples["offsets"], np.int64)[:, members]
        rows["sizes"] = np.array(samples["sizes"], np.int64)[:, members]
    return rows


def _as(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows with other widths of their keys; shards without samples do not know of maps."""
    return rows.astype(dtype) if len(rows) else np.zeros(0, dtype)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows and lines of some shards wait.

    Attributes:
        group: source and split of the shards.
        shards: number of them.
        offset: of the rows; the lines follow.
        row_bytes, dtype: size and type of the rows.
        line_bytes: size of the lines.
    """

    group: tuple[str, str]
    shards: int
    offset: int
    row_bytes: int
    dtype: np.dtype
    line_bytes: int


class CorpusContents:
    """The contents of all shards of a corpus.

    Attributes:
        groups: the summary of each source and split that has shards.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Begin without contents. `file`: an empty temporary file, for reading and writing."""
        self._file = file
        self._shards: dict[int, WrittenShard] = {}
        self._places: dict[int, _Place] = {}  # by the first shard
        self.groups: dict[tuple[str, str], ShardSummary] = {}

    def add(self, first: int, contents: ShardContents) -> None:
        """Add the contents of shards, of which the first has the number `first` in the plan; in any order."""
        rows, group = contents.rows.tobytes(), (contents.summary.source, contents.summary.split)
        self._places[first] = _Place(
            group, len(contents.shards), self._file.seek(0, 2), len(rows), contents.rows.dtype, len(contents.rejected)
        )
        self._file.write(rows)
        self._file.write(contents.rejected)
        self._shards |= dict(enumerate(contents.shards, first))
        self.groups = by_source_and_split((*self.groups.values(), contents.summary))

    @property
    def shards(self) -> list[WrittenShard]:
        """All shards in the order of the plan."""
        return [self._shards[number] for number in sorted(self._shards)]

    def rejected(self) -> Iterator[bytes]:
        """Yield lines of rejected.jsonl, some at a time, in the order of the plan."""
        for _, place in sorted(self._places.items()):
            if place.line_bytes:
                self._file.seek(place.offset + place.row_bytes)
                yield self._file.read(place.line_bytes)

    def rows(self, group: tuple[str, str]) -> Iterator[np.ndarray]:
        """Yield the rows of the sample index of a source and split, some at a time, in order."""
        summary = self.groups[group]
        dtype = record_dtype(summary.key_bytes, summary.has_maps)
        first_of_group = min(number for number, place in self._places.items() if place.group == group)
        for first, place in sorted(self._places.items()):
            if place.group != group or not place.row_bytes:
                continue
            self._file.seek(place.offset)
            rows = _as(np.frombuffer(self._file.read(place.row_bytes), place.dtype), dtype)
            numbers = np.arange(first, first + place.shards)
            rows["shard"] = np.repeat(numbers - first_of_group, [self._shards[number].samples for number in numbers.tolist()])
            yield rows
