"""Files that are whole or not there at all."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
_STALE_S = 3600.0  # a writer that lives touches its file more often


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON: equal values are equal bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A whole JSON file; NaN becomes null."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(without_nan(values), indent=2))


def without_nan(values: Any) -> Any:
    """The same structure with None for NaN: JSON has no NaN."""
    if isinstance(values, dict):
        return {key: without_nan(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


def remove_leftovers(folder: Path, everything: bool = False) -> None:
    """Remove temporary files of killed runs: those that nobody wrote to for an hour, or all when nobody else can be writing.

    Other jobs may write into the same folder, on machines whose processes cannot be seen from here.
    """
    for path in folder.glob(f".*{TEMPORARY}"):
        try:
            if everything or time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()
        except FileNotFoundError:
            continue


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
