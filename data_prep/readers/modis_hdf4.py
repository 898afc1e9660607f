"""Reader of MODIS files as NASA delivers them: HDF4-EOS, one file per tile and day. Needs the extra `modis` (pyhdf)."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from common.errors import MissingPackageError
from common.grid import SAME_PLACE, Grid, corner_distance_px, grid_summary
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import check_band
from data_prep.readers.base import Series
from data_prep.readers.encoding import check_encoding, check_quality, hdf_eos_encoding
from data_prep.readers.file_names import Products, named_pattern, parse_date
from data_prep.readers.folder import Folder
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import offset_in_effect
from data_prep.readers.open_files import OpenFiles, most_open_files
from data_prep.readers.radiometry import harmonised_series, unobserved_code
from data_prep.readers.same_day import ImageName, chosen_images

PATTERN = r"(?:.*/)?(?P<product>\w+)\.A(?P<date>\d{7})\.(?P<tile>h\d\dv\d\d)\.(?P<version>\d{3}\.\d{13})\.hdf"
PRODUCTS = ("MCD43A4",)  # of a sensor that states none
REFLECTANCE = "Nadir_Reflectance_Band{}"
QUALITY = "BRDF_Albedo_Band_Mandatory_Quality_Band{}"
_SHARE_OF_DISK = 0.25  # of what is free for temporary files, for local copies of open remote files
_GRANULE_BYTES = 200_000_000  # at most, of a MCD43A4 file of one day


@dataclass(frozen=True, kw_only=True)
class _OpenGranule:
    """The open file of one day.

    Attributes:
        fields: open fields by name.
        resources: closes the file and removes its local copy.
    """

    fields: dict[str, Any]
    resources: ExitStack


@dataclass(frozen=True, kw_only=True)
class _Granule:
    """The file of one tile, day and processing."""

    image: ImageName
    file: str
    tile: str | None


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """One tile of the series.

    Attributes:
        grid: its grid.
        row, col: its upper left pixel in the grid of the series.
        files: its file of each day.
    """

    grid: Grid
    row: int
    col: int
    files: Mapping[np.datetime64, str]


class ModisHdf4:
    """MCD43A4 (or another gridded MODIS product), one file per tile and day: `MCD43A4.A2021001.h18v04.061.2021010041045.hdf`.

    The grid comes from StructMetadata.0 of the files. Several tiles are one series on the grid that holds them all, as they lie
    side by side in the sinusoidal projection; what no file of a day covers was not observed. The attributes scale_factor,
    add_offset and _FillValue of the fields must agree with the sensor; files do not state wavelengths. What was never written
    reads as _FillValue, so it is no data; the HDF4 library does not tell which chunks that are. Where each band has its own
    quality field, the worst code counts. The HDF4 library reads only local files, so a remote file is copied to this machine
    while it is in use. A truncated file raises an error; but flipped bytes in a file can crash the HDF4 library, and the process
    with it. So compare checksums with those of the archive after a download.

    Options of scene.yaml:
        path: path or fsspec URL of the folder.
        pattern: regular expression for the paths of files relative to the folder, with the named group `date` (year and day of
            year); a group `tile` tells the files of several tiles apart, and a group `version` which of two files of a day is
            newer. By default it fits the names of all gridded MODIS products; a note says how many files of products other
            than those of the sensor (`products` in its YAML, else MCD43A4) were passed over. With a pattern without a group
            `product`, all files that fit are read.
        fields: field of each band of the sensor; by default `{b1: Nadir_Reflectance_Band1, ...}` for b1 to b7.
        same_day: what is done where a day has several files: `newest_baseline` (default) keeps the one of the latest processing,
            with a note; `error` raises an error.
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
        same_day: str = "newest_baseline",
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
        if same_day not in ("newest_baseline", "error"):
            raise ValueError(f"{path}: same_day is {same_day!r}; expected newest_baseline or error")
        by_tile: dict[str | None, list[_Granule]] = {}
        for granule in _find_granules(self._folder, pattern, Products(sensor, path, PRODUCTS)):
            by_tile.setdefault(granule.tile, []).append(granule)
        files = [
            {granule.image.date: granule.file for granule in chosen_images(granules, same_day, path)}
            for _, granules in sorted(by_tile.items(), key=lambda item: str(item[0]))
        ]
        self.dates = np.unique(np.array([date for of_tile in files for date in of_tile], dtype="datetime64[D]"))
        self._copies: tempfile.TemporaryDirectory[str] | None = None if self._folder.local else tempfile.TemporaryDirectory()
        self._grids: dict[str, Grid] = {}  # of the files that were opened
        self._open = OpenFiles(self._open_granule, lambda granule: granule.resources.close(), self._most_open())
        try:
            self.grid, self._tiles = self._placed(files)
            check_pixel_size(self.grid, sensor, path)
        except BaseException:
            self.__exit__()
            raise
        # pyhdf does not tell how a field is stored; whole rows of the tile can be read without overhead in any case.
        self.chunk = 1, self.grid.width

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        chosen = np.arange(len(self.dates))[times]
        if not len(chosen):
            raise ValueError(f"{self._folder}: no dates chosen to read")
        pixels = np.full((len(chosen), len(self.sensor.bands), height, width), self.sensor.nodata, dtype=self.sensor.dtype)
        codes = np.full((len(chosen), height, width), self._unobserved_code, dtype=self._quality_type)
        for tile in self._tiles:
            top, left = max(row, tile.row), max(col, tile.col)
            rows = min(row + height, tile.row + tile.grid.height) - top
            cols = min(col + width, tile.col + tile.grid.width) - left
            if rows <= 0 or cols <= 0:
                continue
            part = (top - tile.row, left - tile.col), (rows, cols)
            at = slice(top - row, top - row + rows), slice(left - col, left - col + cols)
            for frame, date in enumerate(self.dates[chosen]):
                file = tile.files.get(date)
                if file is None:
                    continue
                for channel, band in enumerate(self.sensor.bands):
                    pixels[frame, channel, *at] = self._read(file, self._fields[band], *part)
                codes[frame, *at] = self.sensor.quality.worst([self._read(file, field, *part) for field in self._quality])
        offsets = np.zeros(len(chosen), dtype=np.int64)
        return harmonised_series(pixels, codes, self.dates[chosen], self.sensor, offsets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        if self._copies is not None:
            self._copies.cleanup()

    def _placed(self, files: Sequence[Mapping[np.datetime64, str]]) -> tuple[Grid, list[_Tile]]:
        """The grid that holds all tiles, and the tiles in it; each must keep the grid of its first file.

        Raises ValueError when their pixels are not those of one grid.
        """
        grids = []
        for of_tile in files:
            first = of_tile[min(of_tile)]
            with self._open.using(first):
                grids.append(self._grids[first])
            self._grids.update(dict.fromkeys(of_tile.values(), self._grids[first]))
        one = grids[0]
        places = []
        for of_tile, grid in zip(files, grids, strict=True):
            col, row = ~one.transform * (grid.transform.c, grid.transform.f)
            whole = replace(
                one, height=grid.height, width=grid.width, transform=one.transform * Affine.translation(round(col), round(row))
            )
            if grid.crs != one.crs or corner_distance_px(grid, whole) > SAME_PLACE:
                raise ValueError(
                    f"{self._folder.where(of_tile[min(of_tile)])}: lies on {grid_summary(grid)}, which is not a tile of the grid "
                    f"{grid_summary(one)}; keep tiles of one projection and resolution"
                )
            places.append((round(row), round(col)))
        top, left = min(row for row, _ in places), min(col for _, col in places)
        tiles = [
            _Tile(grid=grid, row=row - top, col=col - left, files=of_tile)
            for of_tile, grid, (row, col) in zip(files, grids, places, strict=True)
        ]
        height = max(tile.row + tile.grid.height for tile in tiles)
        width = max(tile.col + tile.grid.width for tile in tiles)
        transform = one.transform * Affine.translation(left, top)
        return Grid(crs=one.crs, transform=transform, height=height, width=width), tiles

    def _read(self, file: str, field: str, start: tuple[int, int], count: tuple[int, int]) -> np.ndarray:
        from pyhdf.error import HDF4Error

        try:
            with self._open.using(file) as granule:  # pyhdf drops axes of length one
                return np.asarray(granule.fields[field].get(start=start, count=count)).reshape(count)
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
                expected = self._grids.setdefault(file, grid)
                if grid != expected or shape != grid.shape:
                    raise ValueError(
                        f"{where}: {name} has {shape} pixels on the grid {grid.shape} {tuple(grid.transform)[:6]}, the series "
                        f"{expected.shape} {tuple(expected.transform)[:6]}"
                    )
            return _OpenGranule(fields=fields, resources=resources.pop_all())

    def _most_open(self) -> int:
        """How many files may be open: of remote files, as many as their local copies have room for."""
        if self._copies is None:
            return most_open_files()
        room = shutil.disk_usage(self._copies.name).free * _SHARE_OF_DISK
        return min(most_open_files(), max(16, int(room // _GRANULE_BYTES)))

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
            self._quality_type, self._unobserved_code = stored, unobserved_code(stored, self.sensor.quality, where)
            return
        encoding = hdf_eos_encoding(stored, attributes, where)
        offset_in_effect(0, check_encoding(encoding, self.sensor, where), self.sensor, where)
        for band in (band for band, of_band in self._fields.items() if of_band == name):
            check_band(band, attributes, self.sensor, where)


def _find_granules(folder: Folder, pattern: str, products: Products) -> list[_Granule]:
    """The files of accepted products. Raises ValueError when no file fits."""
    expression = named_pattern(pattern, {"date"}, str(folder))
    found: list[_Granule] = []
    files = folder.files()
    for file in files:
        match = expression.fullmatch(file)
        if match is None or not products.accept(match.groupdict().get("product")):
            continue
        date = parse_date(match["date"], "%Y%j", folder.where(file))
        named = match.groupdict()
        image = ImageName(date=date, baseline=named.get("version"), name=file)
        found.append(_Granule(image=image, file=file, tile=named.get("tile")))
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
