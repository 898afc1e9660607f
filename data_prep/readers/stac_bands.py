"""What STAC items say of their assets: which is which band, how numbers are stored, their grid and their additive offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.archive.stac_collections import StacCollection
from data_prep.readers.offsets import baseline_number, check_offset
from data_prep.readers.radiometry import check_quality_type, check_stored

if TYPE_CHECKING:
    from pystac import Asset, Item

BASELINE = "s2:processing_baseline"
OFFSET_APPLIED = "earthsearch:boa_offset_applied"
FIRST_BASELINE_WITH_OFFSET = "04.00"
SENTINEL2_OFFSET = (
    -1000
)  # BOA_ADD_OFFSET of all bands in all Level-2A baselines so far (Sentinel-2 Products Specification Document)
SCALE_TOLERANCE = 1e-6
FACTS = ("name", "common_name", "center_wavelength", "data_type", "nodata", "scale", "offset")


def band_facts(asset: Asset) -> dict[str, Any]:
    """What an asset of one band says of it, of FACTS; empty for an asset of several bands.

    In STAC 1.1 it stands in `bands` or in the asset itself, before in `eo:bands` and `raster:bands`.
    """
    fields = asset.extra_fields
    lists = [fields[name] for name in ("eo:bands", "raster:bands", "bands") if fields.get(name)]
    if any(len(bands) != 1 for bands in lists):
        return {}
    facts: dict[str, Any] = {}
    for stated in (fields, *(bands[0] for bands in lists)):
        for key, value in stated.items():
            fact = key.removeprefix("eo:").removeprefix("raster:")
            if fact in FACTS and value is not None:
                facts[fact] = value
    return facts


def assets_by_names(item: Item, stated: Mapping[str, tuple[str, ...]], sensor: Sensor, origin: str) -> dict[str, tuple[str, ...]]:
    """The asset keys of each band and of the quality layer: `stated` ones, else by the names in the item.

    The asset of a band is the one whose key or whose band has its name. Raises ValueError that lists what the item holds when a
    band is not found, or several assets could be it.
    """
    names: dict[str, set[str]] = {}
    for key, asset in item.assets.items():
        if not asset.roles or "data" in asset.roles:
            names.setdefault(key, set()).add(key)
            names.setdefault(str(band_facts(asset).get("name", key)), set()).add(key)
    layers = (*sensor.bands, sensor.quality.name)
    unclear = [layer for layer in layers if layer not in stated and len(names.get(layer, ())) != 1]
    if unclear:
        held = ", ".join(f"{key} ({text})" if (text := band_text(asset)) else key for key, asset in item.assets.items())
        raise ValueError(
            f"{origin}: which assets are {', '.join(unclear)} of source {sensor.name}? Item {item.id} has {held}; say it in "
            f"scene.yaml: `assets: {{{unclear[0]}: KEY}}`"
        )
    return {layer: stated.get(layer) or tuple(names[layer]) for layer in layers}


def band_text(asset: Asset) -> str:
    """The band of an asset for messages, such as `B05, rededge071`."""
    facts = band_facts(asset)
    return ", ".join(str(facts[key]) for key in ("name", "common_name") if key in facts)


def check_asset(item: Item, key: str, sensor: Sensor, is_quality: bool, origin: str) -> None:
    """Raises ValueError unless what an item says of the numbers of an asset fits the sensor; what it leaves out is not."""
    facts, where = band_facts(item.assets[key]), f"{origin}: item {item.id}, asset {key}"
    try:
        stored = np.dtype(facts.get("data_type", sensor.dtype))
    except TypeError:  # such as "other"
        stored = np.dtype(sensor.dtype)
    if is_quality:
        check_quality_type(stored, where)
        return
    nodata = facts.get("nodata")
    check_stored(stored, float(nodata) if nodata is not None else None, sensor, where)
    scale = facts.get("scale")
    if scale is not None and abs(float(scale) / sensor.scale - 1) > SCALE_TOLERANCE:
        raise ValueError(f"{where}: reflectance is number * {scale:g}, but number * {sensor.scale:g} for source {sensor.name}")


def stated_grid(item: Item, key: str) -> tuple[tuple[float, ...], tuple[int, ...]] | None:
    """Transform (six numbers, as in rasterio) and shape of an asset by the projection extension; None where it is not stated."""
    asset = item.assets[key].extra_fields
    transform, shape = (asset.get(name) or item.properties.get(name) for name in ("proj:transform", "proj:shape"))
    return None if not transform or not shape else (tuple(map(float, transform[:6])), tuple(map(int, shape)))


def stated_crs(item: Item, key: str) -> str | None:
    """Coordinate reference system of an asset by the projection extension, `EPSG:n` or WKT; None where it is not stated."""
    asset = item.assets[key].extra_fields
    code, wkt = (asset.get(name) or item.properties.get(name) for name in ("proj:code", "proj:wkt2"))
    if code is None:
        return wkt
    return f"EPSG:{code}" if str(code).isdecimal() else str(code)  # some catalogues write the number alone


class UnknownOffset(ValueError):
    """An item does not state the additive offset of its numbers, or not in a way that can be relied on."""


def stated_offsets_of(
    item: Item, bands: Mapping[str, str], sensor: Sensor, collection: StacCollection | None, origin: str
) -> np.ndarray:
    """The additive offset of each band that an item states: int64 (C,).

    Args:
        item: a STAC item.
        bands: asset key of each band, in the order of the sensor.
        sensor: sensor of the source.
        collection: the collection, which says what states the offset; None for others, where `raster:bands` does.
        origin: begins error messages.

    Raises UnknownOffset when archives of the sensor differ in the offset and the item does not state it, and ValueError when they
    do not differ and the item states one.
    """
    where = f"{origin}: item {item.id}"
    by_raster = [_raster_offset(item.assets[key], f"{where}, asset {key}") for key in bands.values()]
    if not sensor.offset_varies:
        wrong = {band: offset for band, offset in zip(bands, by_raster, strict=True) if offset}
        if wrong:
            raise ValueError(f"{where}: states the offsets {wrong}, but source {sensor.name} has none")
        return np.zeros(len(bands), dtype=np.int64)
    statement = "raster_bands" if collection is None or collection.offset is None else collection.offset
    applied, baseline = item.properties.get(OFFSET_APPLIED), item.properties.get(BASELINE)
    before = baseline is not None and baseline_number(str(baseline)) < baseline_number(FIRST_BASELINE_WITH_OFFSET)
    match statement:
        case "processing_baseline":
            if baseline is None:
                raise UnknownOffset(f"{where}: does not state {BASELINE}, which decides the offset")
            found: Sequence[int] = [0 if before else SENTINEL2_OFFSET] * len(bands)
        case "boa_offset_applied":
            if applied is not True and not before:
                raise UnknownOffset(
                    f"{where}: states {OFFSET_APPLIED}: {applied} for baseline {baseline}, which is wrong for some items of this "
                    "collection; sentinel-2-c1-l2a states it well"
                )
            found = [0] * len(bands)
        case _:
            if None in by_raster:
                raise UnknownOffset(f"{where}: its raster:bands do not state an offset for every band")
            if applied is True and any(by_raster):
                raise UnknownOffset(f"{where}: states the offsets {by_raster} and {OFFSET_APPLIED}, which contradict each other")
            found = [offset for offset in by_raster if offset is not None]
    for offset in set(found):
        check_offset(offset, sensor, where)
    return np.array(found, dtype=np.int64)


def _raster_offset(asset: Asset, where: str) -> int | None:
    """The offset that `raster:bands` states, in stored numbers: -1000 for an offset of -0.1 at a scale of 0.0001; else None."""
    facts = band_facts(asset)
    if "offset" not in facts:
        return None
    numbers = float(facts["offset"]) / float(facts.get("scale", 1))
    if abs(numbers - round(numbers)) > 1e-3:
        raise ValueError(f"{where}: an offset of {facts['offset']} at a scale of {facts.get('scale', 1)} is no whole number")
    return round(numbers)
