"""Where samples lie in the shards."""

from __future__ import annotations

import numpy as np

from data_prep.corpus import Corpus, read_json, sample_entries

MEMBERS = ("pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "checksums.npy")  # json is for people
PIXELS, VALID, DATES, LAND_COVER, CHECKSUMS = range(5)


class SampleTable:
    """Where the samples of one source lie, in arrays: as Python objects 25 million samples would not fit in memory.

    Attributes:
        shards: paths; shard (N,) int32 points into it.
        keys: (N,) fixed-width bytes.
        frames: (N,) int32, frames of the year.
        offsets, sizes: (N, 5) int64, bytes of each of `MEMBERS` in the shard.
        frame_shape: (C, H, W).
        codes: length of the land-cover counts.
    """

    def __init__(self, corpus: Corpus, source: str, split: str) -> None:
        shards = [shard for shard in corpus.shards if (shard.source, shard.split) == (source, split)]
        if not any(shard.samples for shard in shards):
            raise ValueError(f"{corpus.folder} has no samples of source {source!r} in split {split!r}; leave it out of `mixture`")
        self.shards = [shard.path for shard in shards]
        for shard in shards:
            size = shard.path.stat().st_size if shard.path.is_file() else 0
            if size != shard.bytes:
                raise ValueError(f"{shard.path} has {size} of {shard.bytes} bytes; copy it again, or run data_prep/verify.py")
        keys, frames, places = [], [], []
        legends: set[str] = set()
        for shard in shards:  # one index at a time becomes Python objects
            entries = sample_entries(read_json(shard.index), corpus.folder)
            keys.append(np.array([entry.key.encode() for entry in entries]))
            frames.append(np.array([entry.frames for entry in entries], dtype=np.int32))
            members = [[entry.members[name] for name in MEMBERS] for entry in entries]
            lies = [[(member.offset, member.size) for member in row] for row in members]
            places.append(np.array(lies, dtype=np.int64).reshape(-1, len(MEMBERS), 2))
            legends.update(entry.legend for entry in entries)
        self.shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(part) for part in keys])
        self.keys, self.frames = np.concatenate(keys), np.concatenate(frames)
        self.offsets, self.sizes = np.moveaxis(np.concatenate(places), 2, 0)
        if len(legends) > 1:
            raise ValueError(f"samples of source {source!r} are counted in different legends {sorted(legends)}; shard them apart")
        self.legend = legends.pop()
        self.codes = len(corpus.legends[self.legend].codes)
        self.frame_shape = tuple(corpus.shapes[source])
        self.dtype = np.dtype(corpus.sensors[source].dtype)
        self.shortest = int(self.frames.min())

    def __len__(self) -> int:
        return len(self.keys)
