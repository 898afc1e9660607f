"""STAC items as the images of one source: which asset is which band, which images of a day, offsets. No file is opened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.archive.stac_collections import StacCollection, stac_collections
from data_prep.archive.stac_items import day_of, tile_of
from data_prep.readers.band_metadata import check_band
from data_prep.readers.file_names import FoundFile, ImageFiles, group_into_images, named_layers
from data_prep.readers.offsets import Offset, stated_offsets
from data_prep.readers.same_day import ImageName
from data_prep.readers.stac_bands import (
    BASELINE,
    UnknownOffset,
    assets_by_names,
    band_facts,
    check_asset,
    item_offsets,
    stated_crs,
    stated_grid,
)

if TYPE_CHECKING:
    from pystac import Item

DATATAKE = "s2:datatake_id"  # GS2A_20210103T103421_028892_N02.14
STATE_IT = (
    "so scene.yaml must state what to add: `offset: {00.00: 0, 04.00: -1000}` for the numbers of Sentinel-2, "
    "`offset: {00.00: 0, 04.00: 0}` for harmonised ones"
)


@dataclass(frozen=True, kw_only=True)
class ItemImages:
    """Items as images.

    Attributes:
        collection: name of their collection among the known ones; None for another one.
        items: the items, in the order of the images.
        images: one per item.
        offsets: (N, C), added to the stored numbers; None when only the files may state them.
        first_band: asset key of the first band.
    """

    collection: str | None
    items: list[Item]
    images: list[ImageFiles]
    offsets: np.ndarray | None
    first_band: str


def item_images(
    items: Sequence[Item],
    sensor: Sensor,
    collection: str | None,
    assets: Mapping[str, str | Sequence[str]] | None,
    incomplete: str,
    same_day: str,
    offset: Offset,
    origin: str,
) -> ItemImages:
    """The images of one source that items describe; opens no file. For the options see StacScenes.

    Raises ValueError, which `origin` begins, when the items are of several collections or tiles, and when an asset does not fit
    the sensor, or is missing, or its offset is unknown.
    """
    name, items = _of_source(items, sensor, collection, origin)
    known = None if name is None else stac_collections()[name]
    check_one_tile(items, known, origin)
    keys = _asset_keys(items, known, assets or {}, sensor, origin)
    by_image = {_image_name(item, known): item for item in items}
    files, by_raster = [], {}
    for image, item in by_image.items():
        held = [(layer, key) for layer, of_layer in keys.items() for key in of_layer if key in item.assets]
        if not held:
            raise ValueError(f"{origin}: item {item.id} has no asset of source {sensor.name}, only {', '.join(item.assets)}")
        for layer, key in held:
            is_quality = layer == sensor.quality.name
            by_raster[image, layer] = check_asset(item, key, sensor, is_quality, origin)
            if known is None and not is_quality and layer not in (assets or {}):  # it was found by its name
                check_band(layer, band_facts(item.assets[key]), sensor, f"{origin}: item {item.id}, asset {key}")
            files.append(FoundFile(path=item.assets[key].href, layer=key, image=image))
    images = group_into_images(files, keys, sensor, incomplete, same_day, origin)
    items = [by_image[image.image] for image in images]
    stated = [
        _item_offsets(item, [by_raster[image.image, band] for band in sensor.bands], sensor, known, offset, origin)
        for image, item in zip(images, items, strict=True)
    ]
    offsets = _offsets(items, [image.image.date for image in images], stated, sensor, offset, origin)
    return ItemImages(collection=name, items=items, images=images, offsets=offsets, first_band=keys[sensor.bands[0]][0])


def _of_source(items: Sequence[Item], sensor: Sensor, collection: str | None, origin: str) -> tuple[str | None, list[Item]]:
    """The known collection of the source, and its items; those of other known sources are passed over.

    Raises ValueError unless the items of the source are of one collection.
    """
    known = stac_collections()
    if collection is not None:
        if collection not in known:
            raise ValueError(f"{origin}: collection is {collection!r}; known are {', '.join(known)}")
        source = known[collection].source
        if sensor.name != source and sensor.name in {other.source for other in known.values()}:
            raise ValueError(f"{origin}: collection {collection} is source {source}, not {sensor.name}: bands of one name differ")
        name = collection.partition("/")[2]
        mine = [item for item in items if item.collection_id in (None, name)]
        if not mine:
            raise ValueError(f"{origin}: no item of {name}; its items are of {_listed(items)}")
        _note_others(items, mine, sensor, origin)
        return collection, mine
    groups: dict[str | None, list[Item]] = {}
    for item in items:
        groups.setdefault(known_collection(item), []).append(item)
    of_source: list[str | None] = [name for name in groups if name is not None and known[name].source == sensor.name]
    chosen = of_source or [name for name in groups if name is None]
    if not chosen:
        sources = ", ".join(f"{name} (source {known[name].source})" for name in groups if name is not None)
        raise ValueError(f"{origin}: its items are of {sources}; none is of source {sensor.name}")
    mine = groups[chosen[0]]
    if len(chosen) > 1 or len({item.collection_id for item in mine}) > 1:
        raise ValueError(
            f"{origin}: items of several collections, {_listed(items)}, could be source {sensor.name}; keep one, or say "
            "`collection` in scene.yaml"
        )
    _note_others(items, mine, sensor, origin)
    return chosen[0], mine


def _note_others(items: Sequence[Item], mine: Sequence[Item], sensor: Sensor, origin: str) -> None:
    """Show a note of the items that a source passes over."""
    kept = {id(item) for item in mine}
    others = [item for item in items if id(item) not in kept]
    if others:
        note(f"{origin}: passed over items of {_listed(others)}; source {sensor.name} reads {_listed(mine)}")


def _listed(items: Sequence[Item]) -> str:
    """Collections of items with their counts, for messages."""
    counts = Counter(str(item.collection_id) for item in items)
    return ", ".join(f"{name} ({count} items)" for name, count in sorted(counts.items()))


def known_collection(item: Item) -> str | None:
    """The known collection of an item: by its name, and by the form of its id, since catalogues share names; else None."""
    for name, collection in stac_collections().items():
        if name.partition("/")[2] == item.collection_id and collection.named_in(item.id):
            return name
    return None


def check_one_tile(items: Sequence[Item], collection: StacCollection | None, origin: str) -> None:
    """Raises ValueError when items are of several tiles, or state several grids and no tile: a series lies on one grid."""
    counts: Counter[str] = Counter(place for item in items if (place := place_of(item, collection)) is not None)
    if len(counts) > 1:
        found = ", ".join(f"{place} ({count} items)" for place, count in sorted(counts.items()))
        raise ValueError(f"{origin}: holds items of the tiles {found}; a series lies on one grid, so keep one tile a source")


def place_of(item: Item, collection: StacCollection | None) -> str | None:
    """The tile of an item; where it states none, the finest grid of its assets, such as 32631_500040_5000040; else None."""
    tile = tile_of(item, collection)
    if tile is not None:
        return tile
    grids = [(grid[0][0], key, grid[0]) for key in item.assets if (grid := stated_grid(item, key)) is not None]
    if not grids:
        return None
    _, key, transform = min(grids)
    crs = stated_crs(item, key)
    zone = crs.removeprefix("EPSG:") if crs is not None and crs.startswith("EPSG:") else "grid"
    return f"{zone}_{transform[2]:.0f}_{transform[5]:.0f}"


def _image_name(item: Item, collection: StacCollection | None) -> ImageName:
    """The day of an item, the overpass that its datatake or else its time tells, and its processing."""
    named = collection.named_in(item.id) if collection else {}
    datatake = re.match(r"GS2\w_(\d{8}T\d{6})", str(item.properties.get(DATATAKE, "")))
    period = item.datetime or item.common_metadata.start_datetime
    baseline = item.properties.get(BASELINE) or named.get("version") or item.properties.get("processing:version")
    return ImageName(
        date=day_of(item, collection),
        acquisition=datatake[1] if datatake else f"{item.properties.get('platform', '')} {period}",
        baseline=None if baseline is None else str(baseline),
        name=item.id,
    )


def known_asset_keys(
    collection: StacCollection, sensor: Sensor, assets: Mapping[str, str | Sequence[str]], origin: str
) -> dict[str, tuple[str, ...]]:
    """The asset keys of each band and of the quality layer in a known collection, or as `assets` states them."""
    layers = {*sensor.bands, sensor.quality.name}
    usual = {layer: keys for layer, keys in collection.assets.items() if layer in layers}
    return named_layers({**usual, **assets}, sensor, origin, "assets")


def _asset_keys(
    items: Sequence[Item],
    collection: StacCollection | None,
    assets: Mapping[str, str | Sequence[str]],
    sensor: Sensor,
    origin: str,
) -> dict[str, tuple[str, ...]]:
    """The asset keys of each band and of the quality layer: as stated, else as the collection has them, else by names."""
    if collection is not None:
        return known_asset_keys(collection, sensor, assets, origin)
    stated = named_layers(assets, sensor, origin, "assets")
    fullest = max(items, key=lambda item: len(item.assets))
    return assets_by_names(fullest, {layer: stated[layer] for layer in assets}, sensor, origin)


def _item_offsets(
    item: Item,
    by_raster: Sequence[float | None],
    sensor: Sensor,
    collection: StacCollection | None,
    offset: Offset,
    origin: str,
) -> np.ndarray | None:
    """`item_offsets`, or None where they cannot be relied on and scene.yaml states an offset."""
    try:
        return item_offsets(item, by_raster, sensor, collection, origin)
    except UnknownOffset as error:
        if offset is None:
            raise ValueError(f"{error}; {STATE_IT}") from error
        return None


def _offsets(
    items: Sequence[Item],
    days: Sequence[np.datetime64],
    by_item: Sequence[np.ndarray | None],
    sensor: Sensor,
    offset: Offset,
    origin: str,
) -> np.ndarray | None:
    """Offsets (N, C) that the items state, else scene.yaml; None when neither does: then the files must.

    Raises ValueError when they differ, and when some items state their offsets, others do not, and neither does scene.yaml.
    """
    silent = [item.id for item, of_item in zip(items, by_item, strict=True) if of_item is None]
    baselines = [item.properties.get(BASELINE) for item in items]
    stated = None if offset is None else stated_offsets(offset, sensor, np.array(days), origin, baselines)
    if stated is None and silent:
        if len(silent) < len(items):
            raise ValueError(f"{origin}: {len(silent)} of {len(items)} items state no offset, such as {silent[0]}; {STATE_IT}")
        return None
    result = np.zeros((len(items), len(sensor.bands)), dtype=np.int64)
    for time, (item, of_item) in enumerate(zip(items, by_item, strict=True)):
        if of_item is None:
            assert stated is not None, item
            result[time] = stated[time]
            continue
        if stated is not None and (of_item != stated[time]).any():
            raise ValueError(
                f"{origin}: item {item.id} states the offsets {of_item.tolist()}, but scene.yaml {stated[time]}; leave `offset` "
                "out, and the items decide"
            )
        result[time] = of_item
    return result
