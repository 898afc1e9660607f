"""Rasters at paths and URLs of any storages, such as the assets of STAC items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.rasters import RasterOpener
from common.storage import AnyPath, RemotePath, any_path
from data_prep.readers.folder import Folder
from data_prep.readers.signing import Signer


class SignedPath(RemotePath):
    """A URL that is signed anew for each request, because signatures expire. Messages name it without the signature."""

    __slots__ = ("_sign",)

    def __init__(self, url: str, sign: Signer, storage_options: Mapping[str, Any] | None = None) -> None:
        super().__init__(url, storage_options)
        self._sign = sign

    def request_url(self) -> str:
        """The URL with a signature. Raises ValueError when the signer has none for its host."""
        return self._sign(str(self))


class Assets(Folder):
    """Rasters that are named by their whole paths and URLs, which are signed when bytes are asked for.

    Args:
        origin: the file that names them, for messages.
        signer: signs their URLs.
        storage_options: options of the file systems of URLs, such as credentials.
    """

    def __init__(self, origin: str, signer: Signer, storage_options: Mapping[str, Any] | None = None) -> None:
        # Of no folder, so that of the base class is not opened.
        self.path, self.local = origin, False
        self._rasters = RasterOpener()
        self._sign, self._options = signer, storage_options

    def where(self, file: str) -> str:
        """The path or URL itself, without a signature."""
        return file

    def open_raster(self, file: str) -> Any:
        """Open a file with rasterio. Raises as `unreadable` says, and ValueError when the signer has no token for its host."""
        path = self._at(file)
        if isinstance(path, RemotePath):
            path.request_url()  # an error of the signer is not one of the file
        elif not path.is_file():  # GDAL would take some texts for connections to databases and services
            raise ValueError(f"{file}: does not exist, but {self.path} names it")
        return self._rasters.open(path)

    def _lost(self) -> Exception | None:
        return None

    def _at(self, file: str) -> AnyPath:
        path = any_path(file)
        return path if isinstance(path, Path) else SignedPath(file, self._sign, self._options)
