"""The format of a shard: the members of a sample, and the tar around them.

Every byte is hashed on its way into the file, and no array is copied.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import xxhash

from common.json_files import json_bytes
from data_prep.shards.frame_checksums import Buffer, frame_checksums
from data_prep.shards.sample import Sample

FAILED = ".failed.jsonl"  # suffix of the file that lists the samples of a shard that could not be read
LAND_COVER_MAP = "landcover_map.npy"  # not of shards of earlier versions; before the pixels, so that one read gets all but frames
MEMBERS = ("checksums.npy", "dates.npy", "json", "landcover.npy", LAND_COVER_MAP, "pixels.npy", "valid.npy")  # as in the tar
LABEL = "label.npy"  # only of samples with a label; the last member, so that pretraining does not read past it


def member_names(has_map: bool, has_label: bool) -> list[str]:
    """Return the names of the members of each sample of a shard, in the order of the tar."""
    names = [name for name in MEMBERS if has_map or name != LAND_COVER_MAP]
    return [*names, LABEL] if has_label else names


def tar_members(sample: Sample, bands: Sequence[str]) -> dict[str, list[Buffer]]:
    """Return the members of the tar that hold a sample, by name and in order; each is a list of buffers to write in turn."""
    metadata = {
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
    dates, land_cover_map = sample.dates.astype(np.int32), sample.land_cover_map
    checksums = frame_checksums(sample.key, sample.land_cover, dates, sample.pixels, sample.valid, land_cover_map)
    members: dict[str, list[Buffer]] = {
        "checksums.npy": npy_buffers(checksums),
        "dates.npy": npy_buffers(dates),
        "json": [json_bytes(metadata)],
        "landcover.npy": npy_buffers(sample.land_cover),
        "pixels.npy": npy_buffers(sample.pixels),
        "valid.npy": npy_buffers(sample.valid),
    }
    if land_cover_map is not None:
        members[LAND_COVER_MAP] = npy_buffers(land_cover_map)
    if sample.label is not None:
        members[LABEL] = npy_buffers(sample.label)
    return {name: members[name] for name in member_names(land_cover_map is not None, sample.label is not None)}


def npy_buffers(array: np.ndarray) -> list[Buffer]:
    """Return what `numpy.save` writes: the header and the array's own memory."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), array.reshape(-1).view(np.uint8).data]


class TarWriter:
    """Writes the same tar as `tarfile` in GNU format with its defaults (mtime 0, no owner, mode 0644).

    Attributes:
        size: bytes written so far.
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
        """Append a member; return the byte offset, size and XXH3 (64 bits) of its content."""
        size = sum(map(len, content))
        info = tarfile.TarInfo(name)
        info.size = size
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        offset = self.size
        digest = xxhash.xxh3_64()
        for part in content:
            self._write(part)
            digest.update(part)
        self._write(bytes(-size % tarfile.BLOCKSIZE))
        return {"offset": offset, "size": size, "xxh3_64": digest.hexdigest()}

    def end(self) -> None:
        """Write the zeros that end a tar."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))

    def _write(self, part: Buffer) -> None:
        self._file.write(part)
        self._digest.update(part)
        self.size += len(part)
