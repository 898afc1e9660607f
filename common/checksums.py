"""Fingerprints of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash

_READ_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of(path: Path) -> str:
    """XXH3 of 128 bits of a file's bytes in hexadecimal, what `xxhsum -H2` prints; forty times as fast as sha256."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
