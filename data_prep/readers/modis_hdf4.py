"""Reader of MODIS files as NASA delivers them: HDF4-EOS, one file per tile and day. Needs the extra `modis` (pyhdf)."""

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

from common.errors import MissingPackageError
from common.grid import Grid
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import check_band
from data_prep.readers.base import Series
from data_prep.readers.encoding import check_encoding, check_quality, hdf_eos_encoding
from data_prep.readers.file_names import Products, check_one_tile, named_pattern, parse_date
from data_prep.readers.folder import Folder
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import offset_in_effect
from data_prep.readers.open_files import OpenFiles
from data_prep.readers.radiometry import harmonised_series

PATTERN = r"(?:.*/)?(?P<product>\w+)\.A(?P<date>\d{7})\.(?P<tile>h\d\dv\d\d)\.\d{3}\.\d{13}\.hdf"
PRODUCTS = ("MCD43A4",)  # of a sensor that states none
REFLECTANCE = "Nadir_Reflectance_Band{}"
QUALITY = "BRDF_Albedo_Band_Mandatory_Quality_Band{}"
MAX_OPEN_FILES = 64  # for each open remote file there is a local copy of some 100 MB


@dataclass(frozen=True, kw_only=True)
class _OpenGranule:
    """The open file of one day.

    Attributes:
        fields: open fields by name.
        resources: closes the file and removes its local copy.
    """

    fields: dict[str, Any]
    resources: ExitStack


class ModisHdf4:
    """MCD43A4 (or another gridded MODIS product) of one tile, one file per day: `MCD43A4.A2021001.h18v04.061.2021010041045.hdf`.

    The grid comes from StructMetadata.0 of the file. The attributes scale_factor, add_offset and _FillValue of the fields must
    agree with the sensor; files do not state wavelengths. What was never written reads as _FillValue, so it is no data; the HDF4
    library does not tell which chunks that are. Where each band has its own quality field, the worst code counts. The
    HDF4 library reads only local files, so a remote file is copied to this machine while it is in use. A truncated file raises
    an error; but flipped bytes in a file can crash the HDF4 library, and the process with it. So compare checksums with those
    of the archive after a download.

    Options of scene.yaml:
        path: path or fsspec URL of the folder.
        pattern: regular expression for the paths of files relative to the folder, with the named group `date` (year and day of
            year); with a group `tile`, a second tile in the folder is an error. By default it fits the names of all gridded
            MODIS products; a note says how many files of products other than those of the sensor (`products` in its YAML, else
            MCD43A4) were passed over. With a pattern without a group `product`, all files that fit are read.
        fields: field of each band of the sensor; by default `{b1: Nadir_Reflectance_Band1, ...}` for b1 to b7.
        quality: list of the quality fields; by default `[BRDF_Albedo_Band_Mandatory_Quality_Band1, ...]` for the same bands.
        storage_options: options of the file system of an fsspec URL, such as credentials.
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
        found = _find_files(self._folder, pattern, Products(sensor, path, PRODUCTS))
        self.dates = np.array(sorted(found), dtype="datetime64[D]")
        self._files = [found[date] for date in self.dates]
        self._copies: tempfile.TemporaryDirectory[str] | None = None if self._folder.local else tempfile.TemporaryDirectory()
        self._grid: Grid | None = None  # set by the first file that is opened
        self._open = OpenFiles(self._open_granule, lambda granule: granule.resources.close(), MAX_OPEN_FILES)
        try:
            self._open[self._files[0]]
            assert self._grid is not None
            check_pixel_size(self._grid, sensor, path)
        except BaseException:
            self.__exit__()
            raise
        self.grid: Grid = self._grid
        # pyhdf does not tell how a field is stored; whole rows of the tile can be read without overhead in any case.
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
        return harmonised_series(pixels, np.stack(codes), self.dates[times], self.sensor, offsets)

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

    def _open_granule(self, file: str) -> _OpenGranule:
        """Open a file. Raises ValueError unless its fields, types and grid are those of the series."""
        try:
            from pyhdf.error import HDF4Error
            from pyhdf.SD import SD, SDC
        except ImportError as error:
            raise MissingPackageError(
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
                    raise ValueError(f"{where}: has no StructMetadata.0, so it is not an HDF4-EOS file and its grid is unknown")
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
        """The local path of a file; a remote file is copied, and `resources` removes the copy."""
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
        """Raises ValueError unless a field has the type, no-data number, scale and band of the sensor, and no offset."""
        stored = np.asarray(field.get(start=(0, 0), count=(1, 1))).dtype
        where, attributes = f"{where}, {name}", field.attributes()
        if name in self._quality:
            check_quality(stored, attributes, self.sensor, where)
            return
        encoding = hdf_eos_encoding(stored, attributes, where)
        offset_in_effect(0, check_encoding(encoding, self.sensor, where), self.sensor, where)
        for band in (band for band, of_band in self._fields.items() if of_band == name):
            check_band(band, attributes, self.sensor, where)


def _find_files(folder: Folder, pattern: str, products: Products) -> dict[np.datetime64, str]:
    """The file of each day, of accepted products.

    Raises ValueError when no file fits, two files have one day, or they are of several tiles.
    """
    expression = named_pattern(pattern, {"date"}, str(folder))
    found: dict[np.datetime64, str] = {}
    tiles = []
    files = folder.files()
    for file in files:
        match = expression.fullmatch(file)
        if match is None or not products.accept(match.groupdict().get("product")):
            continue
        date = parse_date(match["date"], "%Y%j", folder.where(file))
        tiles.append(match.groupdict().get("tile"))
        check_one_tile(tiles, str(folder))
        if date in found:
            raise ValueError(f"{folder}: two files of {date}, {found[date]} and {file}; keep the one of the later processing")
        found[date] = file
    if not found:
        facts = [
            f"none of its {len(files)} files fits {pattern!r}",
            f"one is {files[0]}" if files else "",
            products.passed_over(),
        ]
        raise ValueError(f"{folder}: {'; '.join(fact for fact in facts if fact)}")
    products.report()
    return found


def grid_of_field(metadata: str, field: str, where: str) -> Grid:
    """The grid that StructMetadata.0 states for a field.

    Its corner points are the outer corners of the grid, in metres of the sinusoidal projection of a sphere with the radius
    ProjParams[0]. Raises ValueError when the field has no grid, or one in another projection.
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
