"""GeoTIFF scenes: a folder with one file a band and date, as HLS, Landsat and cloud archives of Sentinel-2 and MODIS deliver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.open_files import Folder
from data_prep.readers.radiometry import Offset, stated_offsets
from data_prep.readers.raster_series import FoundFile, RasterSeries, images_of, named_pattern, parse_date

HLS_PATTERN = r"HLS\.[LS]30\.T(?P<tile>\w{5})\.(?P<date>\d{7})T\d{6}\.v\d+\.\d+\.(?P<band>\w+)\.tif"


class GeoTiffScenes(RasterSeries):
    """A folder of GeoTIFFs (COGs or not), one file for each band and date, found by their names, on one grid or on nested ones.

    Bands and quality of 20 m beside bands of 10 m come onto 10 m; corner and extent must be equal, pixel sizes whole multiples.

    Options of scene.yaml:
        path: the folder, or an fsspec URL of one.
        pattern: regular expression for the paths of files below the folder, with the named groups `date` and `band`; by
            default the names of HLS, `HLS.L30.T31TFJ.2021003T103000.v2.0.B04.tif`. Other files are not looked at. A group
            `tile` makes a second tile in the folder an error; a group `baseline` serves `offset`.
            Sentinel-2 COGs: `S2._T?(?P<tile>\\w{5})_(?P<date>\\d{8})_\\d_L2A/(?P<band>\\w+)\\.tif` with date_format `%Y%m%d`.
            MODIS: `MCD43A4\\.A(?P<date>\\d{7})\\.(?P<tile>h\\d\\dv\\d\\d)\\.\\d+\\.\\d+_(?P<band>\\w+)\\.tif`.
        date_format: how `date` is written (codes of strptime); by default `%Y%j`, year and day of year.
        band_names: what a band of the sensor, or its quality layer, is called in file names, `{B04: b3, Fmask: fmask}`;
            by default as the sensor calls it. The quality layer may have a list of names, as MODIS has one a band: the worst
            code of them counts.
        incomplete: `refuse` (default) dates that lack a band, or `leave_out`.
        resampling: of coarser reflectance, `nearest` (default) or `bilinear`; see RasterSeries. Quality is always nearest.
        offset: number added to stored numbers, or numbers by date or processing baseline (see `stated_offsets`); required where
            the sensor's archives differ in it.
        storage_options: for fsspec URLs, credentials above all.
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
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        layers = _layers(band_names or {}, sensor, path)
        expression = named_pattern(pattern, {"date", "band"}, path)
        folder = Folder(path, storage_options)
        wanted = {name for names in layers.values() for name in names}
        rasters = [file for file in folder.files() if file.lower().endswith((".tif", ".tiff"))]

        def found() -> Iterator[FoundFile]:
            for file in rasters:
                match = expression.fullmatch(file)
                if match is not None and match["band"] in wanted:
                    named = match.groupdict()
                    yield FoundFile(
                        path=file,
                        layer=match["band"],
                        date=parse_date(match["date"], date_format, folder.where(file)),
                        tile=named.get("tile"),
                        baseline=named.get("baseline"),
                    )

        files = list(found())
        if not files:
            example = f"; one of {len(rasters)} files is {rasters[0]}" if rasters else "; there are none"
            raise ValueError(f"{path}: no GeoTIFF fits {pattern!r} with one of the bands {sorted(wanted)}{example}")
        images = images_of(files, layers, sensor, incomplete, path)
        baselines = {file.path: file.baseline for file in files}
        of_dates = [sorted({str(baselines[file]) for file in (*image.bands, *image.quality)}) for image in images]
        for image, several in zip(images, of_dates, strict=True):
            if len(several) > 1:
                raise ValueError(f"{path}: files of {image.date} are of the processing baselines {', '.join(several)}; keep one")
        known = [baselines[image.bands[0]] for image in images]
        dates = np.array([image.date for image in images])
        super().__init__(folder, sensor, images, stated_offsets(offset, sensor, dates, path, known), resampling)


def _layers(band_names: Mapping[str, str | Sequence[str]], sensor: Sensor, origin: str) -> dict[str, list[str]]:
    """Names in files of each band and of the quality layer. Raises ValueError for layers that the sensor does not have."""
    layers = (*sensor.bands, sensor.quality.name)
    unknown = sorted(set(band_names) - set(layers))
    if unknown:
        raise ValueError(f"{origin}: band_names speaks of {unknown}; source {sensor.name} has {list(layers)}")
    names = {layer: band_names.get(layer, layer) for layer in layers}
    several = [band for band in sensor.bands if not isinstance(names[band], str)]
    if several:
        raise ValueError(f"{origin}: band_names gives {several} several names; only the quality layer may have a list")
    return {layer: [found] if isinstance(found, str) else list(found) for layer, found in names.items()}
