"""MODIS as NASA delivers it: HDF4-EOS, one file a tile and day. Needs the extra `modis` (pyhdf)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from common.grid import Grid
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.open_files import Folder, OpenFiles
from data_prep.readers.radiometry import check_quality_type, check_stored, series
from data_prep.readers.raster_series import check_one_tile, named_pattern, parse_date

PATTERN = r"(?:.*/)?MCD43A4\.A(?P<date>\d{7})\.(?P<tile>h\d\dv\d\d)\.\d{3}\.\d{13}\.hdf"
REFLECTANCE = "Nadir_Reflectance_Band{}"
QUALITY = "BRDF_Albedo_Band_Mandatory_Quality_Band{}"
MAX_OPEN_FILES = 64  # each holds a copy of the file where it lies elsewhere; some 100 MB


@dataclass(frozen=True, kw_only=True)
class _OpenGranule:
    """The open file of one day: its fields by name, and what is to be closed after use."""

    fields: dict[str, Any]
    resources: ExitStack


class ModisHdf4:
    """MCD43A4 (or another gridded MODIS product) of one tile, one file a day: `MCD43A4.A2021001.h18v04.061.2021010041045.hdf`.

    The grid is read from the file's StructMetadata.0. Where each band has a quality field of its own, the worst code counts.
    A file elsewhere than on this machine is copied here while it is in use, since the HDF4 library reads nothing else. A file
    that is cut off is an error; but flipped bytes inside can crash that library, and the process with it: compare checksums with
    the archive's after a download.

    Options of scene.yaml:
        path: the folder, or an fsspec URL of one.
        pattern: regular expression for the paths of files below the folder, with the named group `date` (year and day of year);
            a group `tile` makes a second tile in the folder an error. By default the names of MCD43A4.
        fields: the field of each band of the sensor, `{b1: Nadir_Reflectance_Band1, ...}`, by default so for b1 to b7.
        quality: the quality fields, by default `[BRDF_Albedo_Band_Mandatory_Quality_Band1, ...]` of the same bands.
        storage_options: for fsspec URLs, credentials above all.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        pattern: str = PATTERN,
        fields: Mapping[str, str] | None = None,
        quality: list[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        numbered = {band: band.removeprefix("b") for band in sensor.bands}
        self._fields = dict(fields or {band: REFLECTANCE.format(number) for band, number in numbered.items()})
        self._quality = list(quality or [QUALITY.format(number) for number in numbered.values()])
        if set(self._fields) != set(sensor.bands):
            raise ValueError(
                f"{path}: fields names the bands {sorted(self._fields)}; source {sensor.name} has {list(sensor.bands)}"
            )
        self.sensor = sensor
        self._folder = Folder(path, storage_options)
        found = _find_files(self._folder, pattern)
        self.dates = np.array(sorted(found), dtype="datetime64[D]")
        self._files = [found[date] for date in self.dates]
        self._copies: tempfile.TemporaryDirectory[str] | None = None if self._folder.local else tempfile.TemporaryDirectory()
        self._grid: Grid | None = None
        self._open = OpenFiles(self._opened, lambda granule: granule.resources.close(), MAX_OPEN_FILES)
        try:
            self._open[self._files[0]]
        except BaseException:
            self.__exit__()
            raise
        assert self._grid is not None
        self.grid: Grid = self._grid
        # pyhdf does not tell how a field is stored; a whole row of the tile is what is always read without detours.
        self.chunk = 1, self.grid.width

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        chosen = np.arange(len(self.dates))[times]
        if not len(chosen):
            raise ValueError(f"{self._folder}: no dates chosen to read")
        window = (row, col), (height, width)
        pixels = np.empty((len(chosen), len(self.sensor.bands), height, width), dtype=self.sensor.dtype)
        codes = []
        for frame, time in enumerate(chosen):
            file = self._files[time]
            for channel, band in enumerate(self.sensor.bands):
                pixels[frame, channel] = self._read(file, self._fields[band], *window)
            codes.append(self.sensor.quality.worst([self._read(file, field, *window) for field in self._quality]))
        offsets = np.zeros(len(chosen), dtype=np.int64)
        return series(pixels, np.stack(codes), self.dates[times], self.sensor, offsets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        if self._copies is not None:
            self._copies.cleanup()

    def _read(self, file: str, field: str, start: tuple[int, int], count: tuple[int, int]) -> np.ndarray:
        from pyhdf.error import HDF4Error

        try:
            # pyhdf drops axes of length one.
            return np.asarray(self._open[file].fields[field].get(start=start, count=count)).reshape(count)
        except HDF4Error as error:
            raise ValueError(
                f"{self._folder.where(file)}: field {field} cannot be read, it is damaged or cut off: {error}"
            ) from error

    def _opened(self, file: str) -> _OpenGranule:
        """The open file, whose fields, types and grid are those of the series. Raises ValueError when they are not."""
        try:
            from pyhdf.error import HDF4Error
            from pyhdf.SD import SD, SDC
        except ImportError as error:
            raise ValueError(
                "container modis_hdf4 reads HDF4 with pyhdf, which is not installed: pip install '.[modis]'; "
                "or convert the files to GeoTIFF or Zarr"
            ) from error
        where = self._folder.where(file)
        with ExitStack() as resources:
            try:
                opened = SD(self._local(file, resources), SDC.READ)
                resources.callback(opened.end)
                held = opened.datasets()
                names = [*self._fields.values(), *self._quality]
                missing = [name for name in names if name not in held]
                if missing:
                    raise ValueError(f"{where}: misses the fields {missing}; it holds {sorted(held)}")
                fields = {}
                for name in names:
                    fields[name] = opened.select(name)
                    resources.callback(fields[name].endaccess)
                    self._check(fields[name], name, where)
                metadata = opened.attributes().get("StructMetadata.0")
                if metadata is None:
                    raise ValueError(f"{where}: has no StructMetadata.0, so it is no HDF4-EOS file and its grid is not known")
            except HDF4Error as error:
                raise ValueError(f"{where}: cannot be read as HDF4, it is missing, damaged or cut off: {error}") from error
            for name in names:
                grid, shape = grid_of_field(str(metadata), name, where), tuple(held[name][1])
                self._grid = self._grid or grid
                if grid != self._grid or shape != grid.shape:
                    raise ValueError(
                        f"{where}: {name} has {shape} pixels on the grid {grid.shape} {tuple(grid.transform)[:6]}, the series "
                        f"{self._grid.shape} {tuple(self._grid.transform)[:6]}"
                    )
            return _OpenGranule(fields=fields, resources=resources.pop_all())

    def _local(self, file: str, resources: ExitStack) -> str:
        """The path of a file on this machine, or of a copy that goes with `resources`."""
        if self._copies is None:
            return self._folder.where(file)
        copy = Path(self._copies.name, file.replace("/", "_"))
        resources.callback(copy.unlink, missing_ok=True)
        try:
            self._folder.fetch(file, str(copy))
        except FileNotFoundError as error:
            raise ValueError(f"{self._folder.where(file)}: is missing, though it was there when the series was opened") from error
        return str(copy)

    def _check(self, field: Any, name: str, where: str) -> None:
        """Raises ValueError unless the type and the no-data number of a field are the sensor's."""
        stored = np.asarray(field.get(start=(0, 0), count=(1, 1))).dtype
        if name in self._quality:
            check_quality_type(stored, f"{where}, {name}")
        else:
            check_stored(stored, field.attributes().get("_FillValue"), self.sensor, f"{where}, {name}")


def _find_files(folder: Folder, pattern: str) -> dict[np.datetime64, str]:
    """The file of each day. Raises ValueError when none fits, two are of one day, or they are of several tiles."""
    expression = named_pattern(pattern, {"date"}, str(folder))
    found: dict[np.datetime64, str] = {}
    tiles = []
    files = folder.files()
    for file in files:
        match = expression.fullmatch(file)
        if match is None:
            continue
        date = parse_date(match["date"], "%Y%j", folder.where(file))
        tiles.append(match.groupdict().get("tile"))
        check_one_tile(tiles, str(folder))
        if date in found:
            raise ValueError(f"{folder}: two files of {date}, {found[date]} and {file}; keep the one of the later processing")
        found[date] = file
    if not found:
        raise ValueError(f"{folder}: none of its {len(files)} files fits {pattern!r}{f'; one is {files[0]}' if files else ''}")
    return found


def grid_of_field(metadata: str, field: str, where: str) -> Grid:
    """The grid that StructMetadata.0 states for a field.

    The corner points are the outer corners of the grid, in metres of the sinusoidal projection of a sphere with the radius
    ProjParams[0]. Raises ValueError when the field has no grid, or one of another kind.
    Source: HDF-EOS Library User's Guide, volume 1, sections on the grid structure and GCTP.
    """
    grids = re.findall(r"GROUP=(GRID_\d+)\s*\n(.*?)END_GROUP=\1\s*\n", metadata, re.DOTALL)
    own = next((content for _, content in grids if re.search(rf'DataFieldName="{re.escape(field)}"', content)), None)
    if own is None:
        raise ValueError(f"{where}: StructMetadata.0 places {field} on none of its {len(grids)} grids")

    def value(name: str) -> str:
        match = re.search(rf"^\s*{name}=(.+?)\s*$", own, re.MULTILINE)
        if match is None:
            raise ValueError(f"{where}: StructMetadata.0 states no {name} for the grid of {field}")
        return match[1]

    def numbers(name: str) -> list[float]:
        return [float(number) for number in value(name).strip("()").split(",")]

    if value("Projection") != "GCTP_SNSOID":
        raise ValueError(
            f"{where}: the grid of {field} is in {value('Projection')}; expected GCTP_SNSOID, the sinusoidal grid of MODIS tiles"
        )
    if value("GridOrigin") != "HDFE_GD_UL":
        raise ValueError(f"{where}: the grid of {field} starts at {value('GridOrigin')}; expected the upper left, HDFE_GD_UL")
    width, height = int(value("XDim")), int(value("YDim"))
    (left, top), (right, bottom) = numbers("UpperLeftPointMtrs"), numbers("LowerRightMtrs")
    radius, *others = numbers("ProjParams")
    if any(others):
        raise ValueError(f"{where}: the grid of {field} has the projection parameters {others}; expected a radius alone")
    transform = Affine((right - left) / width, 0, left, 0, (bottom - top) / height, top)
    return Grid(crs=_sinusoidal(radius), transform=transform, height=height, width=width)


@lru_cache
def _sinusoidal(radius: float) -> str:
    return str(CRS.from_proj4(f"+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={radius:.10g} +units=m +no_defs").to_wkt())
