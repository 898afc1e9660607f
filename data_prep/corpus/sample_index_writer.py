"""The tables of samples made from the indexes, with as much memory as one shard takes, and compared with them.

Workers turn an index into rows; the driver knows from the summaries where each shard's rows belong, and writes them there as
they come. So the bytes depend neither on the number of workers nor on who was first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.executors import MapJobs
from common.json_files import read_json
from common.progress import Progress
from data_prep.corpus.description import ShardSummary
from data_prep.corpus.sample_index import TABLE_MEMBERS, record_dtype, table_name
from data_prep.corpus.shard_checks import Fault


@dataclass
class TableLayout:
    """A table to be: its file name, the bytes of the longest key, and by name of index the first row of each shard."""

    name: str
    key_bytes: int = 1
    rows: int = 0
    first_row: dict[str, int] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype:
        return record_dtype(self.key_bytes)

    @property
    def header(self) -> bytes:
        """What stands before the records in a .npy file."""
        buffer = io.BytesIO()
        about: Any = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(buffer, about)
        return buffer.getvalue()

    @property
    def bytes(self) -> int:
        return self.byte_of(self.rows)

    def byte_of(self, row: int) -> int:
        """Where a row begins in the file."""
        return len(self.header) + row * self.dtype.itemsize


def table_layouts(summaries: Sequence[ShardSummary]) -> list[TableLayout]:
    """The tables of a corpus, given its shards in order; none for a source and split without samples."""
    layouts: dict[str, TableLayout] = {}
    for summary in summaries:
        name = table_name(summary.source, summary.split)
        layout = layouts.setdefault(name, TableLayout(name))
        layout.first_row[summary.shard] = layout.rows
        layout.rows += summary.samples
        layout.key_bytes = max(layout.key_bytes, summary.key_bytes)
    return [layout for layout in layouts.values() if layout.rows]


def index_rows(folder: Path, shard: str) -> np.ndarray:
    """The rows of one shard, `shard` still 0; keys as wide as its longest. `shard` is the name of its tar."""
    samples = read_json((folder / shard).with_suffix(".json"))["samples"]
    keys = [sample["key"].encode() for sample in samples]
    rows = np.zeros(len(samples), record_dtype(max(map(len, keys), default=1)))
    members = [[sample["members"][name] for name in TABLE_MEMBERS] for sample in samples]
    rows["key"] = keys
    rows["frames"] = [sample["frames"] for sample in samples]
    for column in ("offset", "size"):
        values = np.array([[member[column] for member in row] for row in members], np.int64)
        rows[f"{column}s"] = values.reshape(len(samples), len(TABLE_MEMBERS))
    return rows


def write_tables(folder: Path, summaries: Sequence[ShardSummary], map_jobs: MapJobs, log: Path | None = None) -> dict[str, str]:
    """Write the tables of the corpus in `folder`; returns the xxh3_128 of each by its file name.

    `summaries` are those of the shards in the order of the plan; `log` gets the progress as JSON lines.
    """
    layouts = table_layouts(summaries)
    with ExitStack() as stack:
        files = {}
        for layout in layouts:
            temporary = stack.enter_context(whole_file(folder / layout.name))
            files[layout.name] = file = stack.enter_context(temporary.open("wb"))
            file.write(layout.header)
        # Not through a memory map: a full disk would end the process instead of raising an error.
        for layout, shard, rows in _placed_rows(folder, layouts, map_jobs, log):
            file = files[layout.name]
            file.seek(layout.byte_of(layout.first_row[shard]))
            file.write(rows.tobytes())
    return {layout.name: checksum_of(folder / layout.name) for layout in layouts}


def table_faults(folder: Path, summaries: Sequence[ShardSummary], map_jobs: MapJobs) -> Iterator[Fault]:
    """What is wrong with the tables: each must be, byte for byte, the one that `write_tables` would write."""
    layouts = []
    for layout in table_layouts(summaries):
        path = folder / layout.name
        if not path.is_file():
            yield Fault(layout.name, "", "is missing: start shard.py again with the same arguments")
        elif path.stat().st_size != layout.bytes:
            yield Fault(layout.name, "", f"is {path.stat().st_size} bytes long; the indexes say {layout.bytes}")
        else:
            with path.open("rb") as file:
                if file.read(len(layout.header)) == layout.header:
                    layouts.append(layout)
                else:
                    yield Fault(layout.name, "", "does not begin like a table of these samples")
    for layout, shard, rows in _placed_rows(folder, layouts, map_jobs):
        first = layout.first_row[shard]
        stored = np.fromfile(folder / layout.name, layout.dtype, len(rows), offset=layout.byte_of(first))
        wrong = np.flatnonzero((_bytes(stored) != _bytes(rows)).any(axis=1))
        if len(wrong):
            key = rows["key"][wrong[0]].decode()
            more = f", and {len(wrong) - 1} more rows of its shard" if len(wrong) > 1 else ""
            yield Fault(layout.name, key, f"row {first + wrong[0]} is not what the index of {shard} says{more}")


def _bytes(rows: np.ndarray) -> np.ndarray:
    """(N,) records -> uint8 (N, bytes of each)."""
    return rows.view(np.uint8).reshape(len(rows), -1)


def _placed_rows(
    folder: Path, layouts: Sequence[TableLayout], map_jobs: MapJobs, log: Path | None = None
) -> Iterator[tuple[TableLayout, str, np.ndarray]]:
    """Layout of the table, name and rows of each shard, as they come."""
    places = {shard: (layout, number) for layout in layouts for number, shard in enumerate(layout.first_row)}
    with Progress("table", total=len(places), log=log) as progress:
        for shard, found in map_jobs(partial(index_rows, folder), list(places)):
            layout, number = places[shard]
            rows = found.astype(layout.dtype)
            rows["shard"] = number
            yield layout, shard, rows
            progress.add(rows.nbytes)
