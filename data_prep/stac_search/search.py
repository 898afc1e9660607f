"""A search in small steps, each of which is kept in a file when it is finished, so that a search can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import shapely

from common.atomic_files import remove_leftovers, whole_file
from common.json_files import read_json, write_json
from common.progress import Progress
from data_prep.archive.scene import SCENE_FILE
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.archive.stac_collections import stac_collections
from data_prep.archive.stac_items import day_of
from data_prep.readers.stac_images import known_asset_keys, known_collection, place_of
from data_prep.stac_search.area import Area
from data_prep.stac_search.catalogues import Catalogue
from data_prep.stac_search.settings import SearchSettings

if TYPE_CHECKING:
    from pystac import Item

SEARCH_FILE = "search.json"
STEPS = "search"  # folder of the finished steps
DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One request of a search, with its pages.

    Attributes:
        collection: collection to search.
        first, last: days.
        number: which of the queries of the area.
    """

    collection: str
    first: date
    last: date
    number: int

    @property
    def file(self) -> str:
        return f"{self.collection}_{self.first}_{self.number:05d}.jsonl"


@dataclass(frozen=True, kw_only=True)
class FoundItem:
    """An item that a search found.

    Attributes:
        collection: collection in the catalogue.
        known: its name among the known collections; None for another one.
        tile: its tile, see `place_of`.
        day: its day, YYYY-MM-DD.
        item: the item as JSON, with the assets that its source needs.
    """

    collection: str
    known: str | None
    tile: str
    day: str
    item: str


def steps_of(settings: SearchSettings, area: Area) -> list[Step]:
    """The steps of a search: for each collection, by months, or by years where the area takes many queries."""
    periods = _periods(settings.first, settings.last, 1 if len(area.queries) == 1 else 12)
    return [
        Step(collection=collection, first=first, last=last, number=number)
        for collection in settings.sources()
        for first, last in periods
        for number in range(len(area.queries))
    ]


def _periods(first: date, last: date, months: int) -> list[tuple[date, date]]:
    """The days from `first` to `last` in periods of some months of a year, each as its first and last day."""
    periods = []
    while first <= last:
        following = first.year * 12 + (first.month - 1) // months * months + months
        end = min(date(following // 12, following % 12 + 1, 1) - DAY, last)
        periods.append((first, end))
        first = end + DAY
    return periods


def begin_search(settings: SearchSettings) -> None:
    """Begin or resume a search in its output folder. Raises ValueError when that holds scenes, or another search."""
    path, identity = settings.output / SEARCH_FILE, settings.identity()
    if path.is_file():
        before = read_json(path)
        changed = sorted(name for name in {*before, *identity} if before.get(name) != identity.get(name))
        if changed:
            differences = "; ".join(f"{name} was {before.get(name)}, is {identity.get(name)}" for name in changed)
            raise ValueError(f"{settings.output} was begun by another search: {differences}; give another --output")
        remove_leftovers(settings.output / STEPS)
        return
    if any(settings.output.glob(f"*/{SCENE_FILE}")):
        raise ValueError(f"{settings.output} holds scenes that no search wrote; give another --output")
    (settings.output / STEPS).mkdir(parents=True, exist_ok=True)
    write_json(path, identity)


def run_search(settings: SearchSettings, area: Area, catalogue: Catalogue) -> list[Step]:
    """Take the steps of a search that are not finished; return all steps."""
    steps = steps_of(settings, area)
    folder = settings.output / STEPS
    missing = [step for step in steps if not (folder / step.file).is_file()]
    sensors = load_sensors(settings.output / "sources")
    with Progress("search", len(steps), len(steps) - len(missing), unit="request") as progress:
        for step in missing:
            source = settings.sources()[step.collection]
            stated = "assets" in (settings.options or {}).get(source, {})
            keep = None if stated else sensors.get(source)
            lines = []
            for item in catalogue.search(step.collection, step.first, step.last, area.queries[step.number]):
                found = _found(item, step, area, settings.tiles, keep)
                if found is not None:
                    lines.append(f"{found.known or ''}\t{found.tile}\t{found.day}\t{found.item}\n")
            with whole_file(folder / step.file) as temporary:
                temporary.write_text("".join(sorted(lines)))
            progress.add(sum(map(len, lines)))
    return steps


def _found(item: Item, step: Step, area: Area, tiles: Sequence[str] | None, keep: Sensor | None) -> FoundItem | None:
    """An item that a step found; None where it is of another day or tile, or lies beside the area.

    `keep`: sensor whose assets are kept of the items of known collections; None keeps all. Raises ValueError when the tile or
    the place of the item is unknown.
    """
    known = known_collection(item)
    about = None if known is None else stac_collections()[known]
    day = date.fromisoformat(str(day_of(item, about)))
    if not step.first <= day <= step.last:
        return None
    tile = place_of(item, about)
    if tile is None:
        raise ValueError(
            f"item {item.id} of {step.collection} states neither its tile (grid:code) nor its grid (proj:transform): which items "
            "form a series is not known"
        )
    if item.geometry is None:
        raise ValueError(f"item {item.id} of {step.collection} has no geometry, so its place is not known")
    if (tiles is not None and tile not in tiles) or not area.touches(shapely.geometry.shape(item.geometry)):
        return None
    values = item.to_dict(include_self_link=False, transform_hrefs=False)
    values["links"] = []
    if about is not None and keep is not None:
        needed = {key for keys in known_asset_keys(about, keep, {}, step.collection).values() for key in keys}
        values["assets"] = {key: asset for key, asset in values["assets"].items() if key in needed}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return FoundItem(collection=step.collection, known=known, tile=tile, day=str(day), item=text)


def found_items(folder: Path, steps: Sequence[Step], year: int) -> Iterator[FoundItem]:
    """The items of a year that the steps found."""
    for step in steps:
        if step.first.year == year:
            with (folder / STEPS / step.file).open() as lines:
                for line in lines:
                    known, tile, day, item = line.rstrip("\n").split("\t")
                    yield FoundItem(collection=step.collection, known=known or None, tile=tile, day=day, item=item)
