"""Checks of the sample indexes: compares them with the shard indexes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.storage import AnyPath, local_copy
from data_prep.corpus.sample_index_writer import SampleIndexLayout, sample_index_layouts
from data_prep.corpus.shard_checks import Fault
from data_prep.corpus.shard_contents import CorpusContents


def sample_index_faults(folder: AnyPath, contents: CorpusContents) -> Iterator[Fault]:
    """Yield a fault for each sample index that is not, byte for byte, what `write_sample_indexes` would write."""
    for group, layout in sample_index_layouts(contents.groups).items():
        path = folder / layout.name
        if not path.is_file():
            yield Fault(layout.name, "", "is missing: start shard.py again with the same arguments")
        elif path.stat().st_size != layout.bytes:
            yield Fault(layout.name, "", f"is {path.stat().st_size} bytes long; the indexes say {layout.bytes}")
        else:
            yield from _faults_of_content(path, layout, group, contents)


def _faults_of_content(
    path: AnyPath, layout: SampleIndexLayout, group: tuple[str, str], contents: CorpusContents
) -> Iterator[Fault]:
    names = [shard.shard for shard in contents.shards if (shard.source, shard.split) == group]
    with local_copy(path) as local, local.open("rb") as file:
        if file.read(len(layout.header)) != layout.header:
            yield Fault(layout.name, "", "does not begin like the sample index of these samples")
            return
        first = 0
        for rows in contents.rows(group):
            stored = np.frombuffer(file.read(rows.nbytes), layout.dtype)
            wrong = np.flatnonzero((_bytes(stored) != _bytes(rows)).any(axis=1))
            for shard in np.unique(rows["shard"][wrong]).tolist():
                of_shard = wrong[rows["shard"][wrong] == shard]
                key = rows["key"][of_shard[0]].decode()
                more = f", and {len(of_shard) - 1} more rows of its shard" if len(of_shard) > 1 else ""
                yield Fault(layout.name, key, f"row {first + of_shard[0]} is not what the index of {names[shard]} says{more}")
            first += len(rows)


def _bytes(rows: np.ndarray) -> np.ndarray:
    """View (N,) records as uint8 (N, bytes per record)."""
    return rows.view(np.uint8).reshape(len(rows), -1)
