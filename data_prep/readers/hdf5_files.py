"""HDF5 files: opens them at a path or URL, and reads parts of their datasets, with marks where nothing was ever written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.errors import is_infrastructure_error
from common.storage import RemotePath, any_path


def open_hdf5(path: str, storage_options: Mapping[str, Any] | None, stack: ExitStack) -> h5py.File:
    """Open an HDF5 file at a path or URL until `stack` is closed. Raises ValueError when it is missing or not HDF5."""
    try:
        place = any_path(path, storage_options)
        file = place if isinstance(place, Path) else stack.enter_context(place.open("rb"))
        return stack.enter_context(h5py.File(file, "r"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except OSError as error:
        if isinstance(place, RemotePath) and is_infrastructure_error(error):
            raise
        raise ValueError(f"{path}: no readable HDF5 or netCDF-4 file: {error}") from error


class WrittenParts:
    """Reads parts of a dataset and marks what was never written, which HDF5 itself reads as the dataset's fill value.

    Chunks that were allocated when the file was made, as parallel HDF5 does, cannot be told from written ones. Raises
    ValueError for a virtual dataset whose missing parts would read as observed: no library tells which they are.

    Args:
        dataset: integers of any shape.
        unobserved: the number for what was never written.
    """

    def __init__(self, dataset: h5py.Dataset, unobserved: int) -> None:
        self.dataset, self._unobserved = dataset, unobserved
        if dataset.is_virtual and dataset.fillvalue != unobserved:
            raise ValueError(
                f"{dataset_name(dataset)}: is a virtual dataset, whose missing parts read as its fill value {dataset.fillvalue}; "
                f"make it with the fill value {unobserved}, which means no data"
            )

    @cached_property
    def _absent(self) -> np.ndarray | None:
        """Which chunks were never written, bool over the grid of chunks; None when all were, or read as `unobserved`."""
        dataset = self.dataset
        if dataset.fillvalue == self._unobserved or dataset.is_virtual:
            return None
        if dataset.chunks is None:
            never = dataset.id.get_space_status() == h5py.h5d.SPACE_STATUS_NOT_ALLOCATED
            return np.ones((1,) * dataset.ndim, dtype=bool) if never else None
        counts = tuple(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        if dataset.id.get_num_chunks() == np.prod(counts):
            return None
        absent = np.ones(counts, dtype=bool)

        def is_there(chunk: Any) -> None:
            absent[tuple(at // length for at, length in zip(chunk.chunk_offset, dataset.chunks, strict=True))] = False

        dataset.id.chunk_iter(is_there)
        return absent

    def read(self, part: tuple[slice, ...]) -> np.ndarray:
        """Read `part`: one slice with a start and a stop for each axis.

        Raises ValueError when the file is damaged or truncated.
        """
        dataset = self.dataset
        try:
            values = np.asarray(dataset[part])
            absent = self._absent
        except OSError as error:
            if is_infrastructure_error(error):
                raise
            raise ValueError(f"{dataset_name(dataset)}: cannot be read, it is damaged or cut off: {error}") from error
        if absent is not None:
            chunks = dataset.chunks or dataset.shape
            at = [np.arange(axis.start, axis.stop) // length for axis, length in zip(part, chunks, strict=True)]
            values[absent[np.ix_(*at)]] = self._unobserved
        return values


def attribute(dataset: h5py.Dataset, name: str) -> Any:
    """An attribute of a dataset, or of its file where the dataset does not have it; None without."""
    return dataset.attrs.get(name, dataset.file.attrs.get(name))


def held_names(file: h5py.File) -> list[str]:
    """Sorted names of what an HDF5 file holds, for messages; h5py gives names that are not text as bytes."""
    return sorted(name.decode(errors="replace") if isinstance(name, bytes) else name for name in file)


def dataset_name(dataset: h5py.Dataset) -> str:
    """The path of an HDF5 file and the name of a dataset in it, for messages."""
    return f"{dataset.file.filename}{dataset.name}"
