"""Detects Zarr chunks that are truncated, as an interrupted copy leaves them, and chunks that are absent."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
HEADER_BYTES = 16


def with_fill_value(array: zarr.Array[Any], fill_value: int) -> zarr.Array[Any]:
    """The same array with absent chunks, also those within shards, that read as `fill_value`.

    Zarr fills absent chunks with the fill value of the metadata, which is 0 by default. Nobody has observed a 0 there.
    """
    metadata = replace(array.metadata, fill_value=array.dtype.type(fill_value))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


@dataclass(frozen=True)
class _Watched:
    """An array: whether Blosc compresses it, whether it is sharded, and the key of its metadata."""

    is_blosc: bool
    is_sharded: bool
    metadata_key: str


class ChunkCheckingStore(WrapperStore[Store]):
    """A Zarr store that raises an error for truncated Blosc chunks, and remembers that chunks were absent.

    Blosc, the usual compressor of Zarr version 2, decodes a truncated chunk to wrong numbers without an error. But the header
    of a chunk states its length in bytes. Other compressors raise an error themselves.

    Attributes:
        absent: paths of arrays of which a chunk or shard was asked for that is not in the store. Remove a path before a read:
            then it tells whether that read met one, and the store is checked again.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._watched: dict[str, _Watched] = {}  # by path
        self.absent: set[str] = set()

    def watch(self, array: zarr.Array[Any]) -> None:
        """Check the chunks of `array` from now on."""
        self._watched[array.path] = _Watched(
            is_blosc=any(isinstance(compressor, BloscCodec | numcodecs.blosc.Blosc) for compressor in array.compressors),
            is_sharded=array.shards is not None,
            metadata_key=f"{array.path}/{'.zarray' if array.metadata.zarr_format == 2 else 'zarr.json'}",
        )

    def has_chunks(self, array: zarr.Array[Any]) -> bool:
        """Whether the store holds any chunk of `array`, and is known to hold none only where it can be listed."""
        return not self._store.supports_listing or sync(self._find_chunk(array.path))

    async def _find_chunk(self, path: str) -> bool:
        async for key in self._store.list_prefix(f"{path}/"):
            if not key.endswith(METADATA):
                return True
        return False

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key in the store.

        Raises ValueError for a chunk that is shorter than its header says, and ConnectionError when a chunk is absent and the
        metadata of its array are, too: then the whole store cannot be reached, or has been removed.
        """
        value = await self._store.get(key, prototype, byte_range)
        path = next((path for path in self._watched if key.startswith(f"{path}/")), None)
        if path is None or key.endswith(METADATA):
            return value
        array = self._watched[path]
        if value is None:
            if path not in self.absent and await self._store.get(array.metadata_key, prototype) is None:
                gone = "could not be reached: neither the chunk nor the metadata of its array are there"
                raise ConnectionError(errno.ECONNABORTED, gone, f"{self._store}/{key}")
            self.absent.add(path)
            return None
        # In a Zarr shard only values that are read by a range of bytes are chunks; other values are whole shards or an index.
        if array.is_blosc and (isinstance(byte_range, RangeByteRequest) or not array.is_sharded):
            stored = value.as_numpy_array().view(np.uint8)
            stated = int(stored[12:HEADER_BYTES].view("<u4")[0]) if len(stored) >= HEADER_BYTES else HEADER_BYTES
            if stated > len(stored):
                raise ValueError(f"{key} has {len(stored)} of {stated} bytes")
        return value
