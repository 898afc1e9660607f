"""How samples lie in a shard: the members of each, the bytes of the tar around them, and the checksums over them.

Every byte is hashed once on its way into the file, and no array is copied.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, BinaryIO

import numpy as np
import xxhash

from common.json_files import json_bytes
from data_prep.shards.sample import Sample

INDEX_VERSION = 2
FAILED = ".failed.jsonl"  # suffix after a shard's name
MEMBERS = ("checksums.npy", "dates.npy", "json", "landcover.npy", "pixels.npy", "valid.npy")  # as they lie in a tar
LABEL = "label.npy"  # of samples with a label, the last one in a tar: pretraining reads past what lies before it

Buffer = bytes | memoryview
checksum = xxhash.xxh3_64_intdigest  # (content, seed) -> 64 bits


def sample_members(sample: Sample, bands: Sequence[str]) -> dict[str, list[Buffer]]:
    """The members of a sample by name, as they lie in the tar; each as the buffers that make it up."""
    about = {
        "source": sample.source,
        "scene": sample.scene,
        "region": sample.region,
        "split": sample.split,
        "year": int(str(sample.dates[0].astype("datetime64[Y]"))),
        "crs": sample.footprint.crs,
        "transform": list(sample.footprint.transform)[:6],
        "height": sample.footprint.height,
        "width": sample.footprint.width,
        "legend": sample.legend,
        "bands": list(bands),
    }
    dates = sample.dates.astype(np.int32)
    members: dict[str, list[Buffer]] = {
        "checksums.npy": _npy(frame_checksums(sample.key, sample.land_cover, dates, sample.pixels, sample.valid)),
        "dates.npy": _npy(dates),
        "json": [json_bytes(about)],
        "landcover.npy": _npy(sample.land_cover),
        "pixels.npy": _npy(sample.pixels),
        "valid.npy": _npy(sample.valid),
    }
    assert tuple(members) == MEMBERS
    if sample.label is not None:
        members[LABEL] = _npy(sample.label)
    return members


def frame_checksums(key: str, land_cover: np.ndarray, days: np.ndarray, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A checksum a frame over all that training takes from a sample, so that a reader of some frames can check those.

    land_cover int64 (codes,), days int32 (T,), pixels (T, C, H, W), valid bool (T, H, W) -> uint64 (T,). XXH3 over the pixels,
    then over the valid mask, seeded by the checksum before; the first seed is of the key, the counts and the day. So frames
    of another sample, another frame, or a shard under another's name do not pass.
    """
    seed = checksum_seed(key.encode(), land_cover)
    if not len(days):
        return np.empty(0, np.uint64)
    parts = zip(*map(_by_frame, (days, pixels, valid)), strict=True)
    return np.array([frame_checksum(seed, *part) for part in parts], np.uint64)


def checksum_seed(key: bytes, land_cover: np.ndarray) -> int:
    """What the checksums of a sample's frames begin with, of its key and its counts, int64 (codes,)."""
    return checksum(land_cover.tobytes(), checksum(key))


def frame_checksum(seed: int, day: Buffer, pixels: Buffer, valid: Buffer) -> int:
    """The checksum of one frame, the day being int32."""
    return checksum(valid, checksum(pixels, checksum(day, seed)))


def _by_frame(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of each frame of (T, ...)."""
    data = _bytes(np.ascontiguousarray(array))
    size = len(data) // len(array)
    return (data[start : start + size] for start in range(0, size * len(array), size)) if size else repeat(data, len(array))


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _npy(array: np.ndarray) -> list[Buffer]:
    """What `numpy.save` writes: the header and the array's own memory."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), _bytes(array)]


class TarWriter:
    """Writes a tar as `tarfile` would in GNU format with its own defaults (mtime 0, no owner, mode 0644).

    Attributes:
        size: bytes written.
        checksum: XXH3 of 128 bits over all of them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = xxhash.xxh3_128()
        self.size = 0

    @property
    def checksum(self) -> str:
        return self._digest.hexdigest()

    def add(self, name: str, content: Sequence[Buffer]) -> dict[str, Any]:
        """Append a member; returns the byte offset, size and sha256 of its content."""
        size = sum(map(len, content))
        info = tarfile.TarInfo(name)
        info.size = size
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        place = {"offset": self.size, "size": size}
        sha256 = hashlib.sha256()
        for part in content:
            self._write(part)
            sha256.update(part)
        self._write(bytes(-size % tarfile.BLOCKSIZE))
        return {**place, "sha256": sha256.hexdigest()}

    def end(self) -> None:
        """The blocks of zeros that end a tar."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))

    def _write(self, part: Buffer) -> None:
        self._file.write(part)
        self._digest.update(part)
        self.size += len(part)
