"""Reader of Sentinel-2 Level-2A products as ESA delivers them: SAFE folders, one JPEG 2000 file per band and resolution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from data_prep.archive.sensor import Sensor
from data_prep.readers.file_names import FoundFile, Products, check_one_tile, group_into_images, parse_date
from data_prep.readers.folder import Folder
from data_prep.readers.offsets import (
    FIRST_BASELINE_WITH_OFFSET,
    Offset,
    baseline_number,
    check_baseline,
    check_offset,
    stated_offsets,
)
from data_prep.readers.raster_series import RasterSeries
from data_prep.readers.same_day import ImageName

METADATA = "MTD_MSIL2A.xml"
# Numbers of the bands, for products whose metadata do not list them (Sentinel-2 Products Specification Document).
BAND_NUMBERS = dict(enumerate(["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]))
FILE = re.compile(
    r"(?P<product>(?:.*/)?)GRANULE/[^/]+/IMG_DATA/R\d\dm/"
    r"(?:L2A_)?T(?P<tile>\w{5})_(?P<date>\d{8})T(?P<time>\d{6})_(?P<layer>\w+)_(?P<metres>\d\d)m\.jp2"
)
BASELINE = re.compile(r"_(N\d{4})_[^/]*$")  # in the name of a product
# Images of any product level; those of Level 1C have the same bands and names, but not the layout above.
LEVEL = re.compile(r"(?:.*/)?GRANULE/(?P<level>L\d\w)_[^/]+/IMG_DATA/.+\.jp2")
PRODUCTS = ("MSIL2A",)  # of a sensor that states none


class Sentinel2Safe(RasterSeries):
    """SAFE products of one tile, of any processing baselines, on the grid of the finest band.

    Each band and the scene classification (SCL) are read at the finest resolution that the product holds. The additive offset
    of each date and band comes from MTD_MSIL2A.xml (BOA_ADD_OFFSET; there is none before processing baseline 04.00), so a
    series may span baselines. A JPEG 2000 that lacks a part is an error. A note says how many images of other product levels
    (L1C) were passed over.

    Options of scene.yaml:
        path: path or fsspec URL of a folder of SAFE folders, or of one SAFE folder.
        incomplete: for products that lack a band: `refuse` (default) raises an error, `leave_out` leaves them out with a note.
        same_day: what is done where a day has several products: `mosaic` (default) takes at each pixel the first
            clear observation, newer baselines first, without those that a newer baseline of the same overpass replaces;
            `newest_baseline` keeps the one of the newest baseline; `error` raises an error. A note tells what was done.
        resampling: how reflectance of 20 m is resampled to 10 m: `nearest` (default) or `bilinear`; see ImageSeries. SCL is
            always resampled with nearest neighbours.
        offset: additive offset of products whose metadata are missing or do not state it: one number, or numbers by the date
            from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}`. It must not contradict the metadata,
            nor the processing baseline in the name of the product.
        storage_options: options of the file system of an fsspec URL, such as credentials.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        incomplete: str = "refuse",
        same_day: str = "mosaic",
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        folder = Folder(path, storage_options)
        files = folder.files()
        layers = {layer: [layer] for layer in (*sensor.bands, sensor.quality.name)}
        found = _find_layers(folder, files, set(layers), Products(sensor, path, PRODUCTS))
        images = group_into_images(found, layers, sensor, incomplete, same_day, path)
        offsets = _offsets([image.image for image in images], folder, set(files), sensor, offset)
        super().__init__(folder, sensor, images, offsets, resampling)


def _find_layers(folder: Folder, files: list[str], layers: set[str], levels: Products) -> list[FoundFile]:
    """The finest file of each layer and product, whose path is the name of the image.

    Raises ValueError when there is no product, a layer of a product has two files, or there are several tiles.
    """
    found: dict[tuple[str, str, int], FoundFile] = {}
    for file in files:
        match = FILE.fullmatch(file)
        if match is None:
            other = LEVEL.fullmatch(file)
            levels.accept(f"MSI{other['level']}" if other else None)
            continue
        if match["layer"] not in layers:
            continue
        date = parse_date(match["date"], "%Y%m%d", folder.where(file))
        key = match["product"], match["layer"], int(match["metres"])
        if key in found:
            raise ValueError(
                f"{folder}: two files for {match['layer']} of {date}, {found[key].path} and {file}; keep one granule"
            )
        baseline = BASELINE.search(folder.where(match["product"]).rstrip("/"))
        image = ImageName(
            date=date,
            acquisition=match["time"],  # of the datatake; its datastrips share it
            baseline=None if baseline is None else baseline[1],
            name=match["product"].rstrip("/"),
        )
        found[key] = FoundFile(path=file, layer=match["layer"], image=image, tile=match["tile"])
    if not found:
        others = levels.passed_over()
        raise ValueError(
            f"{folder}: no Level-2A product: none of its {len(files)} files is like *.SAFE/GRANULE/*/IMG_DATA/R10m/*_B02_10m.jp2"
            + (f"; {others}" if others else "")
        )
    levels.report()
    check_one_tile((file.tile for file in found.values()), str(folder))
    finest = {(product, layer): found[product, layer, metres] for product, layer, metres in sorted(found, reverse=True)}
    return list(finest.values())


def _offsets(products: list[ImageName], folder: Folder, files: set[str], sensor: Sensor, offset: Offset) -> np.ndarray:
    """Offsets (N, C) from the metadata of each product, or from scene.yaml where the metadata do not state them."""
    result = np.zeros((len(products), len(sensor.bands)), dtype=np.int64)
    dates = np.array([product.date for product in products])
    stated = None if offset is None else stated_offsets(offset, sensor, dates, str(folder))
    for number, product in enumerate(products):
        file = f"{product.name}/{METADATA}".lstrip("/")
        said = None if stated is None else int(stated[number])
        known = _offsets_in_metadata(folder.read_bytes(file), sensor, folder.where(file)) if file in files else None
        if known is None:
            if said is not None:
                check_baseline(said, product.baseline, sensor, product.date, folder.where(product.name))
                result[number] = said
                continue
            raise ValueError(
                f"{folder.where(file)}: is missing or does not state the additive offset, so scene.yaml must: "
                "`offset: -1000` from processing baseline 04.00 on, `offset: 0` before, or by date, "
                "`offset: {2015-06-23: 0, 2022-01-25: -1000}`"
            )
        if said is not None and (known != said).any():
            raise ValueError(
                f"{folder.where(file)}: the offsets of {product.date} are {known.tolist()}, but scene.yaml states {said}; "
                "leave `offset` out, and the metadata decide"
            )
        result[number] = known
    return result


def _offsets_in_metadata(content: bytes, sensor: Sensor, where: str) -> np.ndarray | None:
    """Offset of each band of the sensor (C,), or None when the metadata do not state it."""
    try:
        root = ElementTree.fromstring(content)
    except (ParseError, DefusedXmlException) as error:
        raise ValueError(f"{where}: is not readable XML: {error!r}") from error
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
    """The text of the first element that has one of the names, in any namespace."""
    return next((found.text for name in names for found in root.iterfind(f".//{{*}}{name}")), None)
