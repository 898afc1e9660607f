"""Zarr chunks that are cut off, as by a copy that was interrupted."""

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


class WholeChunks(WrapperStore[Store]):
    """A Zarr store that refuses chunks of Blosc that are cut off.

    Blosc, the usual compressor of Zarr version 2, decodes them without an error to numbers that nobody wrote. Its header states
    how many bytes it wrote. Other compressors notice by themselves.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._sharded: dict[str, bool] = {}  # by path, the arrays compressed with Blosc

    def watch(self, array: zarr.Array[Any]) -> None:
        """Look at the chunks of `array` from now on."""
        if any(isinstance(compressor, BloscCodec | numcodecs.blosc.Blosc) for compressor in array.compressors):
            self._sharded[array.path] = array.shards is not None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """What the store holds. Raises ValueError for a chunk that is shorter than its header says."""
        value = await self._store.get(key, prototype, byte_range)
        array = next((path for path in self._sharded if key.startswith(f"{path}/")), None)
        if value is None or array is None or key.endswith(METADATA):
            return value
        # Of a shard only the parts that are asked for by their bytes are chunks; the rest holds many, or is their index.
        if isinstance(byte_range, RangeByteRequest) or not self._sharded[array]:
            stored = value.as_numpy_array().view(np.uint8)
            stated = int(stored[12:HEADER_BYTES].view("<u4")[0]) if len(stored) >= HEADER_BYTES else HEADER_BYTES
            if stated > len(stored):
                raise ValueError(f"{key} has {len(stored)} of {stated} bytes")
        return value
