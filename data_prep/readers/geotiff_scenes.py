"""GeoTIFF scenes: a folder with one file a band and date, as HLS, Landsat and many archives deliver."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.grid import Grid
from data_prep.readers.conventions import crs_text
from data_prep.readers.harmonise import check_quality_type, check_stored, series, stated_offset
from data_prep.sample import Series
from data_prep.sensors import Sensor

HLS_PATTERN = r"HLS\.[LS]30\.T\w{5}\.(?P<date>\d{7})T\d{6}\.v\d+\.\d+\.(?P<band>\w+)\.tif"
# Opening a file costs some forty times a read from an open one, so files stay open between windows. The limit stays below
# the usual 1,024 descriptors of a process.
MAX_OPEN_FILES = 512
# Without this GDAL lists the whole folder at every open, to look for side-car files.
GDAL_SETTINGS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class GeoTiffScenes:
    """A folder of GeoTIFFs on one grid, one file for each band and date, found by their names.

    Options of scene.yaml:
        pattern: regular expression for the paths of files below the folder, with the named groups `date` and `band`; by
            default the names of HLS, `HLS.L30.T31TFJ.2021003T103000.v2.0.B04.tif`. Other files are not looked at.
        date_format: how `date` is written (codes of strptime); by default `%Y%j`, year and day of year.
        band_names: what a band of the sensor, or its quality layer, is called in file names, `{B04: b3, Fmask: fmask}`;
            by default as the sensor calls it.
        offset: number added to stored numbers; required where the sensor's archives differ in it.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        pattern: str = HLS_PATTERN,
        date_format: str = "%Y%j",
        band_names: Mapping[str, str] | None = None,
        offset: int | None = None,
    ) -> None:
        self.sensor = sensor
        self._path = Path(path)
        self._offset = stated_offset(offset, sensor, path)
        layers = (*sensor.bands, sensor.quality.name)
        names = {layer: layer for layer in layers} | dict(band_names or {})
        unknown = sorted(set(names) - set(layers))
        if unknown:
            raise ValueError(f"{path}: band_names speaks of {unknown}; source {sensor.name} has {list(layers)}")
        found = _find_files(self._path, pattern, date_format, set(names.values()))
        for date, files in found.items():
            missing = [layer for layer in layers if names[layer] not in files]
            if missing:
                raise ValueError(f"{path}: {', '.join(missing)} of {date} missing: the date has only {sorted(files)}")
        self.dates = np.array(sorted(found), dtype="datetime64[D]")
        self._files = [[found[date][names[layer]] for layer in layers] for date in self.dates]
        self._open: OrderedDict[Path, Any] = OrderedDict()
        with rasterio.Env(**GDAL_SETTINGS), rasterio.open(self._files[0][0]) as first:
            if first.crs is None:
                raise ValueError(f"{self._files[0][0]}: no coordinate reference system")
            self.grid = Grid(crs=crs_text(first.crs, path), transform=first.transform, height=first.height, width=first.width)
            self._crs = first.crs
            self.chunk = first.block_shapes[0]

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        window = Window(col, row, width, height)
        chosen = np.arange(len(self.dates))[times]
        pixels = np.empty((len(chosen), len(self.sensor.bands), height, width), dtype=self.sensor.dtype)
        quality: np.ndarray | None = None
        with rasterio.Env(**GDAL_SETTINGS):
            for frame, time in enumerate(chosen):
                *bands, quality_file = self._files[time]
                for channel, file in enumerate(bands):
                    pixels[frame, channel] = self._dataset(file, is_quality=False).read(1, window=window)
                codes = self._dataset(quality_file, is_quality=True).read(1, window=window)
                if quality is None:
                    quality = np.empty((len(chosen), height, width), dtype=codes.dtype)
                quality[frame] = codes
        if quality is None:
            raise ValueError(f"{self._path}: no dates chosen to read")
        return series(pixels, quality, self.dates[times], self.sensor, self._offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _dataset(self, file: Path, is_quality: bool) -> Any:
        """The open dataset of `file`, checked when it was opened; the one used longest ago makes room."""
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        dataset = rasterio.open(file)
        stored = np.dtype(dataset.dtypes[0])
        try:
            if is_quality:
                check_quality_type(stored, str(file))
            else:
                check_stored(stored, dataset.nodata, self.sensor, str(file))
            same = dataset.transform.almost_equals(self.grid.transform) and dataset.crs == self._crs
            if dataset.shape != self.grid.shape or not same:
                raise ValueError(
                    f"{file}: its grid ({dataset.height} x {dataset.width}, {tuple(dataset.transform)[:6]}) is not that of "
                    f"{self._files[0][0].name} ({self.grid.height} x {self.grid.width}, {tuple(self.grid.transform)[:6]})"
                )
        except ValueError:
            dataset.close()
            raise
        self._open[file] = dataset
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return dataset


def _find_files(folder: Path, pattern: str, date_format: str, wanted: set[str]) -> dict[np.datetime64, dict[str, Path]]:
    """The files of each date by their band's name. Raises ValueError when none fit or two claim one band of one date."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of GeoTIFFs")
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{folder}: pattern {pattern!r} is no regular expression: {error}") from error
    if not {"date", "band"} <= set(expression.groupindex):
        raise ValueError(f"{folder}: pattern {pattern!r} must have the named groups (?P<date>...) and (?P<band>...)")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".tif", ".tiff"))
    found: dict[np.datetime64, dict[str, Path]] = {}
    for file in files:
        match = expression.fullmatch(file.relative_to(folder).as_posix())
        if match is None or match["band"] not in wanted:
            continue
        try:
            date = np.datetime64(datetime.strptime(match["date"], date_format).date(), "D")
        except ValueError as error:
            raise ValueError(f"{file}: date {match['date']!r} does not fit date_format {date_format!r}") from error
        bands = found.setdefault(date, {})
        if match["band"] in bands:
            raise ValueError(
                f"{folder}: two files for {match['band']} of {date}, {bands[match['band']].name} and {file.name}; "
                "mosaic overlapping orbits and keep one tile a folder"
            )
        bands[match["band"]] = file
    if not found:
        example = f"; one of {len(files)} files is {files[0].relative_to(folder)}" if files else "; there are none"
        raise ValueError(f"{folder}: no GeoTIFF fits {pattern!r} with one of the bands {sorted(wanted)}{example}")
    return found
