"""Makes the plan of a corpus from an archive: checks the settings and scenes, surveys the archive, and writes the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from common.atomic_files import TEMPORARY
from common.checksums import sha256_of
from common.storage import AnyPath, relative_path
from data_prep.archive.sample_files import file_list_sha256
from data_prep.archive.scene import SCENE_FILE, Scene, find_scenes, scene_file_sha256
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.landcover.label_legend import label_legends
from data_prep.landcover.label_raster import LabelRaster
from data_prep.landcover.legend import Legend, load_legend
from data_prep.landcover.sample_map import check_number_of_codes
from data_prep.plan.plan import LAND_COVER_MAPS, PLAN, SNOW_APART, TABLES, Plan, Rejection, load_plan
from data_prep.plan.plan_writer import write_plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.survey import Surveyed, survey


def make_plan(archive: AnyPath, output: AnyPath, settings: PlanSettings | None = None, workers: int = 1) -> Plan:
    """Return the plan of a corpus of all scenes in `archive`: the one in `output`, or a new one that is written there.

    Raises ValueError when `output` holds another plan or something else, and for mistakes in the archive: no scenes, unknown
    sources, containers that do not fit their scene.yaml, land cover of another legend or another place, nothing to write.
    """
    settings = settings or PlanSettings()
    scenes = find_scenes(archive)
    sensors = _sensors_in_use(archive, scenes, settings)
    legends = _legends_in_use(scenes)
    arguments = _arguments(archive, scenes, sensors, settings)
    for legend in legends.values() if settings.land_cover_maps else ():
        check_number_of_codes(legend)
    if (output / PLAN).is_file():
        plan = load_plan(output)
        # A plan that an earlier version began, or one without maps, is frozen and stays as it is.
        if not plan.keeps_snow_apart:
            arguments.pop(SNOW_APART)
        if not plan.has_maps:
            arguments.pop(LAND_COVER_MAPS, None)
        if (plan.settings, plan.sensors, plan.legends) != (arguments, sensors, legends):
            raise ValueError(
                f"{output} holds a corpus of another plan (other arguments, or scenes that changed): "
                "give the arguments it was begun with, or a new output folder"
            )
        return plan
    check_new_output(output)
    needs_location = settings.sites is not None or settings.spatial_blocks is not None
    surveyed = survey(archive, scenes, sensors, needs_location, workers)
    if settings.labels:
        surveyed = _with_checked_labels(surveyed, scenes, settings.labels)
    return write_plan(output, surveyed, settings, arguments, sensors, legends)


def _arguments(
    archive: AnyPath, scenes: Sequence[Scene], sensors: Mapping[str, Sensor], settings: PlanSettings
) -> dict[str, Any]:
    """Return the entry `settings` of plan.json: the settings, and a digest of all scenes."""
    digest = hashlib.sha256()
    for scene in scenes:
        listed = [file_list_sha256(scene, source) for source in sorted(set(scene.sources) & set(sensors))]
        digest.update(f"{relative_path(scene.folder, archive)} {scene_file_sha256(scene)} {listed}\n".encode())
    arguments: dict[str, Any] = {
        "sources": sorted(sensors),
        "shard_mb": settings.shard_mb,
        "min_frames": settings.min_frames,
        "split_blocks": None if settings.spatial_blocks is None else asdict(settings.spatial_blocks),
        "sites_sha256": None if settings.sites is None else _sites_sha256(settings.sites),
        "scenes_sha256": digest.hexdigest(),
        SNOW_APART: True,
    }
    if settings.labels:  # without labels the key is left out, so that plans of earlier versions keep their hash
        absent = sorted(set(settings.labels) - set(sensors))
        if absent:
            raise ValueError(f"--label names the sources {absent}; this corpus has {sorted(sensors)}")
        legends = label_legends(scenes, settings.labels)
        arguments["labels"] = {source: legend.to_dict() for source, legend in legends.items()}
    if settings.land_cover_maps:
        arguments[LAND_COVER_MAPS] = True
    return arguments


def _with_checked_labels(
    surveyed: Iterable[Surveyed | Rejection], scenes: Sequence[Scene], labels: Mapping[str, str]
) -> Iterator[Surveyed | Rejection]:
    """Pass the series on; raise ValueError for a label that is not on the grid of its source, before anything is written."""
    by_name = {scene.name: scene for scene in scenes}
    for found in surveyed:
        if isinstance(found, Surveyed) and found.series.source in labels:
            with LabelRaster(by_name[found.series.scene], labels[found.series.source], found.series.grid):
                pass  # opening it compares the grids
        yield found


def _sites_sha256(path: AnyPath) -> str:
    if not path.is_file():
        raise ValueError(f"table of sites {path} does not exist")
    return sha256_of(path)


def check_new_output(output: AnyPath) -> None:
    """Raise ValueError when a folder without plan.json holds more than the files of a run that was killed while it planned."""

    def is_leftover(name: str) -> bool:
        return name.endswith(TEMPORARY) or name in TABLES.values()

    if output.exists() and (not output.is_dir() or any(not is_leftover(path.name) for path in output.iterdir())):
        raise ValueError(f"{output} exists and is no corpus; give a new output folder")


def _sensors_in_use(archive: AnyPath, scenes: Sequence[Scene], settings: PlanSettings) -> dict[str, Sensor]:
    """Return the sensors of the wanted sources in ascending order of names, with the chip sizes of the settings."""
    home = archive.parent if (archive / SCENE_FILE).is_file() else archive
    known = load_sensors(home / "sources")
    held = sorted({source for scene in scenes for source in scene.sources})
    wanted = held if settings.sources is None else sorted(set(settings.sources))
    unknown = sorted((set(wanted) | set(settings.chip_px)) - set(known))
    if unknown:
        raise ValueError(
            f"unknown sources {unknown}; known are {sorted(known)}; describe your own in {home / 'sources'}/NAME.yaml"
        )
    absent = sorted((set(wanted) | set(settings.chip_px)) - set(held))
    if absent:
        raise ValueError(f"no scene in {archive} has the sources {absent}; they hold {held}")
    return {source: replace(known[source], chip_px=settings.chip_px.get(source, known[source].chip_px)) for source in wanted}


def _legends_in_use(scenes: Sequence[Scene]) -> dict[str, Legend]:
    """Return the land-cover legends of the scenes by name. Raises ValueError when two legends have the same name."""
    legends: dict[str, Legend] = {}
    for scene in scenes:
        if scene.land_cover is None:
            continue
        legend = load_legend(scene.land_cover.legend)
        path = scene.folder / SCENE_FILE
        if legends.setdefault(legend.name, legend) != legend:
            raise ValueError(f"{path}: another scene has a different legend named {legend.name!r}; rename one")
        quality = scene.land_cover.quality
        if quality is not None and quality not in scene.sources:
            raise ValueError(f"{path}: land cover from the quality layer of {quality!r}, which it lacks")
    return legends
