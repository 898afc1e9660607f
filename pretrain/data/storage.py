"""Bytes of samples from wherever shards lie: files of this machine, or byte ranges of any fsspec URL, with a local cache."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import uuid
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from fsspec.utils import merge_offset_ranges

from common.atomic_files import TEMPORARY
from common.byte_ranges import fetch_ranges
from common.errors import is_transient
from common.retries import retried
from common.storage import is_url

_MAX_OPEN_SHARDS = 512  # half of the usual limit of 1,024 open files a process
# Unneeded bytes that are read to save a request: as many as a connection carries (about 40 MB/s from an object store) in the time
# until the first byte of an answer comes (about 25 ms).
_GAP_BYTES = 1_000_000


class DamagedSampleError(ValueError):
    """Bytes of a sample differ from those that were written, or are missing. Storage that cannot be reached is no damage."""


class SampleBytes(Protocol):
    """The bytes of one sample, at their offsets in the shard.

    Attributes:
        file: number of an open file with the same bytes at the same offsets as the shard, if there is one.
    """

    file: int | None

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer of bytes from byte `offset` of the shard. Raises DamagedSampleError when the shard ends before."""


Read = tuple[memoryview, int, int, int]  # buffer to fill, offset in the shard, frames (first, last) that it completes


class Wanted(NamedTuple):
    """The reads of one sample.

    Attributes:
        shard: path or URL.
        start, stop: bytes of the shard between which all members of the sample lie.
        reads: the reads within them.
    """

    shard: str
    start: int
    stop: int
    reads: list[Read]


class OpenShard:
    """An open file with the bytes of a shard from byte `first` on; error messages call it `name`.

    It is closed when nothing refers to it any more, so a thread never reads from a file number that another file has got.
    """

    def __init__(self, path: str | Path, first: int = 0, name: str | None = None) -> None:
        self._path, self._first, self.name = path, first, name or str(path)
        self.fd = retried(self._open)
        self.file = None if first else self.fd

    def _open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """As in `SampleBytes`. Waits for a mount that is gone for a while."""
        try:
            if os.preadv(self.fd, [buffer], offset - self._first) < len(buffer):  # a signal interrupted it, or the file ends
                self._fill(buffer, offset)
        except OSError as error:
            if not is_transient(error):
                raise
            retried(lambda: self._fill_anew(buffer, offset))

    def _fill(self, buffer: memoryview, offset: int) -> None:
        while buffer:
            done = os.preadv(self.fd, [buffer], offset - self._first)
            if done == 0:
                raise _ends(self.name, offset)
            buffer, offset = buffer[done:], offset + done

    def _fill_anew(self, buffer: memoryview, offset: int) -> None:
        """Read from the file opened again: after a mount was lost the old one stays unusable, and other threads may use it."""
        fd = self._open()
        try:
            os.dup2(fd, self.fd, inheritable=False)
        finally:
            os.close(fd)
        self._fill(buffer, offset)


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


class FetchedBytes:
    """Byte ranges of a shard in memory: `pieces` by the offset at which each starts."""

    file: int | None = None

    def __init__(self, name: str, pieces: dict[int, bytes]) -> None:
        self.name = name
        self._pieces = {start: memoryview(piece) for start, piece in pieces.items()}
        self._starts = sorted(pieces)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        start = self._starts[bisect_right(self._starts, offset) - 1]
        part = self._pieces[start][offset - start : offset - start + len(buffer)]
        if len(part) < len(buffer):
            raise _ends(self.name, offset + len(part))
        buffer[:] = part


