"""Sentinel-2 Level-2A products as ESA delivers them: SAFE folders with one JPEG 2000 file a band and resolution."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from data_prep.archive.sensor import Sensor
from data_prep.readers.open_files import Folder
from data_prep.readers.radiometry import Offset, baseline_number, check_offset, stated_offsets
from data_prep.readers.raster_series import FoundFile, RasterSeries, check_one_tile, images_of, parse_date

METADATA = "MTD_MSIL2A.xml"
FIRST_BASELINE_WITH_OFFSET = "04.00"  # of 2022-01-25; also that of reprocessed older images (Collection 1)
# Band numbers in the metadata, for products that do not list them (Sentinel-2 Products Specification Document).
BAND_NUMBERS = dict(enumerate(["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]))
FILE = re.compile(
    r"(?P<product>(?:.*/)?)GRANULE/[^/]+/IMG_DATA/R\d\dm/"
    r"(?:L2A_)?T(?P<tile>\w{5})_(?P<date>\d{8})T\d{6}_(?P<layer>\w+)_(?P<metres>\d\d)m\.jp2"
)


class Sentinel2Safe(RasterSeries):
    """One or more SAFE products of one tile, one a date, of any processing baselines, on the grid of the finest band.

    Each band and the scene classification (SCL) are taken at the finest resolution the product holds. The additive offset
    is read for each date and band from MTD_MSIL2A.xml (BOA_ADD_OFFSET; none before processing baseline 04.00), so a series may
    span baselines.

    Options of scene.yaml:
        path: a folder of SAFE folders, or one of them, or an fsspec URL.
        incomplete: `refuse` (default) dates that lack a band, or `leave_out`.
        resampling: of 20 m reflectance, `nearest` (default) or `bilinear`; see RasterSeries. SCL is always nearest.
        offset: for products whose metadata are missing or do not say it; see `stated_offsets`. It must not contradict metadata.
        storage_options: for fsspec URLs, credentials above all.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        incomplete: str = "refuse",
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        folder = Folder(path, storage_options)
        layers = {layer: [layer] for layer in (*sensor.bands, sensor.quality.name)}
        found: dict[tuple[str, str, int], FoundFile] = {}
        products: dict[np.datetime64, set[str]] = defaultdict(set)
        all_files = folder.files()
        for file in all_files:
            match = FILE.fullmatch(file)
            if match is None or match["layer"] not in layers:
                continue
            date = parse_date(match["date"], "%Y%m%d", folder.where(file))
            products[date].add(match["product"])
            place = match["product"], match["layer"], int(match["metres"])
            if place in found:
                raise ValueError(
                    f"{path}: two files for {match['layer']} of {date}, {found[place].path} and {file}; keep one granule"
                )
            found[place] = FoundFile(path=file, layer=match["layer"], date=date, tile=match["tile"])
        if not found:
            raise ValueError(
                f"{path}: no Level-2A product: none of its {len(all_files)} files is like "
                "*.SAFE/GRANULE/*/IMG_DATA/R10m/*_B02_10m.jp2"
            )
        check_one_tile((file.tile for file in found.values()), path)
        for date, several in products.items():
            if len(several) > 1:
                names = ", ".join(sorted(name.rstrip("/") for name in several))
                raise ValueError(f"{path}: {len(several)} products of {date}: {names}; keep one a date, or mosaic them first")
        finest = {(product, layer): found[product, layer, metres] for product, layer, metres in sorted(found, reverse=True)}
        images = images_of(finest.values(), layers, sensor, incomplete, path)
        in_order = [(image.date, min(products[image.date])) for image in images]
        super().__init__(folder, sensor, images, _offsets(in_order, folder, set(all_files), sensor, offset), resampling)


def _offsets(
    products: list[tuple[np.datetime64, str]], folder: Folder, files: set[str], sensor: Sensor, offset: Offset
) -> np.ndarray:
    """(T, C) from the metadata of each date's product, and from the scene for those that do not say it."""
    result = np.zeros((len(products), len(sensor.bands)), dtype=np.int64)
    dates = np.array([date for date, _ in products])
    stated = None if offset is None else stated_offsets(offset, sensor, dates, str(folder))
    for time, (date, product) in enumerate(products):
        file = product + METADATA
        said = None if stated is None else int(stated[time])
        known = _offsets_in_metadata(folder.read_bytes(file), sensor, folder.where(file)) if file in files else None
        if known is None:
            if said is not None:
                result[time] = said
                continue
            raise ValueError(
                f"{folder.where(file)}: is missing or does not say the additive offset, so scene.yaml must: `offset: -1000` from "
                "processing baseline 04.00 on, `offset: 0` before, or `offset: {2015-06-23: 0, 2022-01-25: -1000}` by date"
            )
        if said is not None and (known != said).any():
            raise ValueError(
                f"{folder.where(file)}: the offsets of {date} are {known.tolist()}, but scene.yaml states {said}; "
                "leave `offset` out, and metadata decide"
            )
        result[time] = known
    return result


def _offsets_in_metadata(content: bytes, sensor: Sensor, where: str) -> np.ndarray | None:
    """The offset (C,) of each band of the sensor, or None where the metadata do not say it."""
    try:
        root = ElementTree.fromstring(content)
    except (ParseError, DefusedXmlException) as error:
        raise ValueError(f"{where}: is no XML that can be read: {error!r}") from error
    quantification = _first(root, "BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")
    if quantification is not None and abs(float(quantification) * sensor.scale - 1) > 1e-6:
        raise ValueError(f"{where}: reflectance is number / {quantification}, but number * {sensor.scale:g} for {sensor.name}")
    listed = root.findall(".//{*}BOA_ADD_OFFSET")
    if not listed:
        baseline = _first(root, "PROCESSING_BASELINE")
        before = baseline is not None and baseline_number(baseline) < baseline_number(FIRST_BASELINE_WITH_OFFSET)
        return np.zeros(len(sensor.bands), dtype=np.int64) if before else None
    try:
        names = BAND_NUMBERS | {
            int(about.attrib["bandId"]): re.sub(r"^B(\d)$", r"B0\1", about.attrib["physicalBand"])
            for about in root.findall(".//{*}Spectral_Information[@physicalBand]")
        }
        offsets = {names[int(entry.attrib["band_id"])]: int(entry.text or "") for entry in listed}
        found = np.array([offsets[band] for band in sensor.bands], dtype=np.int64)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{where}: BOA_ADD_OFFSET does not give a whole number for each band: {error!r}") from error
    for offset in found.tolist():
        check_offset(offset, sensor, where)
    return found


def _first(root: Element, *names: str) -> str | None:
    """The text of the first element of one of the names, in any namespace."""
    return next((found.text for name in names for found in root.iterfind(f".//{{*}}{name}")), None)
