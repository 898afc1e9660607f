"""What STAC items say of their assets: which is which band, how numbers are stored, their grid and their additive offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.archive.stac_collections import StacCollection
from data_prep.readers.encoding import Encoding, check_encoding, check_quality
from data_prep.readers.offsets import FIRST_BASELINE_WITH_OFFSET, baseline_number, check_offset

if TYPE_CHECKING:
    from pystac import Asset, Item

BASELINE = "s2:processing_baseline"
OFFSET_APPLIED = "earthsearch:boa_offset_applied"
# BOA_ADD_OFFSET of all bands in all baselines of Level-2A that have one (Sentinel-2 Products Specification Document).
SENTINEL2_OFFSET = -1000
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

    The asset of a band is the one whose key or whose band has its name; without one, that whose band has its common name. Raises
    ValueError that lists what the item holds when a band is not found, or several assets could be it.
    """
    names: dict[str, set[str]] = {}
    common_names: dict[str, set[str]] = {}
    for key, asset in item.assets.items():
        if not asset.roles or "data" in asset.roles:
            facts = band_facts(asset)
            for name in (key, facts.get("name")):
                names.setdefault(str(name), set()).add(key)
            common_names.setdefault(str(facts.get("common_name")), set()).add(key)
    found = {layer: stated.get(layer) or tuple(names.get(layer, ())) for layer in (*sensor.bands, sensor.quality.name)}
    for band, common_name in sensor.common_names.items():
        found[band] = found[band] or tuple(common_names.get(common_name, ()))
    unclear = [layer for layer, keys in found.items() if layer not in stated and len(keys) != 1]
    if unclear:
        held = ", ".join(f"{key} ({text})" if (text := band_text(asset)) else key for key, asset in item.assets.items())
        raise ValueError(
            f"{origin}: which assets are {', '.join(unclear)} of source {sensor.name}? Item {item.id} has {held}; say it in "
            f"scene.yaml: `assets: {{{unclear[0]}: KEY}}`"
        )
    return found


def band_text(asset: Asset) -> str:
    """The band of an asset for messages, such as `B05, rededge071`."""
    facts = band_facts(asset)
    return ", ".join(str(facts[key]) for key in ("name", "common_name") if key in facts)


def check_asset(item: Item, key: str, sensor: Sensor, is_quality: bool, origin: str) -> float | None:
    """Return the additive offset that `raster:bands` states for an asset, in stored numbers; None where it states none.

    Raises ValueError when what the item says of the numbers does not fit the sensor; what it leaves out is not checked.
    """
    facts, where = band_facts(item.assets[key]), f"{origin}: item {item.id}, asset {key}"
    try:
        dtype = np.dtype(facts.get("data_type", sensor.dtype))
    except TypeError:  # such as "other"
        dtype = np.dtype(sensor.dtype)
    nodata, scale, offset = (None if facts.get(name) is None else float(facts[name]) for name in ("nodata", "scale", "offset"))
    if is_quality:
        check_quality(dtype, {}, sensor, where)
        return None
    return check_encoding(Encoding(dtype=dtype, nodata=nodata, scale=scale, offset=offset), sensor, where)


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
    """What an item states of the additive offset of its numbers cannot be relied on."""


def item_offsets(
    item: Item, by_raster: Sequence[float | None], sensor: Sensor, collection: StacCollection | None, origin: str
) -> np.ndarray | None:
    """The additive offset of each band that an item states: int64 (C,); None where it states none.

    Args:
        item: a STAC item.
        by_raster: the offset of each band by `raster:bands`, in stored numbers, see `check_asset`.
        sensor: sensor of the source.
        collection: the collection, which says what states the offset; None for others, where `raster:bands` does.
        origin: begins error messages.

    Raises UnknownOffset for an item whose statement cannot be relied on, and ValueError when the sensor has no offset.
    """
    where = f"{origin}: item {item.id}"
    if not sensor.offset_varies:
        if any(by_raster):
            raise ValueError(f"{where}: states the offsets {by_raster}, but source {sensor.name} has none")
        return np.zeros(len(sensor.bands), dtype=np.int64)
    statement = "raster_bands" if collection is None or collection.offset is None else collection.offset
    applied, baseline = item.properties.get(OFFSET_APPLIED), item.properties.get(BASELINE)
    later = baseline is None or baseline_number(str(baseline)) >= baseline_number(FIRST_BASELINE_WITH_OFFSET)
    match statement:
        case "processing_baseline":
            found: Sequence[float | None] = [None if baseline is None else SENTINEL2_OFFSET * later] * len(sensor.bands)
        case "boa_offset_applied":
            if applied is not True and later:
                raise UnknownOffset(
                    f"{where}: states {OFFSET_APPLIED}: {applied} for baseline {baseline}, which is wrong for some items of this "
                    "collection (sentinel-2-c1-l2a states it well)"
                )
            found = [0] * len(sensor.bands)
        case _:
            if applied is True and any(by_raster):
                raise UnknownOffset(f"{where}: states the offsets {by_raster} and {OFFSET_APPLIED}, which contradict each other")
            found = by_raster
    numbers = [offset for offset in found if offset is not None]
    if len(numbers) < len(found):
        return None
    for number in set(numbers):
        check_offset(round(number), sensor, where)
    return np.rint(numbers).astype(np.int64)
