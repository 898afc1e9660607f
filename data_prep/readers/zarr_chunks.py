"""Detects truncated Zarr chunks, such as an interrupted copy leaves."""

from __future__ import annotations

from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
HEADER_BYTES = 16


class ChunkCheckingStore(WrapperStore[Store]):
    """A Zarr store that raises an error for truncated Blosc chunks.

    Blosc, the usual compressor of Zarr version 2, decodes a truncated chunk to wrong numbers without an error. But the header
    of a chunk states its length in bytes. Other compressors raise an error themselves.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._sharded: dict[str, bool] = {}  # arrays compressed with Blosc, by path: True when they are sharded

    def watch(self, array: zarr.Array[Any]) -> None:
        """Check the chunks of `array` from now on."""
        if any(isinstance(compressor, BloscCodec | numcodecs.blosc.Blosc) for compressor in array.compressors):
            self._sharded[array.path] = array.shards is not None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key in the store. Raises ValueError for a chunk that is shorter than its header says."""
        value = await self._store.get(key, prototype, byte_range)
        array = next((path for path in self._sharded if key.startswith(f"{path}/")), None)
        if value is None or array is None or key.endswith(METADATA):
            return value
        # In a Zarr shard only values that are read by a range of bytes are chunks; other values are whole shards or an index.
        if isinstance(byte_range, RangeByteRequest) or not self._sharded[array]:
            stored = value.as_numpy_array().view(np.uint8)
            stated = int(stored[12:HEADER_BYTES].view("<u4")[0]) if len(stored) >= HEADER_BYTES else HEADER_BYTES
            if stated > len(stored):
                raise ValueError(f"{key} has {len(stored)} of {stated} bytes")
        return value
