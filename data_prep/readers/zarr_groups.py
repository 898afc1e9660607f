"""Zarr groups and their arrays, whose damage is an error, and whose absent chunks are unobserved."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr

from common.errors import is_data_error
from data_prep.archive.sensor import Sensor
from data_prep.readers.axes import check_order
from data_prep.readers.encoding import check_quality
from data_prep.readers.radiometry import unobserved_code, unobserved_number
from data_prep.readers.zarr_chunks import ChunkCheckingStore, with_fill_value
from data_prep.readers.zarr_store import open_store

UNREADABLE_METADATA = (ValueError, TypeError, KeyError)  # Zarr raises them for invalid JSON and for unknown values in it


class StoredArray:
    """An array of a group.

    Attributes:
        array: the array as Zarr has it.
        store: the store that it lies in.
        where: path or URL of the group and name of the array, for messages.
    """

    def __init__(self, array: zarr.Array[Any], store: ChunkCheckingStore, where: str) -> None:
        self.array, self.store, self.where = array, store, where
        store.watch(array)

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.array.attrs)

    @property
    def chunk(self) -> tuple[int, int]:
        """(rows, columns) of a chunk of (..., y, x)."""
        rows, cols = self.array.chunks[-2:]
        return rows, cols

    def read(self, part: tuple[Any, ...]) -> np.ndarray:
        """Read `part`, one index for each axis. Raises ValueError when a chunk is damaged or cut off."""
        self.store.absent.discard(self.array.path)
        try:
            return np.asarray(self.array.oindex[part])
        except (RuntimeError, ValueError, EOFError, zlib.error) as error:  # what the codecs raise
            if not is_data_error(error):
                raise
            raise ValueError(f"{self.where}: a chunk cannot be decoded, it is damaged or cut off: {error}") from error

    def filled_with(self, number: int) -> StoredArray:
        """The same array with absent chunks that read as `number`."""
        return StoredArray(with_fill_value(self.array, number), self.store, self.where)

    def reflectance(self, sensor: Sensor) -> StoredArray:
        """The same array with absent chunks that read as no data. Raises ValueError when its type cannot hold that."""
        return self.filled_with(unobserved_number(self.array.dtype, sensor, self.where))

    def quality(self, sensor: Sensor, attributes: Mapping[str, Any]) -> StoredArray:
        """The same array with absent chunks that read as not observed. Raises ValueError unless it can hold quality codes."""
        check_quality(self.array.dtype, attributes, sensor, self.where)
        return self.filled_with(unobserved_code(self.array.dtype, sensor.quality, self.where))


class ZarrGroup:
    """A group open for reading, in Zarr version 2 or 3, with or without consolidated metadata.

    Raises ValueError when there is no group, or its metadata cannot be read.

    Attributes:
        path: path or URL of the group.
    """

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None) -> None:
        self.path = path
        self._store = ChunkCheckingStore(open_store(path, storage_options))
        self._found: dict[str, StoredArray | None] = {}  # opening an array takes a millisecond, at a URL a request
        try:
            # A Zarr group unpickles only with an object codec, which is not used here; arrays of names are plain strings.
            self._group = zarr.open_group(self._store, mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise ValueError(f"{path}: no Zarr group there") from error
        except UNREADABLE_METADATA as error:
            if not is_data_error(error):
                raise
            raise ValueError(f"{path}: metadata of the group cannot be read: {error}") from error

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self._group.attrs)

    def find(self, name: str) -> StoredArray | None:
        """The array `name`, which may lie in a subgroup (`r10m/b02`); None where there is none."""
        if name not in self._found:
            self._found[name] = self._opened(name)
        return self._found[name]

    def _opened(self, name: str) -> StoredArray | None:
        try:
            found = self._group.get(name)
        except UNREADABLE_METADATA as error:
            if not is_data_error(error):
                raise
            raise ValueError(f"{self.path}: metadata of {name} cannot be read: {error}") from error
        return StoredArray(found, self._store, f"{self.path}/{name}") if isinstance(found, zarr.Array) else None

    def array(self, name: str, dimensions: tuple[str, ...], names: Mapping[str, str] | None = None) -> StoredArray:
        """The array `name`. Raises ValueError unless it is there, with `dimensions`; `names`: see `check_order`."""
        found = self.find(name)
        if found is None:
            raise ValueError(f"{self.path}: no array {name!r}; it holds {self._held()}")
        check_dimensions(found, dimensions, names)
        return found

    def coordinate(self, stored: StoredArray, name: str) -> StoredArray:
        """The one-dimensional array `name` nearest to an array. Raises ValueError when there is none."""
        found = self.nearest(stored, name)
        if found is None or found.array.ndim != 1:
            raise ValueError(f"{self.path}: no one-dimensional array {name!r}; it holds {self._held()}")
        return found

    def nearest(self, stored: StoredArray, name: str) -> StoredArray | None:
        """The array `name` in the group of an array, else in the groups around it (CF Conventions 1.11, section 2.7); or None."""
        found = (self.find(f"{scope}/{name}" if scope else name) for scope in _scopes(stored))
        return next((array for array in found if array is not None), None)

    def nearest_attributes(self, stored: StoredArray) -> dict[str, Any]:
        """Attributes of the group of an array, and of the groups around it, of which the nearest counts."""
        groups = (self._group[scope] if scope else self._group for scope in reversed(_scopes(stored)))
        return {name: value for group in groups for name, value in group.attrs.items()}

    def close(self) -> None:
        self._store.close()

    def _held(self) -> str:
        """The names of the arrays, for messages."""
        return str(sorted(self._group.array_keys())) if self._store.supports_listing else "arrays that cannot be listed"


def _scopes(stored: StoredArray) -> list[str]:
    """Paths of the groups that an array lies in, the nearest first; the last is empty, the root."""
    *groups, _ = stored.array.path.split("/")
    return ["/".join(groups[:depth]) for depth in range(len(groups), -1, -1)]


def check_dimensions(stored: StoredArray, dimensions: tuple[str, ...], names: Mapping[str, str] | None = None) -> None:
    """Raises ValueError unless an array has as many axes as `dimensions`, in this order where it names them.

    `names`: see `check_order`.
    """
    array = stored.array
    # Zarr version 3 stores names of dimensions itself; for version 2, xarray writes them as an attribute.
    named: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if array.ndim != len(dimensions):
        raise ValueError(f"{stored.where}: has shape {array.shape}; expected the axes {dimensions}")
    check_order([str(name) for name in named or ()], dimensions, stored.where, names)
