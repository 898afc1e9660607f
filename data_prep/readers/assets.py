"""Rasters at paths and URLs of any storages, such as the assets of STAC items."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import rasterio
from fsspec.spec import AbstractBufferedFile
from rasterio.errors import RasterioIOError

from common.errors import is_transient
from common.storage import file_system, is_url
from data_prep.readers.folder import Folder
from data_prep.readers.signing import Signer

# Bytes that are read ahead: about a tile of a COG. fsspec's own 5 MB move seven times as many bytes, and windows are scattered.
READ_AHEAD = 64 * 1024
MISSING = (404, 410)
REFUSED = (401, 403, 409)  # Azure answers 409 where public access is not permitted


class Assets(Folder):
    """Rasters that are named by their whole paths and URLs, which are signed when bytes are asked for.

    Args:
        origin: the file that names them, for messages.
        signer: signs their URLs.
        storage_options: options of the file systems of URLs, such as credentials.
    """

    def __init__(self, origin: str, signer: Signer, storage_options: Mapping[str, Any] | None = None) -> None:
        self.path, self.local = origin, False  # of no folder, so that of the base class is not opened
        self._failures: list[Exception] = []
        self._sign, self._options = signer, storage_options
        self._urls: dict[str, str] = {}  # by their names for GDAL

    def where(self, file: str) -> str:
        """The path or URL itself, without a signature."""
        return file

    def open_raster(self, file: str) -> Any:
        """Open a file with rasterio. Raises as `unreadable` says, and ValueError when the signer has no token for its host."""
        self._failures.clear()
        if not is_url(file) and not Path(file).is_file():  # GDAL would take some texts for connections to databases and services
            raise ValueError(f"{file}: does not exist, but {self.path} names it")
        try:
            if not is_url(file):
                return rasterio.open(file)
            self._sign(file)  # an error of the signer is not one of the file
            name = file.partition("://")[2]
            self._urls[name] = file
            return rasterio.open(name, opener=self._open_for_gdal)
        except RasterioIOError as error:
            raise self.unreadable(file, error) from error

    def _is_there(self, path: str) -> bool:
        return path in self._urls

    def _open_file(self, name: str) -> IO[bytes]:
        return _SignedFile(self._urls[name], self._sign, self._options)


class _SignedFile(AbstractBufferedFile):
    """A file at a URL, read by ranges, each of which is asked for with a URL that is signed then: tokens expire."""

    def __init__(self, url: str, sign: Signer, options: Mapping[str, Any] | None) -> None:
        self._url, self._sign, self._options = url, sign, options
        try:
            files, name = file_system(sign(url), options)
            super().__init__(files, url, block_size=READ_AHEAD, cache_type="readahead", size=files.info(name)["size"])
        except Exception as error:
            _raise_unless_missing(error, url)
            raise

    def _fetch_range(self, start: int, end: int) -> bytes:
        files, name = file_system(self._sign(self._url), self._options)
        try:
            return bytes(files.cat_file(name, start=start, end=end))
        except Exception as error:
            _raise_unless_missing(error, self._url)
            raise


def _raise_unless_missing(error: Exception, url: str) -> None:
    """Raises what lies behind an error of fsspec, which calls a file missing also when a server refuses access or is away."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "status", None)
        if status in REFUSED:
            raise PermissionError(
                errno.EACCES,
                f"refused with HTTP {status}: files of Planetary Computer need `signer: planetary_computer` in scene.yaml, "
                "others credentials in `storage_options`",
                url,
            ) from error
        if status not in MISSING if status is not None else is_transient(cause):
            raise ConnectionError(errno.ECONNABORTED, f"could not be reached: {cause!r}", url) from error
        cause = cause.__cause__
