"""Checksums of files."""

from __future__ import annotations

import hashlib

import xxhash

from common.storage import AnyPath

_READ_BYTES = 1 << 20


def sha256_of(path: AnyPath) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of(path: AnyPath) -> str:
    """Return the XXH3 (128 bits) of a file in hexadecimal, as `xxhsum -H2` prints it; forty times as fast as sha256."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
