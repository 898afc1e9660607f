"""Zarr stores at paths and URLs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore

from common.file_systems import READING, file_system, reach_async
from common.storage import any_path


def open_store(path: str, storage_options: Mapping[str, Any] | None) -> Store:
    """Open a Zarr store at a path or URL for reading. Raises ValueError when the URL cannot be reached by fsspec."""
    place = any_path(path)
    if isinstance(place, Path):
        return LocalStore(place, read_only=True)
    files, name = file_system(str(place), {**(storage_options or {}), "asynchronous": True})
    if not files.async_impl:
        files, name = file_system(str(place), storage_options)
        files = AsyncFileSystemWrapper(files, asynchronous=True)
    return _ReachedStore(files, read_only=True, path=name)


class _ReachedStore(FsspecStore):
    """A store at a URL whose requests have the limits and the errors of `reach`."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key; None when there is none."""
        get = super().get
        url = self.fs.unstrip_protocol(f"{self.path}/{key}")
        return await reach_async(lambda: get(key, prototype, byte_range), url, READING)
