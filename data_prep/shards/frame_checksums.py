"""Checksums of the frames of a sample, so that a reader of some frames can check those alone.

The checksum of a frame covers everything that training reads with it: XXH3 over the pixels, then over the valid mask, each seeded
by the checksum before. The first seed covers the key, the land-cover counts, the land-cover map if there is one, and the day. So
a frame of another sample, another frame of the sample, or a shard under the name of another does not pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
import xxhash

Buffer = bytes | memoryview
checksum = xxhash.xxh3_64_intdigest  # (content, seed) -> 64 bits


def frame_checksums(
    key: str,
    land_cover: np.ndarray,
    days: np.ndarray,
    pixels: np.ndarray,
    valid: np.ndarray,
    land_cover_map: np.ndarray | None = None,
) -> np.ndarray:
    """Return one checksum per frame, uint64 (T,).

    land_cover int64 (codes,), days int32 (T,), pixels (T, C, H, W), valid bool (T, H, W), land_cover_map (..., H, W). Only the
    bytes count: raw bytes of frames, uint8 (T, bytes), give the same.
    """
    seed = checksum_seed(key.encode(), land_cover, land_cover_map)
    if not len(days):
        return np.empty(0, np.uint64)
    parts = zip(*map(_by_frame, (days, pixels, valid)), strict=True)
    return np.array([frame_checksum(seed, *part) for part in parts], np.uint64)


def checksum_seed(key: bytes, land_cover: np.ndarray, land_cover_map: np.ndarray | None = None) -> int:
    """Return the seed of a sample's frame checksums, from its key, its land-cover counts int64 (codes,), and its map if any."""
    seed = checksum(land_cover.tobytes(), checksum(key))
    return seed if land_cover_map is None else checksum(land_cover_map.tobytes(), seed)


def frame_checksum(seed: int, day: Buffer, pixels: Buffer, valid: Buffer) -> int:
    """Return the checksum of one frame, given as bytes; the day is int32."""
    return checksum(valid, checksum(pixels, checksum(day, seed)))


def _by_frame(array: np.ndarray) -> Iterator[memoryview]:
    """Yield the bytes of each frame of (T, ...)."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    size = len(data) // len(array)
    return (data[start : start + size] for start in range(0, size * len(array), size)) if size else repeat(data, len(array))
