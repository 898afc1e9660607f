"""Where samples lie in the shards, and where their small members lie in memory after one read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus.dataset import Corpus
from data_prep.corpus.sample_index import INDEXED_MEMBERS as MEMBERS
from data_prep.corpus.sample_index import open_sample_index
from pretrain.data.storage import Read

__all__ = ["MEMBERS", "SampleTable"]

PIXELS, VALID, DATES, LAND_COVER, CHECKSUMS, LAND_COVER_MAP = range(6)
DATES_DTYPE, LAND_COVER_DTYPE, CHECKSUMS_DTYPE = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.uint64)


class SampleTable:
    """Where the N samples of one source and split lie. The arrays are mapped from a file, whose rows are read when they are used.

    Attributes:
        shards: paths or URLs of the shards.
        shard: (N,) int32, position of each sample's shard in `shards`.
        keys: (N,) fixed-width bytes.
        frames: (N,) int32, number of frames of each sample.
        offsets, sizes: (N, 6) int64, bytes of each of `MEMBERS` in the shard; (N, 5) of samples without a land-cover map.
        shortest: smallest number of frames.
        frame_shape: (C, H, W).
        dtype: of the pixels.
        legend: name of the land-cover legend of the samples.
        codes: number of land-cover codes of the legend.
        map_layout: form of the samples' land-cover maps; None for samples without.
    """

    def __init__(self, corpus: Corpus, source: str, split: str, cache: Path | None = None) -> None:
        """`cache`: folder of this machine for the table of a corpus at a URL; default: the folder for temporary files.

        Raises ValueError when the split has no samples of the source or has them in several legends, and for a damaged table.
        """
        if (source, split) not in corpus.splits:
            raise ValueError(f"{corpus.folder} has no samples of source {source!r} in split {split!r}; leave it out of `mixture`")
        summary = corpus.splits[source, split]
        if len(summary.mean_shares) > 1:
            legends = sorted(summary.mean_shares)
            raise ValueError(
                f"samples of source {source!r} have land cover of different legends {legends}; shard them separately"
            )
        self._set(open_sample_index(corpus, source, split, cache))
        self.shards = [shard.path for shard in corpus.shards_of(source, split)]
        self.shortest = summary.shortest
        (self.legend,) = summary.mean_shares
        self.codes = len(corpus.legends[self.legend].codes)
        self.map_layout = corpus.map_layouts.get(source, {}).get(self.legend)
        self.frame_shape = tuple(corpus.shapes[source])
        self.dtype = np.dtype(corpus.sensors[source].dtype)

    def __len__(self) -> int:
        return len(self.keys)

    def _set(self, table: np.ndarray) -> None:
        self._table = table
        self.keys, self.shard, self.frames = table["key"], table["shard"], table["frames"]
        self.offsets, self.sizes = table["offsets"], table["sizes"]

    def __getstate__(self) -> dict[str, Any]:
        """State for another process of this machine, which maps the same file."""
        others = {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}
        assert isinstance(self._table.base, np.memmap)
        return others | {"_table": self._table.base.filename}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set(np.lib.format.open_memmap(state["_table"], mode="r").view(np.ndarray))


class SampleLayout:
    """Where the members of B samples lie in their shards, and where in memory those that are read at once lie.

    At once are read, of each sample, the bytes from its first small member up to the data of its pixels (up to its end when the
    sample is read whole), and the bytes of small members behind the pixels; shards written by data_prep have no such members.

    Attributes:
        lengths: B numbers of frames.
        begin, end: (B,) bytes of the shard between which the members lie.
        data: (B, members) offsets of the arrays in the shard, behind their headers.
        nbytes: size of the memory for what is read at once.
    """

    def __init__(self, table: SampleTable, samples: np.ndarray, frame_bytes: tuple[int, int], whole: bool) -> None:
        self._offsets, lengths = table.offsets[samples], table.frames[samples].astype(np.int64)
        self.lengths = lengths.tolist()
        ends = self._offsets + table.sizes[samples]
        by_frame = np.array([*frame_bytes, DATES_DTYPE.itemsize, 0, CHECKSUMS_DTYPE.itemsize, 0])
        sizes = lengths[:, None] * by_frame[: self._offsets.shape[1]]
        sizes[:, LAND_COVER] = table.codes * LAND_COVER_DTYPE.itemsize
        if table.map_layout is not None:
            sizes[:, LAND_COVER_MAP] = table.map_layout.nbytes
        self.data = ends - sizes
        self.begin, self.end = self._offsets.min(axis=1), ends.max(axis=1)
        behind = self._offsets > self._offsets[:, [PIXELS]]
        if whole:
            behind[:] = False
            self._starts, self._stops = np.stack([self.begin] * 2, axis=1), np.stack([self.end, self.begin], axis=1)
        else:
            behind[:, VALID] = False
            before = np.where(behind, self._offsets[:, [PIXELS]], self._offsets)
            before[:, VALID] = self._offsets[:, PIXELS]
            after = np.where(behind, self._offsets, np.iinfo(np.int64).max).min(axis=1)
            self._starts = np.stack([before.min(axis=1), after], axis=1)
            self._stops = np.stack([self.data[:, PIXELS], np.where(behind, ends, after[:, None]).max(axis=1)], axis=1)
        # In memory as in the shard arrays begin at multiples of 8 bytes.
        rounded = -(-(self._stops - self._starts).reshape(-1) // 8) * 8
        self._parts = (np.cumsum(rounded) - rounded).reshape(-1, 2)
        self.nbytes = int(rounded.sum())
        part = behind.astype(np.int64)
        self._place = self.data - np.take_along_axis(self._starts, part, 1) + np.take_along_axis(self._parts, part, 1)
        self._places, self._headers = self._place.tolist(), self.data - self._offsets

    def small_reads(self, memory: np.ndarray) -> list[list[Read]]:
        """Reads of each sample into the memory uint8 (nbytes,): one, or two with small members behind the pixels."""
        view = memory.data
        parts = zip(self._parts.tolist(), self._starts.tolist(), self._stops.tolist(), strict=True)
        return [
            [
                (view[place : place + stop - start], start, 0, 0)
                for place, start, stop in zip(*of_sample, strict=True)
                if stop > start
            ]
            for of_sample in parts
        ]

    def headers(self, memory: np.ndarray, member: int) -> list[bytes]:
        """The header of a member of each sample: the bytes before its data."""
        lengths, places = self._headers[:, member], self._place[:, member]
        if (lengths != lengths[0]).any():
            return [memory[place - length : place].tobytes() for place, length in zip(places, lengths, strict=True)]
        found: list[bytes] = memory[places[:, None] + np.arange(-lengths[0], 0)].view(f"V{lengths[0]}")[:, 0].tolist()
        return found

    def take(self, memory: np.ndarray, member: int, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copy `items` of a member of samples `rows` to `out`, of the shape that both broadcast to, and return it."""
        places = self._place[:, member] // out.itemsize
        return memory.view(out.dtype).take(places[rows] + items, None, out, "clip")

    def take_whole(self, memory: np.ndarray, member: int, out: np.ndarray) -> None:
        """Copy a member of each sample to `out` (B, ...)."""
        rows = out.reshape(len(out), -1).view(np.uint8)  # in long runs, for which a copy of each is faster than `take`
        for row, places in zip(rows, self._places, strict=True):
            row[:] = memory[places[member] : places[member] + len(row)]

    def take_frames(self, memory: np.ndarray, member: int, sample: int, frames: np.ndarray, out: np.ndarray) -> None:
        """Copy frames of a sample that was read whole to `out` (frames, ...)."""
        shape = (self.lengths[sample], *out.shape[1:])
        np.ndarray(shape, out.dtype, memory.data, self._places[sample][member]).take(frames, 0, out, "clip")
