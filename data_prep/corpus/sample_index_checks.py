"""Checks of the sample indexes: compares them with the shard indexes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from common.executors import MapJobs
from common.storage import AnyPath, local_copy
from data_prep.corpus.sample_index_writer import placed_rows, sample_index_layouts
from data_prep.corpus.shard_checks import Fault
from data_prep.corpus.summary import ShardSummary


def sample_index_faults(folder: AnyPath, summaries: Sequence[ShardSummary], map_jobs: MapJobs) -> Iterator[Fault]:
    """Yield a fault for each sample index that is not, byte for byte, what `write_sample_indexes` would write."""
    with ExitStack() as stack:
        yield from _faults(folder, summaries, map_jobs, stack)


def _faults(folder: AnyPath, summaries: Sequence[ShardSummary], map_jobs: MapJobs, stack: ExitStack) -> Iterator[Fault]:
    """Yield the faults; copies of sample indexes at a URL stay until `stack` is closed."""
    layouts, found = [], {}
    for layout in sample_index_layouts(summaries):
        path = folder / layout.name
        if not path.is_file():
            yield Fault(layout.name, "", "is missing: start shard.py again with the same arguments")
        elif path.stat().st_size != layout.bytes:
            yield Fault(layout.name, "", f"is {path.stat().st_size} bytes long; the indexes say {layout.bytes}")
        else:
            found[layout.name] = stack.enter_context(local_copy(path))
            with found[layout.name].open("rb") as file:
                if file.read(len(layout.header)) == layout.header:
                    layouts.append(layout)
                else:
                    yield Fault(layout.name, "", "does not begin like the sample index of these samples")
    for layout, shard, rows in placed_rows(folder, layouts, map_jobs):
        first = layout.first_row[shard]
        stored = np.fromfile(found[layout.name], layout.dtype, len(rows), offset=layout.byte_of(first))
        wrong = np.flatnonzero((_bytes(stored) != _bytes(rows)).any(axis=1))
        if len(wrong):
            key = rows["key"][wrong[0]].decode()
            more = f", and {len(wrong) - 1} more rows of its shard" if len(wrong) > 1 else ""
            yield Fault(layout.name, key, f"row {first + wrong[0]} is not what the index of {shard} says{more}")


def _bytes(rows: np.ndarray) -> np.ndarray:
    """View (N,) records as uint8 (N, bytes per record)."""
    return rows.view(np.uint8).reshape(len(rows), -1)
