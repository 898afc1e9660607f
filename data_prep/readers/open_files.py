"""Folders of files that readers open: on this machine, or anywhere fsspec reaches."""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any, Generic, TypeVar

import rasterio
from fsspec.implementations.local import LocalFileSystem
from rasterio.errors import RasterioIOError

from common.storage import file_system

GDAL_SETTINGS = {
    # Without this GDAL lists the whole folder at every open, to look for side-car files.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # JPEG 2000 is decoded in threads by default, and then a file that is cut off reads as zeros without an error, and one that
    # is read through Python as noise. One thread reports the error and reads what was written.
    "GDAL_NUM_THREADS": "1",
}
Opened = TypeVar("Opened")


class Folder:
    """A folder of files. `local` says whether they lie on this machine; files are named by their path below the folder.

    Raises ValueError when there is no such folder.
    """

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._files, root = file_system(path, storage_options)
        self._root = root.rstrip("/")
        self.path = path
        self.local = isinstance(self._files, LocalFileSystem)
        self._failures: list[Exception] = []
        if not self._files.isdir(root):
            raise ValueError(f"{path}: no such folder")

    def __str__(self) -> str:
        return self.path

    def files(self) -> list[str]:
        """All files of the folder and its folders, in ascending order."""
        return sorted(path.removeprefix(self._root).lstrip("/") for path in self._files.find(self._root or "/"))

    def where(self, file: str) -> str:
        """A file's whole path or URL, for messages; on this machine, what to open."""
        return f"{self._root if self.local else self.path.rstrip('/')}/{file}"

    def read_bytes(self, file: str) -> bytes:
        """Raises FileNotFoundError when it is not there."""
        return bytes(self._files.cat_file(f"{self._root}/{file}"))

    def fetch(self, file: str, copy: str) -> None:
        """Copy a file to the path `copy` on this machine, for libraries that read nothing else."""
        self._files.get_file(f"{self._root}/{file}", copy)

    def open_raster(self, file: str) -> Any:
        """A file opened by rasterio, to be used under `rasterio.Env(**GDAL_SETTINGS)`.

        Raises ValueError when it is missing or no raster, and what fsspec raises when the way to it is broken.
        """
        self._failures.clear()
        try:
            if self.local:
                return rasterio.open(self.where(file))
            return rasterio.open(file, opener=self._open_for_gdal)
        except RasterioIOError as error:
            raise self.unreadable(file, error) from error

    def unreadable(self, file: str, error: Exception) -> Exception:
        """What to raise after rasterio failed to open or read a file.

        ValueError when it is missing or damaged; an OSError with a number when it could not be reached just now.
        """
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

    def _open_for_gdal(self, path: str, mode: str = "rb") -> _Handle:
        if path == "test":  # rasterio tries every opener with this name, which need not be asked for elsewhere
            raise FileNotFoundError(path)
        try:
            return _Handle(self._files.open(f"{self._root}/{path}", mode), self._failures)
        except Exception as error:
            self._failures.append(error)
            raise


class _Handle:
    """An fsspec file as rasterio may hold it.

    Not the file itself: two of fsspec's handles of one file are equal, so rasterio would keep the one and lose the other; and an
    exception in `read` ends the process, so it is kept in `failures` and the file looks cut off.
    """

    def __init__(self, file: IO[bytes], failures: list[Exception]) -> None:
        self._file, self._failures, self._position = file, failures, 0

    def read(self, size: int = -1) -> bytes:
        try:
            self._file.seek(self._position)  # files of fsspec's memory share one position
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


class OpenFiles(Generic[Opened]):
    """Files that stay open between windows, `limit` at most: the one used longest ago makes room.

    Opening a file costs some forty times a read from an open one.
    """

    def __init__(self, open_file: Callable[[str], Opened], close: Callable[[Opened], object], limit: int) -> None:
        self._open_file, self._close, self._limit = open_file, close, limit
        self._open: OrderedDict[str, Opened] = OrderedDict()

    def __getitem__(self, file: str) -> Opened:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        opened = self._open_file(file)
        self._open[file] = opened
        if len(self._open) > self._limit:
            self._close(self._open.popitem(last=False)[1])
        return opened

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])
