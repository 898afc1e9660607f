"""Writes the sample indexes from the shard indexes, and compares them, with the memory of one shard.

Workers turn a shard index into rows. The driver knows from the summaries where the rows of each shard belong and writes them
there, so that the bytes depend neither on the number of workers nor on the order in which they finish.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.executors import MapJobs
from common.json_files import read_json
from common.progress import Progress
from common.storage import AnyPath
from data_prep.corpus.sample_index import indexed_members, record_dtype, sample_index_name
from data_prep.corpus.summary import ShardSummary, holds_maps


@dataclass
class SampleIndexLayout:
    """Layout of a sample index.

    Attributes:
        name: file name.
        key_bytes: bytes of the longest key.
        rows: number of rows.
        has_maps: True when the samples hold a land-cover map.
        first_row: first row of each shard by the name of its tar, in the order of shards.
    """

    name: str
    key_bytes: int = 1
    rows: int = 0
    has_maps: bool = False
    first_row: dict[str, int] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype:
        return record_dtype(self.key_bytes, self.has_maps)

    @property
    def header(self) -> bytes:
        """Bytes of the .npy file before the records."""
        buffer = io.BytesIO()
        header: Any = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.byte_of(self.rows)

    def byte_of(self, row: int) -> int:
        """Return the byte offset of a row in the file."""
        return len(self.header) + row * self.dtype.itemsize


def sample_index_layouts(summaries: Sequence[ShardSummary]) -> list[SampleIndexLayout]:
    """Return the layouts of all sample indexes, given the shards in order; a source and split without samples has none."""
    layouts: dict[str, SampleIndexLayout] = {}
    for summary in summaries:
        name = sample_index_name(summary.source, summary.split)
        layout = layouts.setdefault(name, SampleIndexLayout(name))
        layout.first_row[summary.shard] = layout.rows
        layout.rows += summary.samples
        layout.key_bytes = max(layout.key_bytes, summary.key_bytes)
        layout.has_maps |= summary.has_maps
    return [layout for layout in layouts.values() if layout.rows]


def rows_of_shard(folder: AnyPath, shard: str) -> np.ndarray:
    """Make the rows of one shard that are written into a sample index, given the name of its tar.

    The column `shard` is 0, and keys are as wide as the longest key of the shard.
    """
    samples = read_json((folder / shard).with_suffix(".json"))["samples"]
    keys = [sample["key"].encode() for sample in samples]
    has_maps = holds_maps(samples)
    rows = np.zeros(len(samples), record_dtype(max(map(len, keys), default=1), has_maps))
    members = [[sample["members"][name] for name in indexed_members(has_maps)] for sample in samples]
    rows["key"] = keys
    rows["frames"] = [sample["frames"] for sample in samples]
    for column in ("offset", "size"):
        values = np.array([[member[column] for member in row] for row in members], np.int64)
        rows[f"{column}s"] = values.reshape(len(samples), len(indexed_members(has_maps)))
    return rows


def write_sample_indexes(
    folder: AnyPath, summaries: Sequence[ShardSummary], map_jobs: MapJobs, log: AnyPath | None = None
) -> dict[str, str]:
    """Write the sample indexes of the corpus in `folder`; return the xxh3_128 of each by its file name.

    `summaries` are those of the shards in the order of the plan; `log` receives the progress as JSON lines.
    """
    layouts = sample_index_layouts(summaries)
    with ExitStack() as stack:
        files, temporaries = {}, {}
        for layout in layouts:
            temporaries[layout.name] = temporary = stack.enter_context(whole_file(folder / layout.name))
            files[layout.name] = file = stack.enter_context(temporary.open("wb"))
            file.write(layout.header)
        # Not through a memory map, where a full disk would kill the process instead of raising an error.
        for layout, shard, rows in placed_rows(folder, layouts, map_jobs, log):
            file = files[layout.name]
            file.seek(layout.byte_of(layout.first_row[shard]))
            file.write(rows.tobytes())
        for file in files.values():
            file.close()
        return {name: checksum_of(temporary) for name, temporary in temporaries.items()}


def placed_rows(
    folder: AnyPath, layouts: Sequence[SampleIndexLayout], map_jobs: MapJobs, log: AnyPath | None = None
) -> Iterator[tuple[SampleIndexLayout, str, np.ndarray]]:
    """Yield the layout of the sample index, the tar and the rows of each shard, in the order in which workers finish."""
    positions = {shard: (layout, number) for layout in layouts for number, shard in enumerate(layout.first_row)}
    with Progress("index samples", total=len(positions), log=log) as progress:
        for shard, found in map_jobs(partial(rows_of_shard, folder), list(positions)):
            layout, number = positions[shard]
            rows = found.astype(layout.dtype) if len(found) else np.zeros(0, layout.dtype)
            rows["shard"] = number
            yield layout, shard, rows
            progress.add(rows.nbytes)
