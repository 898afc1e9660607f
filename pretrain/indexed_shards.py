"""Where samples lie in the shards, files held open, and the memory they are read into."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from data_prep.corpus import Corpus
from data_prep.sample_table import TABLE_MEMBERS as MEMBERS
from data_prep.sample_table import open_table
from data_prep.shard_file import frame_checksums

PIXELS, VALID, DATES, LAND_COVER, CHECKSUMS = range(5)
_MAX_OPEN_SHARDS = 512  # half of the usual limit of 1,024 open files a process


class OpenShard:
    """An open file. It closes when its last user lets go, so a thread never reads from a number that was given away."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer of bytes from byte `offset`. Raises ValueError when the file ends before."""
        while buffer:
            done = os.preadv(self.fd, [buffer], offset)
            if done == 0:
                raise ValueError(f"{self.path} ends at byte {offset} in the middle of a sample; run data_prep/verify.py")
            buffer, offset = buffer[done:], offset + done


class OpenShards:
    """The most recently used shards, open; opened at first use in each process."""

    def __init__(self, limit: int = _MAX_OPEN_SHARDS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenShard] = OrderedDict()

    def __getitem__(self, path: str) -> OpenShard:
        with self._lock:
            if path not in self._open:
                self._open[path] = OpenShard(path)
            self._open.move_to_end(path)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
            return self._open[path]

    def clear(self) -> None:
        with self._lock:
            self._open.clear()


class BatchMemory:
    """Memory of batches, used again when a batch is no longer referred to.

    Fresh memory costs a page fault every 4 KiB, which takes longer than copying the page: half of the stream's speed.
    With a GPU the memory is pinned, and torch's allocator of pinned memory does the same.
    """

    def __init__(self) -> None:
        self._pin = torch.cuda.is_available()
        self._free: dict[int, list[mmap.mmap]] = {}

    def empty(self, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[torch.Tensor, np.ndarray]:
        """An uninitialised tensor and the array over the same memory."""
        if self._pin:
            tensor = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)
            return tensor, tensor.numpy()
        size = max(1, dtype.itemsize * int(np.prod(shape)))
        free = self._free.setdefault(size, [])
        try:
            block = free.pop()  # append and pop are atomic, so threads need no lock
        except IndexError:
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                block.madvise(mmap.MADV_HUGEPAGE)
        array = np.ndarray(shape, dtype, buffer=block)
        # The tensor and every view of it hold the array, and only when it goes is the block free.
        weakref.finalize(array, free.append, block).atexit = False
        return torch.from_numpy(array), array


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
        table = open_table(corpus, source, split, cache)
        self.shards = [shard.path for shard in corpus.shards_of(source, split)]
        self.keys, self.shard, self.frames = table["key"], table["shard"], table["frames"]
        self.offsets, self.sizes = table["offsets"], table["sizes"]
        self.shortest = summary.shortest
        (self.legend,) = summary.mean_shares
        self.codes = len(corpus.legends[self.legend].codes)
        self.frame_shape = tuple(corpus.shapes[source])
        self.dtype = np.dtype(corpus.sensors[source].dtype)

    def __len__(self) -> int:
        return len(self.keys)

    def read_whole(self, shard: OpenShard, sample: int, member: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A small member. Raises ValueError unless it has this dtype and shape."""
        buffer = bytearray(int(self.sizes[sample, member]))
        shard.read_into(memoryview(buffer), int(self.offsets[sample, member]))
        data = max(0, len(buffer) - dtype.itemsize * int(np.prod(shape)))
        self.expect_header(bytes(buffer[:data]), sample, member, dtype, shape)
        return np.frombuffer(buffer, dtype, offset=data).reshape(shape)

    def expect_header(self, header: bytes, sample: int, member: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless `header` is that of a .npy of this dtype and shape in C order."""
        if _parse_header(header) != (shape, False, dtype):
            raise ValueError(
                f"{self.shards[self.shard[sample]]}: {self.keys[sample].decode()}.{MEMBERS[member]} is not {dtype}{shape} "
                "as the index says; run data_prep/verify.py"
            )

    def expect_checksums(
        self, written: np.ndarray, sample: int, land_cover: np.ndarray, days: np.ndarray, pixels: np.ndarray, valid: np.ndarray
    ) -> None:
        """Raises ValueError unless the frames that were read have the checksums that were `written` for them, uint64 (T,)."""
        key = self.keys[sample].decode()
        wrong = np.flatnonzero(frame_checksums(key, land_cover, days, pixels, valid) != written)
        if len(wrong):
            raise ValueError(
                f"{self.shards[self.shard[sample]]}: {len(wrong)} of {len(written)} frames read of {key} are not as they were "
                f"written, first that of {days[wrong[0]].astype('datetime64[D]')}; run data_prep/verify.py"
            )


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype] | None:
    """Shape, whether in Fortran order, and dtype from the header of a .npy file; None when it is none.

    Few headers differ in a corpus (one for each number of frames), so each is parsed once.
    """
    file = BytesIO(header)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return None
    return (shape, fortran_order, dtype) if file.tell() == len(header) else None
