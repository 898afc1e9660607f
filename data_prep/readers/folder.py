"""A folder of files that a reader opens: on this machine, or at any fsspec URL."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.rasters import SIDE_CARS, RasterOpener
from common.storage import AnyPath, any_path, raise_error


class Folder:
    """A folder of files, which its methods name by their paths relative to the folder.

    Raises ValueError when the folder does not exist.

    Attributes:
        path: path or URL of the folder.
        local: True when it lies on this machine.
    """

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._root = any_path(path, storage_options)
        self.local = isinstance(self._root, Path)
        self._rasters = RasterOpener()
        self._side_cars: set[str] = set()  # those that were listed
        if not self._root.is_dir():
            raise ValueError(f"{path}: no such folder")

    def __str__(self) -> str:
        return self.path

    def files(self) -> list[str]:
        """Paths of all files in the folder and its subfolders, in ascending order. From now on, side-car files are known."""
        if isinstance(self._root, Path):
            paths = (Path(parent, name) for parent, _, names in os.walk(self._root, onerror=raise_error) for name in names)
            found = sorted(str(path.relative_to(self._root)) for path in paths)
        else:
            found = sorted(str(path.relative_to(self._root)) for path in self._root.walk_files())
        self._side_cars = {file for file in found if file.endswith(SIDE_CARS)}
        return found

    def where(self, file: str) -> str:
        """The whole path or URL of a file: for messages, and to open a local file."""
        return str(self._root / file)

    def read_bytes(self, file: str) -> bytes:
        """The content of a file. Raises FileNotFoundError when it does not exist."""
        return (self._root / file).read_bytes()

    def fetch(self, file: str, copy: str) -> None:
        """Copy a file to the local path `copy`, for libraries that read only local files."""
        path = self._root / file
        if isinstance(path, Path):
            shutil.copyfile(path, copy)
        else:
            path.download(Path(copy))

    def open_raster(self, file: str) -> Any:
        """Open a file with rasterio, with its side-car files; use it within `rasterio.Env(**GDAL_SETTINGS)`.

        Raises as `unreadable` says.
        """
        side_cars = [self._at(f"{file}{end}") for end in SIDE_CARS if f"{file}{end}" in self._side_cars]
        try:
            return self._rasters.open(self._at(file), side_cars)
        except ValueError as error:
            if (lost := self._lost()) is None:
                raise
            raise lost from error

    def unreadable(self, file: str, error: Exception) -> Exception:
        """The exception to raise after rasterio has failed to read a file; see `RasterOpener.reason`."""
        return self._lost() or self._rasters.reason(self._at(file), error)

    def _lost(self) -> Exception | None:
        """The error of a folder of this machine that is gone, with all its files."""
        if not isinstance(self._root, Path) or self._root.is_dir():
            return None
        return ConnectionError(errno.ECONNABORTED, "could not be reached: its folder is gone, too", self.path)

    def _at(self, file: str) -> AnyPath:
        return self._root / file
