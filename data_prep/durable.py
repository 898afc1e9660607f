"""Files that are whole or not there at all, and the fingerprints that tell a damaged one."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON: equal values are equal bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it is synced and takes the name `path`, else it is removed.

    The name is unique: two workers that write the same shard (one believed dead) each write a file of their own.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
