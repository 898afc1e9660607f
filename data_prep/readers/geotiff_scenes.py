"""Reader of folders of GeoTIFFs with one file per band and date, as HLS, Landsat and cloud archives deliver them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.readers.file_names import (
    FoundFile,
    Products,
    group_into_images,
    named_layers,
    named_pattern,
    parse_date,
)
from data_prep.readers.folder import Folder
from data_prep.readers.offsets import Offset, stated_offsets
from data_prep.readers.raster_series import RasterSeries
from data_prep.readers.same_day import ImageName

HLS_PATTERN = (
    r"(?P<product>HLS\.[LS]30)\.T(?P<tile>\w{5})\.(?P<date>\d{7})T(?P<time>\d{6})\.(?P<version>v\d+\.\d+)\.(?P<band>\w+)\.tif"
)
# Groups of a pattern that tell images of one day apart.
ACQUISITION, PROCESSING = ("product", "time"), ("baseline", "version")


class GeoTiffScenes(RasterSeries):
    """A folder of GeoTIFFs (COGs or others) with one file per band and date, found by their names, on one grid or nested grids.

    Bands and quality of 20 m are resampled to the grid of bands of 10 m. The corner and the extent of all grids must be equal,
    and pixel sizes whole multiples of the smallest. What lies under a mask (in the file, beside it as .msk, or an alpha band)
    was not observed, nor were tiles that a sparse file without a no-data number does not store. A file whose tags or description
    state another common name or wavelength than its band has is refused.

    Options of scene.yaml:
        path: path or fsspec URL of the folder.
        pattern: regular expression for the paths of files relative to the folder, with the named groups `date` and `band`. By
            default it fits the names of HLS, `HLS.L30.T31TFJ.2021003T103000.v2.0.B04.tif`. With a group `product`, files of
            products other than those of the sensor (`products` in its YAML) are passed over: `landsat` reads HLS.L30,
            `hls_s30` reads HLS.S30. With a group `tile`, a second tile in the folder is an error. The groups `time` (of the
            overpass) and `baseline` or `version` (of the processing) tell images of one day apart, and `baseline` allows an
            `offset` by baseline. A note says how many files were passed over.
            Sentinel-2 COGs: `S2._T?(?P<tile>\\w{5})_(?P<date>\\d{8})_\\d_L2A/(?P<band>\\w+)\\.tif` with date_format `%Y%m%d`.
            MODIS: `MCD43A4\\.A(?P<date>\\d{7})\\.(?P<tile>h\\d\\dv\\d\\d)\\.\\d+\\.\\d+_(?P<band>\\w+)\\.tif`.
        date_format: format of `date` in codes of strptime; by default `%Y%j`, year and day of year.
        band_names: name of each band and of the quality layer in file names, when it differs from that of the sensor:
            `{B04: b3, Fmask: fmask}`. The quality layer may have a list of names, as MODIS has one per band; then the worst
            code counts.
        incomplete: for images that lack a band: `refuse` (default) raises an error, `leave_out` leaves them out with a warning.
        same_day: what is done where a day has several images: `mosaic` (default) takes at each pixel the first
            clear observation, newer baselines first, without those that a newer baseline of the same overpass replaces;
            `newest_baseline` keeps the one of the newest baseline; `error` raises an error. A note tells what was done.
        resampling: how coarser reflectance is resampled to the finest grid: `nearest` (default) or `bilinear`; see
            ImageSeries. Quality is always resampled with nearest neighbours.
        offset: number to add to the stored numbers, -1000 for Sentinel-2 from processing baseline 04.00 on; or numbers by the
            date or the processing baseline from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}` or
            `{00.00: 0, 04.00: -1000}`. Required where archives of the sensor differ in it and files do not state it. It must not
            contradict what files state (GDAL's scale and offset of the band, or tags scale_factor and add_offset), nor the
            baselines in their names.
        storage_options: options of the file system of an fsspec URL, such as credentials.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        pattern: str = HLS_PATTERN,
        date_format: str = "%Y%j",
        band_names: Mapping[str, str | Sequence[str]] | None = None,
        incomplete: str = "refuse",
        same_day: str = "mosaic",
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        layers = named_layers(band_names or {}, sensor, path, "band_names")
        folder = Folder(path, storage_options)
        wanted = {name for names in layers.values() for name in names}
        files = _find_files(folder, named_pattern(pattern, {"date", "band"}, path), date_format, wanted, Products(sensor, path))
        images = group_into_images(files, layers, sensor, incomplete, same_day, path)
        dates = np.array([image.image.date for image in images])
        # A `version` that is no processing baseline says nothing of offsets.
        baselines = [image.image.baseline for image in images] if "(?P<baseline>" in pattern else None
        offsets = stated_offsets(offset, sensor, dates, path, baselines)
        super().__init__(folder, sensor, images, offsets, resampling)


def _find_files(
    folder: Folder, pattern: re.Pattern[str], date_format: str, bands: set[str], products: Products
) -> list[FoundFile]:
    """The GeoTIFFs of accepted products that fit the pattern, with one of the bands. Raises ValueError when there is none."""
    rasters = [file for file in folder.files() if file.lower().endswith((".tif", ".tiff"))]
    found, unfitting = [], []
    for file in rasters:
        match = pattern.fullmatch(file)
        if match is None:
            unfitting.append(file)
            continue
        named = match.groupdict()
        if products.accept(named.get("product")) and match["band"] in bands:
            date = parse_date(match["date"], date_format, folder.where(file))
            found.append(FoundFile(path=file, layer=match["band"], image=_image_name(date, named), tile=named.get("tile")))
    if not found:
        example = f"; one of {len(rasters)} files is {rasters[0]}" if rasters else "; there are none"
        others = products.passed_over()
        raise ValueError(
            f"{folder}: no GeoTIFF fits {pattern.pattern!r} with one of the bands {sorted(bands)}{example}"
            + (f"; {others}" if others else "")
        )
    products.report()
    if unfitting:
        note(f"{folder}: passed over {len(unfitting)} GeoTIFFs whose names do not fit the pattern, such as {unfitting[0]}")
    return found


def _image_name(date: np.datetime64, named: Mapping[str, str | None]) -> ImageName:
    """The image of a file, by the named groups of its path."""
    acquisition = " ".join(text for group in ACQUISITION if (text := named.get(group)) is not None)
    baseline = " ".join(text for group in PROCESSING if (text := named.get(group)) is not None)
    name = " ".join(part for part in (str(date), acquisition) if part)
    return ImageName(date=date, acquisition=acquisition, baseline=baseline or None, name=name)
