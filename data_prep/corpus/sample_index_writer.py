"""Writes the sample indexes of a corpus from the contents of its shards, with the memory of some shards."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.storage import AnyPath
from data_prep.corpus.sample_index import record_dtype, sample_index_name
from data_prep.corpus.shard_contents import CorpusContents
from data_prep.corpus.summary import ShardSummary


@dataclass(frozen=True)
class SampleIndexLayout:
    """Layout of a sample index: its file name, the dtype of its records, and their number."""

    name: str
    dtype: np.dtype
    rows: int

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
        return len(self.header) + self.rows * self.dtype.itemsize


def sample_index_layouts(groups: Mapping[tuple[str, str], ShardSummary]) -> dict[tuple[str, str], SampleIndexLayout]:
    """Return the layout of the sample index of each source and split that has samples."""
    return {
        group: SampleIndexLayout(sample_index_name(*group), record_dtype(summary.key_bytes, summary.has_maps), summary.samples)
        for group, summary in groups.items()
        if summary.samples
    }


def write_sample_indexes(folder: AnyPath, contents: CorpusContents) -> dict[str, str]:
    """Write the sample indexes of the corpus in `folder`; return the xxh3_128 of each by its file name."""
    checksums = {}
    for group, layout in sample_index_layouts(contents.groups).items():
        with whole_file(folder / layout.name) as temporary:
            # Not through a memory map, where a full disk would kill the process instead of raising an error.
            with temporary.open("wb") as file:
                file.write(layout.header)
                for rows in contents.rows(group):
                    file.write(rows.tobytes())
            checksums[layout.name] = checksum_of(temporary)
    return checksums
