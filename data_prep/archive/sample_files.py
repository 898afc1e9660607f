"""Scenes that are collections of sample files: lists their files in a fixed order, without holding all names in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from common.checksums import sha256_of
from common.storage import AnyPath, RemotePath, joined, raise_error
from data_prep.archive.scene import SCENE_FILE, Scene

COLLECTION_CONTAINERS = ("hdf5_sample",)  # containers of one series per file, whose path may be a folder or a list of files
SUFFIXES = (".h5", ".hdf5", ".hdf")
LIST_SUFFIX = ".txt"


def is_file_collection(scene: Scene, source: str) -> bool:
    """True when a source of a scene is a collection of sample files with one series each."""
    return scene.sources[source].get("container") in COLLECTION_CONTAINERS


def file_list_sha256(scene: Scene, source: str) -> str | None:
    """sha256 of the text file that lists the sample files of a source; None for a source without such a list."""
    path = scene.sources[source].get("path")
    if not is_file_collection(scene, source) or not isinstance(path, str) or not path.endswith(LIST_SUFFIX):
        return None
    return sha256_of(_list_path(scene, source, path))


def sample_files(scene: Scene, source: str) -> Iterator[str]:
    """The files of one source of a scene, as URLs or as paths, which are relative to its folder if they lie in it.

    The files of a folder come in the order of their names, subfolder by subfolder, and only the names of one subfolder are in
    memory (at a URL all names); the files of a list come in its order. Raises ValueError when there is no file.
    """
    options = scene.sources[source]
    path = options.get("path")
    origin = f"{scene.folder / SCENE_FILE}, source {source}"
    if not isinstance(path, str):
        raise ValueError(f"{origin}: needs `path`, a folder of HDF5 files, one of them, or a text file that lists them")
    if path.endswith(LIST_SUFFIX):
        found = _files_of_list(_list_path(scene, source, path))
    else:
        place = joined(scene.folder, path, options.get("storage_options"))
        found = _files_of_folder(scene.folder, path) if isinstance(place, Path) else _files_at_url(scene.folder, place)
    first = list(islice(found, 1))
    if not first:
        raise ValueError(f"{origin}: no HDF5 file in {path}; expected names that end in {', '.join(SUFFIXES)}")
    yield from first
    yield from found


def _list_path(scene: Scene, source: str, path: str) -> AnyPath:
    place = joined(scene.folder, path, scene.sources[source].get("storage_options"))
    if not place.is_file():
        raise ValueError(f"{scene.folder / SCENE_FILE}, source {source}: list of files {place} does not exist")
    return place


def _files_of_list(path: AnyPath) -> Iterator[str]:
    with path.open() as lines:
        yield from (line.strip() for line in lines if line.strip())


def _files_of_folder(folder: AnyPath, path: str) -> Iterator[str]:
    root = joined(folder, path)
    if root.is_file():
        yield path
    if not root.is_dir():
        return
    for parent, folders, names in os.walk(str(root), onerror=raise_error):
        folders.sort()
        inside = (
            Path(parent).relative_to(folder) if isinstance(folder, Path) and Path(parent).is_relative_to(folder) else Path(parent)
        )
        yield from (str(inside / name) for name in sorted(names) if name.lower().endswith(SUFFIXES))


def _files_at_url(folder: AnyPath, root: RemotePath) -> Iterator[str]:
    for path in [root] if root.name.lower().endswith(SUFFIXES) else root.walk_files():
        if path.name.lower().endswith(SUFFIXES):
            yield path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
