"""The published layout of fine-tuning data: one HDF5 file per sample, and one text file per split that lists its samples.

    FOLDER/
      data_lists/train.txt, val.txt, test.txt    one name per line, with or without .h5
      h5_samples/NAME.h5                         one dataset (T, C, H, W) per source, and `label` (H, W)

The layout is that of the example at https://github.com/flyakon/AgriFM. Lists and files may also lie in FOLDER itself. A dataset
has the name of its source or the published one (`PUBLISHED_NAMES`). Its attributes and dates count as in scenes, see
`finetune/data/labelled_sample.py`: `bands`; `add_offset`, without which the numbers have no offset; and `dates` (T,) or
`dates/SOURCE`, as ISO dates, with CF units, or in days since 1970-01-01. A file may also hold `valid` or `valid/SOURCE`
(T, H, W), and the attribute `year` of the label. The published files hold none of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import h5py
import numpy as np

from common.storage import AnyPath
from data_prep.readers.hdf5_files import open_hdf5

PUBLISHED_NAMES = {"sentinel2": ("S2",), "landsat": ("Landsat", "HLSL30"), "modis": ("Modis", "MODIS")}
LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}  # by split
LIST_FOLDERS = ("", "data_lists", "data_list")
SAMPLE_FOLDER = "h5_samples"


def list_folder(folder: AnyPath) -> AnyPath | None:
    """The folder, `folder` or one in it, that holds at least one of the lists of HDF5 samples; None if there is no list."""
    candidates = (folder / name for name in LIST_FOLDERS)
    return next((found for found in candidates if any((found / name).is_file() for name in LISTS.values())), None)


class Hdf5Samples:
    """The samples of one split of the published layout; `finetune/data/labelled_sample.py` says what an item holds.

    Pixels are read only when they are sliced. Raises ValueError for a list that is missing or empty or repeats a name, and for
    files that are missing or not HDF5.
    """

    def __init__(self, folder: AnyPath, split: str, sources: Sequence[str]) -> None:
        lists = list_folder(folder)
        path = (lists or folder) / LISTS[split]
        if not path.is_file():
            raise ValueError(f"list {path} of the {split} samples is missing; expected {', '.join(LISTS.values())} beside it")
        names = [line.strip().removesuffix(".h5") for line in path.read_text().splitlines() if line.strip()]
        if not names:
            raise ValueError(f"list {path} names no sample; expected one name per line")
        repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if repeated:
            raise ValueError(f"list {path} names {', '.join(repeated[:3])} more than once")
        sample_folder = folder / SAMPLE_FOLDER if (folder / SAMPLE_FOLDER).is_dir() else folder
        self.names, self.sources = names, tuple(sources)
        self.files = [sample_folder / f"{name}.h5" for name in names]
        held = {path.name for path in sample_folder.iterdir()}
        missing = [str(file) for file in self.files if file.name not in held]
        if missing:
            raise ValueError(f"list {path} names {len(missing)} samples without a file, first {missing[0]}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index]
        file = open_hdf5(str(path), None, ExitStack())  # stays open as long as one of its datasets is in use
        data = {source: found for source in self.sources if (found := _dataset(file, source)) is not None}
        item: dict[str, Any] = {"file_name": self.names[index], "data": data or {name: file[name] for name in file}}
        if "label" not in file:
            raise ValueError(f"{path} has no dataset label (H, W); it holds {sorted(file)}")
        item["label"] = file["label"]
        if "valid" in file:
            item["valid"] = _validity(file, data, str(path))
        return item


def _validity(file: h5py.File, data: Mapping[str, h5py.Dataset], path: str) -> dict[str, h5py.Dataset]:
    """The validity of those sources in `data` that have one. Raises ValueError for one that is called as no images are."""
    valid = file["valid"]
    if isinstance(valid, h5py.Dataset):
        return dict.fromkeys(data, valid)
    names = {*file, *data, *(name for source in data for name in PUBLISHED_NAMES.get(source, ()))}
    strangers = sorted(set(valid) - names)
    if strangers:
        raise ValueError(
            f"{path}: valid holds {', '.join(strangers)}, as no images are called; the file holds {', '.join(sorted(file))}"
        )
    return {source: mask for source in data if (mask := _dataset(valid, source)) is not None}


def published_fingerprint(folder: AnyPath) -> str:
    """sha256 of the samples that the lists in a folder name: of all that their files hold but the pixels of images.

    Of datasets with four axes or more only shape, type and attributes count; to read all pixels would take too long.
    """
    digest = hashlib.sha256()
    for split, name in LISTS.items():
        if not ((list_folder(folder) or folder) / name).is_file():
            continue
        for path in Hdf5Samples(folder, split, ()).files:
            digest.update(f"{split} {path.name}\n".encode())
            with ExitStack() as opened:
                open_hdf5(str(path), None, opened).visititems(partial(_update, digest))
    return digest.hexdigest()


def _update(digest: Any, name: str, found: h5py.Group | h5py.Dataset) -> None:
    """Update a digest with a member of an HDF5 file."""
    digest.update(f"{name} {[(key, str(value)) for key, value in sorted(found.attrs.items())]}".encode())
    if isinstance(found, h5py.Dataset):
        digest.update(f"{found.shape} {found.dtype}".encode())
        if found.ndim < 4:
            content = np.asarray(found[()])
            digest.update(repr(content.tolist()).encode() if content.dtype.hasobject else content.tobytes())


def _dataset(group: h5py.Group, source: str) -> h5py.Dataset | None:
    names = (source, *PUBLISHED_NAMES.get(source, ()))
    return next((group[name] for name in names if isinstance(group.get(name), h5py.Dataset)), None)
