"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.storage import AnyPath, RemotePath, scratch_folder

TEMPORARY = ".tmp"  # suffix of files that are being written
_STALE_S = 3600.0  # a running writer touches its file more often than this


@contextmanager
def whole_file(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary path on this machine to write to; on success `path` gets its content, whole or not at all.

    On this machine the temporary path lies beside `path`; the file is synced and renamed, else removed. Its name is unique: two
    workers that write the same shard (one of them was believed dead) never share a file. For a URL it lies in the folder for
    temporary files, and is uploaded: the object appears, or replaces the former one, when the upload is complete.
    """
    if isinstance(path, RemotePath):
        path.check_writable()
        with scratch_folder(path) as folder:
            temporary = folder / path.name
            yield temporary
            path.upload(temporary)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: AnyPath, everything: bool = False) -> None:
    """Remove temporary files of killed runs from `folder`; at a URL there are none.

    By default only files that nobody wrote to for an hour are removed, because other jobs may write into the same folder from
    machines whose processes are not visible here. `everything`: remove all of them; nobody else may be writing.
    """
    if isinstance(folder, RemotePath):
        return
    for path in folder.glob(f".*{TEMPORARY}"):
        try:
            if everything or time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()
        except FileNotFoundError:
            continue
