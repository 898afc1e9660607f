"""STAC items: read from files, folders, catalogues and tables, at paths and URLs, and what each says of its day and tile.

Needs the extra `stac` (pystac, stac-geoparquet).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import MissingPackageError, is_data_error
from common.storage import AnyPath, any_path, is_url
from data_prep.archive.stac_collections import StacCollection

if TYPE_CHECKING:
    from pystac import Item

TABLE_SUFFIX = ".parquet"
ITEM_SUFFIXES = (".json", ".geojson")
CATALOGUE_FILES = ("catalog.json", "collection.json")
NOT_INSTALLED = "STAC needs the packages pystac, pystac-client and stac-geoparquet: pip install '.[stac]'"


def load_items(path: str, storage_options: Mapping[str, Any] | None = None) -> list[Item]:
    """Read the items at a path or URL, in the order of the file; hrefs of their assets become absolute.

    `path`: an item, an ItemCollection, a catalogue or collection with all items below it, a stac-geoparquet table, or a folder of
    such JSON files, of which a catalog.json or collection.json stands for the rest. Raises ValueError when there is no item, and
    for a file that is none of these.
    """
    try:
        import pystac  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(NOT_INSTALLED) from error
    place, name = any_path(path, storage_options), path.lower()
    if name.endswith(TABLE_SUFFIX):
        items = list(_items_of_table(place))
    elif not name.endswith(ITEM_SUFFIXES) and place.is_dir():
        items = [item for file in _files_of_folder(place) for item in _items_of_json(str(file), storage_options)]
    else:
        items = list(_items_of_json(path, storage_options))
    if not items:
        raise ValueError(f"{path}: holds no STAC item")
    return items


def read_json_at(href: str, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object at a path or URL. Raises ValueError when there is no file, or it is something else."""
    try:
        values = json.loads(any_path(href, storage_options).read_bytes())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{href}: no such file") from error
    except ValueError as error:
        raise ValueError(f"{href}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{href}: holds a {type(values).__name__}; expected a STAC item, ItemCollection, catalogue or collection"
        )
    return values


def _files_of_folder(folder: AnyPath) -> list[AnyPath]:
    """The JSON files of a folder: its catalogue, else all in it and its subfolders."""
    catalogue = next((folder / name for name in CATALOGUE_FILES if (folder / name).is_file()), None)
    return [catalogue] if catalogue else sorted((file for end in ITEM_SUFFIXES for file in folder.rglob(f"*{end}")), key=str)


def _items_of_json(href: str, storage_options: Mapping[str, Any] | None) -> Iterator[Item]:
    from pystac import Catalog, Collection, Item, STACError, STACTypeError

    values = read_json_at(href, storage_options)
    kind = values.get("type")
    try:
        if kind == "Feature":
            yield with_absolute_hrefs(Item.from_dict(values), href)
        elif kind == "FeatureCollection":
            yield from (with_absolute_hrefs(Item.from_dict(feature), href) for feature in values["features"])
        elif kind in ("Catalog", "Collection"):
            from pystac.stac_io import DefaultStacIO

            class Reading(DefaultStacIO):
                def read_text(self, source: Any, *_: Any, **__: Any) -> str:
                    return json.dumps(read_json_at(str(source), storage_options))

            opened = (Catalog if kind == "Catalog" else Collection).from_file(href, stac_io=Reading())
            yield from (with_absolute_hrefs(item, href) for item in opened.get_items(recursive=True))
        else:
            raise ValueError(f"type is {kind!r}")
    except (STACError, STACTypeError, KeyError, TypeError, AttributeError, ValueError) as error:
        if not is_data_error(error):
            raise
        raise ValueError(
            f"{href}: is not a STAC item, ItemCollection, catalogue or collection: {type(error).__name__} {error}"
        ) from error


def _items_of_table(path: AnyPath) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pystac import Item, STACError, STACTypeError

    try:
        from stac_geoparquet.arrow import stac_table_to_items
    except ImportError as error:
        raise MissingPackageError(NOT_INSTALLED) from error
    try:
        with path.open("rb") as file:
            for values in stac_table_to_items(pq.read_table(file)):
                yield with_absolute_hrefs(Item.from_dict(values), str(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{path}: no such file") from error
    except (pa.ArrowException, STACError, STACTypeError, KeyError, TypeError, ValueError) as error:
        if not is_data_error(error):
            raise
        raise ValueError(f"{path}: is not a stac-geoparquet table: {type(error).__name__} {error}") from error


def with_absolute_hrefs(item: Item, href: str) -> Item:
    """The item with absolute hrefs of assets: relative ones begin at the item's own place, else at `href`, its file."""
    from pystac.utils import make_absolute_href

    start = item.get_self_href() or href
    start = start if is_url(start) else str(Path(start).absolute())
    for asset in item.assets.values():
        asset.href = make_absolute_href(asset.href, start, start_is_dir=False)
    return item


def day_of(item: Item, collection: StacCollection | None) -> np.datetime64:
    """The day of an item, datetime64[D]: the solar day of its acquisition, on which no two orbits of a satellite see one place.

    That is its time in UTC plus an hour per 15 degrees of longitude at the middle of its box. An item of midnight sharp is of a
    day, not of a moment, and keeps it. The day in the id counts where the collection has one. Raises ValueError when the item
    states a period and no day.
    """
    named = collection.named_in(item.id) if collection else {}
    if "date" in named:
        return np.datetime64(datetime.strptime(named["date"], "%Y%j").date(), "D")
    if item.datetime is None:
        period = item.common_metadata.start_datetime, item.common_metadata.end_datetime
        raise ValueError(f"item {item.id} states no datetime, only a period, {period[0]} to {period[1]}; give it a datetime")
    moment = item.datetime.astimezone(UTC)
    if (moment.hour, moment.minute, moment.second) != (0, 0, 0) and item.bbox is not None:
        moment += timedelta(hours=_middle_longitude(item.bbox) / 15)
    return np.datetime64(moment.date(), "D")


def _middle_longitude(bbox: Iterable[float]) -> float:
    """Longitude in degrees of the middle of a box (west, south, east, north, or with heights), which may cross 180 degrees."""
    values = list(bbox)
    west, east = values[0], values[len(values) // 2]
    crosses = west > east or east - west > 180  # many catalogues write -180 to 180 for a box that crosses
    return ((west + east) / 2 + (180 if crosses else 0) + 180) % 360 - 180


def tile_of(item: Item, collection: StacCollection | None) -> str | None:
    """The tile of an item, such as 31TFJ or h18v04: in its id where the collection says how, else in `grid:code`; else None."""
    named = collection.named_in(item.id) if collection else {}
    if "tile" in named:
        return named["tile"].zfill(5)
    code = item.properties.get("grid:code") or item.properties.get("s2:mgrs_tile")
    return None if code is None else str(code).removeprefix("MGRS-")
