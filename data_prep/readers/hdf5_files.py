"""HDF5 files: opens them at a path or URL, and reads parts of their datasets."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
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


def read_dataset(dataset: h5py.Dataset, part: Any) -> np.ndarray:
    """Read a part of a dataset of an HDF5 file. Raises ValueError that names the file when it is damaged or truncated."""
    try:
        return np.asarray(dataset[part])
    except OSError as error:
        if is_infrastructure_error(error):
            raise
        raise ValueError(f"{dataset_name(dataset)}: cannot be read, it is damaged or cut off: {error}") from error


def dataset_name(dataset: h5py.Dataset) -> str:
    """The path of an HDF5 file and the name of a dataset in it, for messages."""
    return f"{dataset.file.filename}{dataset.name}"
