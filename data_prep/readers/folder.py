"""A folder of files that a reader opens: on this machine, or at any fsspec URL."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import nullcontext
from typing import IO, Any

import rasterio
from fsspec.implementations.local import LocalFileSystem
from rasterio.errors import RasterioIOError

from common.storage import file_system

READDIR = "GDAL_DISABLE_READDIR_ON_OPEN"
GDAL_SETTINGS = {
    # Without this GDAL lists the whole folder whenever it opens a file, to look for side-car files.
    READDIR: "EMPTY_DIR",
    # By default GDAL decodes JPEG 2000 in several threads; then a truncated file reads as zeros without an error, and as noise
    # when it is read through Python. A single thread reports the error.
    "GDAL_NUM_THREADS": "1",
}
SIDE_CARS = (".msk", ".aux.xml")  # a mask; no-data number, scale and offset, among others


class Folder:
    """A folder of files, which its methods name by their paths relative to the folder.

    Raises ValueError when the folder does not exist.

    Attributes:
        path: path or URL of the folder.
        local: True when it lies on this machine.
    """

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._files, root = file_system(path, storage_options)
        self._root = root.rstrip("/")
        self.path = path
        self.local = isinstance(self._files, LocalFileSystem)
        self._failures: list[Exception] = []
        self._side_cars: set[str] = set()  # those that were listed
        self._given_to_gdal: set[str] = set()
        if not self._files.isdir(root):
            raise ValueError(f"{path}: no such folder")

    def __str__(self) -> str:
        return self.path

    def files(self) -> list[str]:
        """Paths of all files in the folder and its subfolders, in ascending order. From now on, side-car files are known."""
        found = sorted(path.removeprefix(self._root).lstrip("/") for path in self._files.find(self._root or "/"))
        self._side_cars = {file for file in found if file.endswith(SIDE_CARS)}
        return found

    def where(self, file: str) -> str:
        """The whole path or URL of a file: for messages, and to open a local file."""
        return f"{self._root if self.local else self.path.rstrip('/')}/{file}"

    def read_bytes(self, file: str) -> bytes:
        """The content of a file. Raises FileNotFoundError when it does not exist."""
        return bytes(self._files.cat_file(f"{self._root}/{file}"))

    def fetch(self, file: str, copy: str) -> None:
        """Copy a file to the local path `copy`, for libraries that read only local files."""
        self._files.get_file(f"{self._root}/{file}", copy)

    def open_raster(self, file: str) -> Any:
        """Open a file with rasterio, with its side-car files; use it within `rasterio.Env(**GDAL_SETTINGS)`.

        Raises ValueError when the file is missing or not a raster, and the error of fsspec when the storage cannot be reached.
        """
        self._failures.clear()
        self._given_to_gdal.add(file)
        try:
            with rasterio.Env(**{READDIR: "TRUE"}) if self._has_side_car(file) else nullcontext():
                opened = rasterio.open(self.where(file)) if self.local else rasterio.open(file, opener=self._open_for_gdal)
        except RasterioIOError as error:
            raise self.unreadable(file, error) from error
        return opened

    def _has_side_car(self, file: str) -> bool:
        return any(f"{file}{end}" in self._side_cars for end in SIDE_CARS)

    def unreadable(self, file: str, error: Exception) -> Exception:
        """The exception to raise after rasterio has failed to open or read a file.

        It is a ValueError when the file is missing or damaged, and an OSError with a number when the storage cannot be reached.
        """
        if self.local and not self._files.isdir(self._root):
            return ConnectionError(errno.ECONNABORTED, "could not be reached: its folder is gone, too", self.where(file))
        if self._failures:
            failure = self._failures[-1]
            self._failures.clear()
            if isinstance(failure, OSError) and failure.errno is not None:
                return failure
            if not isinstance(failure, FileNotFoundError):
                return ConnectionError(errno.ECONNABORTED, f"could not be reached: {failure!r}", self.where(file))
            error = failure
        reason = error.__cause__ or error
        return ValueError(f"{self.where(file)}: cannot be read as a raster: it is missing, damaged or cut off: {reason}")

    def _is_there(self, path: str) -> bool:
        """Whether a name that GDAL asks for is that of a raster it was given, or of a side-car file that was listed."""
        return path in self._given_to_gdal or path in self._side_cars

    def _open_file(self, file: str) -> IO[bytes]:
        opened: IO[bytes] = self._files.open(f"{self._root}/{file}", "rb")
        return opened

    def _open_for_gdal(self, path: str, mode: str = "rb") -> _Handle:  # noqa: ARG002
        # rasterio tries every opener with the name `test`, GDAL many names of side-car files: spare the storage these requests.
        if not self._is_there(path):
            raise FileNotFoundError(path)
        try:
            return _Handle(self._open_file(path), self._failures)
        except Exception as error:
            self._failures.append(error)
            raise


class _Handle:
    """Wraps an fsspec file for rasterio, which cannot hold the file itself, for two reasons.

    Two fsspec handles of one file are equal, so rasterio would lose one of them. And an exception in `read` ends the process:
    here it is appended to `failures`, and the file looks truncated.
    """

    def __init__(self, file: IO[bytes], failures: list[Exception]) -> None:
        self._file, self._failures, self._position = file, failures, 0

    def read(self, size: int = -1) -> bytes:
        try:
            self._file.seek(self._position)  # open files of fsspec's memory file system share one position
            data = self._file.read(size)
        except Exception as error:
            self._failures.append(error)
            return b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = self._file.seek(offset, whence) if whence == 2 else offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
