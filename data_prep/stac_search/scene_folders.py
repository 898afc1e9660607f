"""Scene folders of the items that a search found: one for each tile and year, with scene.yaml and a file of items per source."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from shapely.geometry.base import BaseGeometry
from tabulate import tabulate

from common.atomic_files import whole_file
from common.notes import collected_notes
from data_prep.archive.scene import SCENE_FILE, SPLITS, load_scene
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.archive.stac_collections import NO_SIGNER, signer_of
from data_prep.archive.stac_items import load_items
from data_prep.readers.stac_images import item_images
from data_prep.stac_search.area import Area
from data_prep.stac_search.search import FoundItem, Step, found_items
from data_prep.stac_search.settings import SearchSettings

SHOWN_PROBLEMS = 10


@dataclass
class CollectionSummary:
    """What was found of one collection.

    Attributes:
        source: its source.
        scenes, items: counts.
        days: first and last day, YYYY-MM-DD.
        footprint: union of the items.
    """

    source: str
    scenes: int = 0
    items: int = 0
    days: tuple[str, str] = ("9999", "")
    footprint: BaseGeometry = field(default_factory=shapely.Polygon)


@dataclass
class Written:
    """The scenes of a search.

    Attributes:
        collections: what was found of each collection.
        splits: split that the scenes of each region state; all years of a region have one.
        problems: by scene and source, why it cannot be read as it is.
    """

    collections: dict[str, CollectionSummary]
    splits: dict[str, str | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def table(self, area: Area) -> str:
        """Collections with counts, dates and area, and the problems."""
        rows = [
            [
                name,
                found.source,
                found.scenes,
                found.items,
                " to ".join(found.days) if found.items else "",
                area.covered(found.footprint),
            ]
            for name, found in self.collections.items()
        ]
        text = tabulate(rows, ["collection", "source", "scenes", "items", "dates", "area"])
        for name in list(self.problems)[:SHOWN_PROBLEMS]:
            text += f"\n{name} cannot be read yet: {self.problems[name]}"
        more = len(self.problems) - SHOWN_PROBLEMS
        return text + (f"\n... and {more} more" if more > 0 else "")


def write_scenes(settings: SearchSettings, area: Area, steps: Sequence[Step]) -> Written:
    """Write the scenes of a search that is finished, year by year if they are apart; equal items give equal files."""
    sources = settings.sources()
    sensors = load_sensors(settings.output / "sources")
    written = Written({name: CollectionSummary(source) for name, source in sources.items()})
    years = range(settings.first.year, settings.last.year + 1)
    parts = [(f"_{year}", [year]) for year in years] if settings.by_year else [("", list(years))]
    for suffix, of_part in parts:
        scenes: dict[str, dict[str, dict[str, FoundItem]]] = {}
        for found in chain.from_iterable(found_items(settings.output, steps, year) for year in of_part):
            of_source = scenes.setdefault(found.tile, {}).setdefault(found.collection, {})
            of_source[found.item] = found  # points of several steps may lie in one tile
        for tile, collections in sorted(scenes.items()):
            _write_scene(settings, area, tile, suffix, collections, sensors, written)
    return written


def _write_scene(
    settings: SearchSettings,
    area: Area,
    tile: str,
    suffix: str,
    collections: dict[str, dict[str, FoundItem]],
    sensors: dict[str, Sensor],
    written: Written,
) -> None:
    region = re.sub(r"[^\w-]", "_", tile)
    folder = settings.output / f"{region}{suffix}"
    folder.mkdir(exist_ok=True)
    sources = {}
    footprints = []
    for collection, found in collections.items():
        source = settings.sources()[collection]
        in_order = sorted(found.values(), key=lambda one: (one.day, one.item))
        items = [json.loads(one.item) for one in in_order]
        _write(folder / f"{source}.json", json.dumps({"type": "FeatureCollection", "features": items}))
        footprint = shapely.union_all([shapely.geometry.shape(item["geometry"]) for item in items])
        footprints.append(footprint)
        sources[source] = _source(settings, area, source, in_order[0].known, footprint)
        summary = written.collections[collection]
        summary.scenes += 1
        summary.items += len(items)
        summary.days = min(summary.days[0], in_order[0].day), max(summary.days[1], in_order[-1].day)
        summary.footprint = summary.footprint.union(footprint)
        if (problem := _problem(folder, sources[source], sensors.get(source))) is not None:
            written.problems[f"{folder.name}, {source}"] = problem
    split = written.splits.setdefault(region, _split(settings, footprints))
    stated = {} if split is None else {"split": split}
    scene: dict[str, Any] = {"name": folder.name, "region": region, **stated, "sources": sources}
    land_cover = settings.land_cover.in_scene()
    if land_cover is not None:
        scene["land_cover"] = land_cover
    _write(folder / SCENE_FILE, yaml.safe_dump(scene, sort_keys=False))
    load_scene(folder)


def _source(settings: SearchSettings, area: Area, source: str, known: str | None, footprint: BaseGeometry) -> dict[str, Any]:
    """The entry of a source in scene.yaml."""
    signer = settings.signer_name()
    if settings.signer is None and signer == NO_SIGNER and known is not None:
        signer = signer_of(known)
    values: dict[str, Any] = {"container": "stac", "path": f"{source}.json", "signer": signer}
    if known is not None:
        values["collection"] = known
    box = area.box_within(footprint)
    if box is not None:
        values["bbox"] = [round(value, 6) for value in box]
    return {**values, **(settings.options or {}).get(source, {})}


def _split(settings: SearchSettings, footprints: Sequence[BaseGeometry]) -> str | None:
    blocks = settings.blocks
    if blocks is None:
        return settings.split
    centre = shapely.union_all(footprints).centroid
    return SPLITS[int(blocks.of_places(np.array([centre.x]), np.array([centre.y]))[0])]


def _problem(folder: Path, options: dict[str, Any], sensor: Sensor | None) -> str | None:
    """Why the items of a source cannot be read as they are; None when they can, as far as they tell."""
    if sensor is None:
        return f"no sensor of this name: describe it in {folder.parent / 'sources'}"
    stated = {name: options.get(name) for name in ("collection", "assets", "offset")}
    try:
        with collected_notes():
            items = load_items(str(folder / options["path"]))
            incomplete, same_day = options.get("incomplete", "refuse"), options.get("same_day", "mosaic")
            item_images(items, sensor, incomplete=incomplete, same_day=same_day, origin=options["path"], **stated)
    except ValueError as error:
        return str(error)
    return None


def _write(path: Path, text: str) -> None:
    if path.is_file() and path.read_text() == text:
        return
    with whole_file(path) as temporary:
        temporary.write_text(text)
