"""Where samples lie in the shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus.dataset import Corpus
from data_prep.corpus.sample_index import INDEXED_MEMBERS as MEMBERS
from data_prep.corpus.sample_index import open_sample_index

__all__ = ["MEMBERS", "SampleTable"]

PIXELS, VALID, DATES, LAND_COVER, CHECKSUMS = range(5)


class SampleTable:
    """Where the samples of one source lie. The arrays are mapped from a file: rows are read when they are asked for.

    Attributes:
        shards: paths or URLs; shard (N,) int32 points into it.
        keys: (N,) fixed-width bytes.
        frames: (N,) int32, frames of the year.
        offsets, sizes: (N, 5) int64, bytes of each of `MEMBERS` in the shard.
        shortest: least number of frames.
        frame_shape: (C, H, W).
        dtype: of the pixels.
        legend: name of the one that the samples are counted in.
        codes: length of the land-cover counts.
    """

    def __init__(self, corpus: Corpus, source: str, split: str, cache: Path | None = None) -> None:
        """`cache` is a folder of this machine for the table of a corpus at a URL; default: one for temporary files.

        Raises ValueError when the split has no samples of the source, or in several legends, and for a damaged table.
        """
        if (source, split) not in corpus.splits:
            raise ValueError(f"{corpus.folder} has no samples of source {source!r} in split {split!r}; leave it out of `mixture`")
        summary = corpus.splits[source, split]
        if len(summary.mean_shares) > 1:
            legends = sorted(summary.mean_shares)
            raise ValueError(f"samples of source {source!r} are counted in different legends {legends}; shard them apart")
        self._set(open_sample_index(corpus, source, split, cache))
        self.shards = [shard.path for shard in corpus.shards_of(source, split)]
        self.shortest = summary.shortest
        (self.legend,) = summary.mean_shares
        self.codes = len(corpus.legends[self.legend].codes)
        self.frame_shape = tuple(corpus.shapes[source])
        self.dtype = np.dtype(corpus.sensors[source].dtype)

    def __len__(self) -> int:
        return len(self.keys)

    def _set(self, table: np.ndarray) -> None:
        self._table = table
        self.keys, self.shard, self.frames = table["key"], table["shard"], table["frames"]
        self.offsets, self.sizes = table["offsets"], table["sizes"]

    def __getstate__(self) -> dict[str, Any]:
        """For another process of this machine, which maps the same file."""
        others = {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}
        assert isinstance(self._table.base, np.memmap)
        return others | {"_table": self._table.base.filename}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set(np.lib.format.open_memmap(state["_table"], mode="r").view(np.ndarray))
