"""Rasters at paths and URLs, opened with rasterio, and the reason why one cannot be read.

GDAL calls back for the bytes of a file at a URL. A storage that fails then must not look like a damaged file: a damaged file is a
reason to reject a sample, and a lost connection is a reason to try again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from common.errors import is_data_error
from common.grid import raster_grid
from common.north_up import north_up
from common.raster_masks import RasterMask
from common.storage import AnyPath, RemotePath

_READDIR = "GDAL_DISABLE_READDIR_ON_OPEN"
GDAL_SETTINGS = {
    # Without this GDAL lists the whole folder whenever it opens a file, to look for side-car files.
    _READDIR: "EMPTY_DIR",
    # By default GDAL decodes JPEG 2000 in several threads; then a truncated file reads as zeros without an error, and as noise
    # when it is read through Python. A single thread reports the error.
    "GDAL_NUM_THREADS": "1",
}
SIDE_CARS = (".msk", ".aux.xml")  # a mask; no-data number, scale and offset, among others
# Bytes read ahead at a URL: about a tile of a COG. Windows are scattered, and the 5 MB of fsspec move seven times as many.
_READ_AHEAD = 64 * 1024


class RasterOpener:
    """Opens rasters. Use one for rasters that stay open together: rasterio keeps each opener.

    Threads may share it (`common/threads.py`), as long as each raster is used by one thread at a time.
    """

    def __init__(self) -> None:
        self._failures: defaultdict[AnyPath, list[Exception]] = defaultdict(list)  # by raster
        self._paths: dict[str, tuple[RemotePath, AnyPath]] = {}  # of each file: its URL, and the raster that it belongs to

    def open(self, path: AnyPath, side_cars: Sequence[AnyPath] | None = None) -> Any:
        """Open a raster. `side_cars`: its side-car files; of a raster at a URL no others are read. None looks for them.

        Raises ValueError when the file is missing or not a raster, and what `RemotePath.open` raises when the storage cannot be
        reached.
        """
        self._failures[path].clear()
        if side_cars is None:  # GDAL finds those beside a local file
            beside = () if isinstance(path, Path) else (path.parent / f"{path.name}{end}" for end in SIDE_CARS)
            side_cars = [file for file in beside if file.is_file()]
        try:
            with rasterio.Env(**{_READDIR: "TRUE"}) if side_cars else nullcontext():
                if isinstance(path, Path):
                    return rasterio.open(path)
                with nullcontext() if side_cars else rasterio.Env(**GDAL_SETTINGS):
                    self._paths.update((_name(at), (at, path)) for at in (path, *side_cars) if isinstance(at, RemotePath))
                    return rasterio.open(_name(path), opener=self._open_for_gdal)
        except RasterioIOError as error:
            raise self.reason(path, error) from error

    def reason(self, path: AnyPath, error: Exception) -> Exception:
        """The exception to raise after rasterio has failed to open or read a file.

        It is the error of the storage when that could not be reached, else a ValueError: the file is missing or damaged.
        """
        failures = self._failures[path]
        failure = failures[-1] if failures else None
        failures.clear()
        if failure is not None:
            if not is_data_error(failure):
                return failure
            error = failure
        cause = error.__cause__ or error
        return ValueError(f"{path}: cannot be read as a raster: it is missing, damaged or cut off: {cause}")

    @contextmanager
    def reading(self, path: AnyPath) -> Iterator[None]:
        """Raise `reason` for what fails inside, also where GDAL itself takes missing bytes for an empty part of the raster."""
        try:
            yield
        except RasterioIOError as error:
            raise self.reason(path, error) from error
        if failures := self._failures[path]:
            raise self.reason(path, failures[-1])

    def _open_for_gdal(self, name: str, mode: str = "rb") -> _Handle:
        if name not in self._paths:  # rasterio tries every opener with a name of its own, and GDAL looks for side-car files
            raise FileNotFoundError(name)
        path, raster = self._paths[name]
        failures = self._failures[raster]
        try:
            return _Handle(path.open(mode, buffering=_READ_AHEAD), failures)
        except Exception as error:
            failures.append(error)
            raise


def _name(path: RemotePath) -> str:
    """The name of a file at a URL for GDAL, which knows some protocols itself."""
    return str(path).partition("://")[2]


@contextmanager
def opened_raster(path: AnyPath) -> Iterator[Any]:
    """Open a raster to read it inside. Raises as `RasterOpener` does."""
    opener = RasterOpener()
    with opener.open(path) as raster, opener.reading(path):
        yield raster


class Raster:
    """A raster file of one band, open for reading, north-up whatever the order of its rows.

    Raises ValueError, which begins with `what` the raster is, when it is missing, cannot be read, is not georeferenced, or has
    several bands; one for transparency does not count.

    Attributes:
        grid: its grid, north-up.
        dtype: type of its numbers.
        nodata: the number that it states for no data; None where it states none.
    """

    def __init__(self, path: AnyPath, what: str) -> None:
        if not path.is_file():
            raise ValueError(f"{what} {path} does not exist")
        self._path, self._opener = path, RasterOpener()
        try:
            self._dataset = self._opener.open(path)
        except ValueError as error:
            raise ValueError(f"{what} {error}") from error
        try:
            self._mask = RasterMask.of(self._dataset)
            if self._mask.num_bands != 1:
                raise ValueError(
                    f"{what} {path} has {self._mask.num_bands} bands; expected one, since nothing says which is meant: write the "
                    f"one to use into a file of its own (gdal_translate -b 1 {path.name} OUTPUT.tif)"
                )
            self.grid, self._flips = north_up(raster_grid(self._dataset, f"{what} {path}"))
        except ValueError:
            self._dataset.close()
            raise
        self.dtype = np.dtype(self._dataset.dtypes[0])
        self.nodata: float | None = self._dataset.nodata

    def read(
        self, unobserved: int, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> np.ndarray:
        """A window (height, width) of the band; by default all of it.

        `unobserved`: the number for pixels under a mask (in the file, beside it as .msk, or an alpha band), and for tiles that a
        sparse file does not store.
        """

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            window = Window(col, row, width, height)
            with self._opener.reading(self._path):
                values = np.asarray(self._dataset.read(1, window=window))
                hidden = self._mask.unobserved(window, values)
            return values if hidden is None else np.where(hidden, np.array(unobserved), values)

        height, width = height or self.grid.height, width or self.grid.width
        return self._flips.reader(stored, self.grid.shape)(row, col, height, width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._dataset.close()


class _Handle:
    """Wraps a file for rasterio, which cannot hold the file itself, for two reasons.

    Two fsspec handles of one file are equal, so rasterio would lose one of them. And an exception in `read` ends the process:
    here it is appended to `failures`, and the file looks truncated.
    """

    def __init__(self, file: IO[bytes], failures: list[Exception]) -> None:
        self._file, self._failures, self._position = file, failures, 0

    def read(self, size: int = -1) -> bytes:
        try:
            self._file.seek(self._position)
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