class SampleCache:
    """Samples of remote shards as files of this machine, each with the bytes from its first to its last member.

    No file is ever evicted. An epoch visits every sample once, so the least recently used sample is the next one to be needed: a
    cache that evicts it has no hits, while one that is filled and kept has hits in proportion to its share of the corpus. All
    ranks of a machine use the same folder. A file gets its name when it is complete; checksums find later damage.

    Attributes:
        full: why samples were not kept; empty as long as all were.
    """

    def __init__(self, folder: Path, keep_free_gb: float) -> None:
        """Raises ValueError for a folder that cannot be written to."""
        self._folder, self._keep_free = folder, keep_free_gb * 1e9
        self.full = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cache {folder} cannot be made: {error}; give another folder of this machine, or none") from error

    def _path(self, wanted: Wanted) -> Path:
        address = urlsplit(wanted.shard)
        return Path(self._folder, address.netloc, address.path.lstrip("/"), f"{wanted.start}-{wanted.stop}")

    def get(self, wanted: Wanted) -> OpenShard | None:
        """The sample's file, open; None when it is missing or incomplete."""
        try:
            file = OpenShard(self._path(wanted), wanted.start, wanted.shard)
        except FileNotFoundError:
            return None
        if os.fstat(file.fd).st_size == wanted.stop - wanted.start:
            return file
        self.remove(wanted)
        return None

    def has_room(self, count: int) -> bool:
        """Whether enough of the disk stays free after `count` more bytes."""
        free = shutil.disk_usage(self._folder).free
        if free - count >= self._keep_free:
            return True
        asked = f"stream.cache_keep_free_gb={self._keep_free / 1e9:g}"
        self._note_full(f"{free / 1e9:.1f} GB of its disk are free, and {asked} leaves as many; set it lower")
        return False

    def _note_full(self, reason: str) -> None:
        place = f"{self._folder} on {socket.gethostname()}"
        self.full = f"the cache {place} keeps no more samples: {reason}, or give another stream.cache"

    def put(self, wanted: Wanted, content: bytearray) -> None:
        """Keep the bytes of a sample, unless the disk is full."""
        path = self._path(wanted)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._note_full(f"{error}; free some of its disk")
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, wanted: Wanted) -> None:
        self._path(wanted).unlink(missing_ok=True)


class Storage:
    """Shards of one corpus, at paths or URLs. Threads may share it."""

    def __init__(self, cache: SampleCache | None = None) -> None:
        """`cache` is for shards at URLs."""
        self._shards = OpenShards()
        self._cache = cache

    @property
    def full_cache(self) -> str:
        """Why the cache did not keep some samples; empty if it kept all, or if there is none."""
        return self._cache.full if self._cache is not None else ""

    def open(self, samples: Sequence[Wanted], again: bool = False) -> list[SampleBytes]:
        """The bytes of each sample. Those of URLs are fetched together, concurrently where the file system can.

        `again`, after damage, fetches them anew and replaces them in the cache. Raises what fsspec and `retried` raise.
        """
        opened: dict[int, SampleBytes] = {}
        far: dict[int, Wanted] = {}
        for i, wanted in enumerate(samples):
            path = wanted.shard.removeprefix("file://")
            if not is_url(path):
                opened[i] = self._shards[path]
                continue
            if again and self._cache is not None:
                self._cache.remove(wanted)
            cached = self._cache.get(wanted) if self._cache is not None else None
            if cached is not None:
                opened[i] = cached
            else:
                far[i] = wanted
        if far:
            opened.update(zip(far, self._fetch(list(far.values())), strict=True))
        return [opened[i] for i in range(len(samples))]

    def _fetch(self, samples: list[Wanted]) -> list[SampleBytes]:
        whole = self._cache is not None and self._cache.has_room(sum(wanted.stop - wanted.start for wanted in samples))
        ranges = [
            (wanted.shard, start, stop)
            for wanted in samples
            for start, stop in ([(wanted.start, wanted.stop)] if whole else ((at, at + len(to)) for to, at, *_ in wanted.reads))
        ]
        merged = list(zip(*merge_offset_ranges(*map(list, zip(*ranges, strict=True)), max_gap=_GAP_BYTES), strict=True))
        fetched: dict[str, dict[int, bytes]] = {}
        for (path, start, _), content in zip(merged, fetch_ranges(merged), strict=True):
            fetched.setdefault(path, {})[start] = content
        found: list[SampleBytes] = [FetchedBytes(wanted.shard, fetched[wanted.shard]) for wanted in samples]
        if whole and self._cache is not None:
            for wanted, sample in zip(samples, found, strict=True):
                kept = bytearray(wanted.stop - wanted.start)
                try:
                    sample.read_into(memoryview(kept), wanted.start)
                except DamagedSampleError:
                    continue  # the reader names the damage
                self._cache.put(wanted, kept)
        return found

    def close(self) -> None:
        """Close all files. They are opened again when they are needed."""
        self._shards.clear()


def _ends(name: str, offset: int) -> DamagedSampleError:
    return DamagedSampleError(f"{name} ends at byte {offset} in the middle of a sample; run data_prep/verify.py")
