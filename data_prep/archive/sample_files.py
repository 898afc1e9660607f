"""Scenes that stand for very many files with one series each: which files they are, a few at a time, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from common.checksums import sha256_of
from data_prep.archive.scene import SCENE_FILE, Scene

ONE_SERIES_A_FILE = ("hdf5_sample",)  # containers whose path is a folder of files or a list of them
SUFFIXES = (".h5", ".hdf5", ".hdf")
LIST_SUFFIX = ".txt"


def stands_for_files(scene: Scene, source: str) -> bool:
    return scene.sources[source].get("container") in ONE_SERIES_A_FILE


def list_sha256(scene: Scene, source: str) -> str | None:
    """sha256 of the text file that lists the files of a source, None where there is none."""
    path = scene.sources[source].get("path")
    if not stands_for_files(scene, source) or not isinstance(path, str) or not path.endswith(LIST_SUFFIX):
        return None
    return sha256_of(_list_path(scene, source, path))


def files_of(scene: Scene, source: str) -> Iterator[str]:
    """The files of one source of a scene, relative to its folder where they lie below it.

    Those of a folder come in the order of names, folder by folder, and no more than one folder's names are held; those of a list
    in the order of its lines. Raises ValueError where there are none.
    """
    options = scene.sources[source]
    path = options.get("path")
    origin = f"{scene.folder / SCENE_FILE}, source {source}"
    if not isinstance(path, str):
        raise ValueError(f"{origin}: needs `path`, a folder of HDF5 files, one of them, or a text file that lists them")
    if path.endswith(LIST_SUFFIX):
        found = _of_list(_list_path(scene, source, path))
    elif "://" in path:
        found = _of_url(path, options.get("storage_options") or {})
    else:
        found = _of_folder(scene.folder, path)
    first = list(islice(found, 1))
    if not first:
        raise ValueError(f"{origin}: no HDF5 file in {path}; expected names that end in {', '.join(SUFFIXES)}")
    yield from first
    yield from found


def _list_path(scene: Scene, source: str, path: str) -> Path:
    if not (scene.folder / path).is_file():
        raise ValueError(f"{scene.folder / SCENE_FILE}, source {source}: list of files {scene.folder / path} does not exist")
    return scene.folder / path


def _of_list(path: Path) -> Iterator[str]:
    with path.open() as lines:
        yield from (line.strip() for line in lines if line.strip())


def _of_folder(folder: Path, path: str) -> Iterator[str]:
    if (folder / path).is_file():
        yield path
    for place, folders, names in os.walk(folder / path):
        folders.sort()
        inside = Path(place).relative_to(folder) if Path(place).is_relative_to(folder) else Path(place)
        yield from (str(inside / name) for name in sorted(names) if name.lower().endswith(SUFFIXES))


def _of_url(url: str, storage_options: dict[str, Any]) -> Iterator[str]:
    files, root = fsspec.core.url_to_fs(url, **storage_options)
    yield from (files.unstrip_protocol(path) for path in sorted(files.find(root)) if path.lower().endswith(SUFFIXES))
