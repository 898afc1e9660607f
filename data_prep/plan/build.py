"""Makes the plan of a corpus from an archive: checks the settings and scenes, surveys the archive, and writes the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

from common.atomic_files import TEMPORARY
from common.checksums import sha256_of
from common.errors import is_data_error, portable_text
from common.executors import MapJobs, in_this_process
from common.storage import AnyPath, relative_path
from data_prep.archive.sample_files import file_list_sha256
from data_prep.archive.scene import (
    SCENE_FILE,
    FoundScenes,
    Scene,
    home_of_scenes,
    labels_file,
    scan_archive,
    scene_file_sha256,
    shared_labels,
)
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.landcover.label_legend import label_legends
from data_prep.landcover.label_opening import is_file_of_scene
from data_prep.landcover.legend import Legend, load_legend
from data_prep.landcover.sample_map import check_number_of_codes
from data_prep.plan.plan import CANNOT_BE_READ, LAND_COVER_MAPS, PLAN, SNOW_APART, TABLES, Plan, Rejection, load_plan
from data_prep.plan.plan_writer import write_plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.survey import survey
from data_prep.plan.survey_journal import JOURNAL, SurveyJournal

FEATURES = "label_features_sha256"  # in the settings of a plan whose labels come from labels.yaml or vector files


def make_plan(
    archive: AnyPath, output: AnyPath, settings: PlanSettings | None = None, map_jobs: MapJobs = in_this_process
) -> Plan:
    """Return the plan of a corpus of all scenes in `archive`: the one in `output`, or a new one that is written there.

    `map_jobs` opens the series of scenes, without those that a killed run has opened. A scene or series that cannot be read is a
    row of the table of rejected samples and stops no other. Raises ValueError when `output` holds another plan or something else,
    and for what concerns the archive as a whole: no scenes, names that repeat, unknown `sources`, two legends of one name, labels
    with different codes, splits on common ground, nothing to write.
    """
    settings = settings or PlanSettings()
    found = scan_archive(archive)
    known = load_sensors(home_of_scenes(archive) / "sources")
    sensors = _sensors_in_use(archive, found, known, settings)
    legends = _legends_in_use(found.scenes)
    arguments = _arguments(archive, found, sensors, settings)
    for legend in legends.values() if settings.land_cover_maps else ():
        check_number_of_codes(legend)
    if (output / PLAN).is_file():
        (output / JOURNAL).unlink(missing_ok=True)  # of a run that was killed just after it had written the plan
        plan = load_plan(output)
        # A plan that an earlier version began, or one without maps, is frozen and stays as it is.
        if not plan.keeps_snow_apart:
            arguments.pop(SNOW_APART)
        if not plan.has_maps:
            arguments.pop(LAND_COVER_MAPS, None)
        if FEATURES not in plan.settings:  # an earlier version did not look at a labels.yaml of rasters
            arguments.pop(FEATURES, None)
        if (plan.settings, plan.sensors, plan.legends) != (arguments, sensors, legends):
            raise ValueError(
                f"{output} holds a corpus of another plan (other arguments, or scenes that changed): "
                "give the arguments it was begun with, or a new output folder"
            )
        return plan
    check_new_output(output)
    needs_location = settings.sites is not None or settings.spatial_blocks is not None
    rejected = [*_unreadable(archive, found), *(_of_unknown_sources(found.scenes, known) if settings.sources is None else ())]
    described = {name: sensor.to_dict() for name, sensor in sensors.items()}
    with SurveyJournal(output, {"settings": arguments, "sensors": described}) as journal:
        surveyed = survey(archive, found.scenes, sensors, settings.labels, needs_location, map_jobs, journal)
        return write_plan(output, chain(rejected, surveyed), settings, arguments, sensors, legends)


def frozen_plan(archive: AnyPath, output: AnyPath, settings: PlanSettings) -> Plan:
    """Return the plan in `output`, for one of many jobs: opens no scene, since each is compared with the plan when it is read.

    Raises ValueError when it is a plan of other settings or sensors.
    """
    plan = load_plan(output)
    known = load_sensors(home_of_scenes(archive) / "sources")
    same = {
        "sources": settings.sources is None or sorted(set(settings.sources)) == sorted(plan.sensors),
        "chip_px": all(settings.chip_px.get(source, sensor.chip_px) == sensor.chip_px for source, sensor in plan.sensors.items()),
        "label": sorted(settings.labels) == sorted(plan.labels),
        "land_cover_maps": not plan.has_maps or settings.land_cover_maps,
        "sensors": all(
            source in known and replace(known[source], chip_px=sensor.chip_px) == sensor
            for source, sensor in plan.sensors.items()
        ),
        **{name: plan.settings[name] == value for name, value in _shape(settings).items()},
    }
    different = [name for name, is_same in same.items() if not is_same]
    if different:
        raise ValueError(f"{output} holds a corpus of another plan: other {', '.join(different)}; give those it was begun with")
    return plan


def _unreadable(archive: AnyPath, found: FoundScenes) -> Iterator[Rejection]:
    """Reject the scenes whose scene.yaml cannot be read."""
    for broken in found.unreadable:
        name = relative_path(broken.folder, archive)
        yield Rejection(key=name, source="", scene=name, reason=CANNOT_BE_READ + broken.reason)


def _of_unknown_sources(scenes: Sequence[Scene], known: Mapping[str, Sensor]) -> Iterator[Rejection]:
    """Reject the series of sources that no sensor describes."""
    for scene in scenes:
        for source in sorted(set(scene.sources) - set(known)):
            reason = f"{CANNOT_BE_READ}{SCENE_FILE}: unknown source {source}; known are {', '.join(sorted(known))}"
            yield Rejection(key=f"{source}-{scene.name}", source=source, scene=scene.name, reason=reason)


def _arguments(archive: AnyPath, found: FoundScenes, sensors: Mapping[str, Sensor], settings: PlanSettings) -> dict[str, Any]:
    """Return the entry `settings` of plan.json: the settings, and a digest of all scenes."""
    digest = hashlib.sha256()
    for scene in found.scenes:
        listed = [_file_list_sha256(scene, source) for source in sorted(set(scene.sources) & set(sensors))]
        digest.update(f"{relative_path(scene.folder, archive)} {scene_file_sha256(scene.folder)} {listed}\n".encode())
    for broken in found.unreadable:
        digest.update(f"{relative_path(broken.folder, archive)} {scene_file_sha256(broken.folder)} unreadable\n".encode())
    arguments: dict[str, Any] = {
        "sources": sorted(sensors),
        **_shape(settings),
        "scenes_sha256": digest.hexdigest(),
        SNOW_APART: True,
    }
    if settings.labels:  # without labels the key is left out, so that plans of earlier versions keep their hash
        absent = sorted(set(settings.labels) - set(sensors))
        if absent:
            raise ValueError(f"--label names the sources {absent}; this corpus has {sorted(sensors)}")
        legends = label_legends(found.scenes, settings.labels)
        arguments["labels"] = {source: legend.to_dict() for source, legend in legends.items()}
        features = _features_sha256(found.scenes, set(settings.labels.values()))
        if features is not None:
            arguments[FEATURES] = features
    if settings.land_cover_maps:
        arguments[LAND_COVER_MAPS] = True
    return arguments


def _shape(settings: PlanSettings) -> dict[str, Any]:
    """The part of the settings that shapes samples and shards, as plain values."""
    return {
        "shard_mb": settings.shard_mb,
        "min_frames": settings.min_frames,
        "split_blocks": None if settings.spatial_blocks is None else asdict(settings.spatial_blocks),
        "sites_sha256": None if settings.sites is None else _sites_sha256(settings.sites),
    }


def _features_sha256(scenes: Sequence[Scene], names: Set[str]) -> str | None:
    """A digest of labels.yaml and of the vector files that scenes share; None where labels come from neither.

    A file of one scene alone is not compared, as its images and label rasters are not: there may be 100,000 of them.
    """
    files: dict[str, AnyPath] = {}
    for scene in scenes:
        of_scene = [label for name, label in scene.labels.items() if name in names and label.features is not None]
        shared = [label for label in of_scene if not is_file_of_scene(label, scene)]
        files |= {str(path): path for label in shared if str(label.path) not in files for path in label.files}
    beside = labels_file(scenes[0].folder)
    if beside is not None and (files or names & set(shared_labels(scenes[0].folder))):
        files[str(beside)] = beside
    digests = [sha256_of(path) for _, path in sorted(files.items())]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if digests else None


def _file_list_sha256(scene: Scene, source: str) -> str | None:
    """`file_list_sha256`, or why the list cannot be read: the survey rejects such a source."""
    try:
        return file_list_sha256(scene, source)
    except ValueError as error:
        if not is_data_error(error):
            raise
        return portable_text(error, scene.folder)


def _sites_sha256(path: AnyPath) -> str:
    if not path.is_file():
        raise ValueError(f"table of sites {path} does not exist")
    return sha256_of(path)


def check_new_output(output: AnyPath) -> None:
    """Raise ValueError when a folder without plan.json holds more than the files of a run that was killed while it planned."""

    def is_leftover(name: str) -> bool:
        return name.endswith(TEMPORARY) or name in (JOURNAL, *TABLES.values())

    if output.exists() and (not output.is_dir() or any(not is_leftover(path.name) for path in output.iterdir())):
        raise ValueError(f"{output} exists and is no corpus; give a new output folder")


def _sensors_in_use(
    archive: AnyPath, found: FoundScenes, known: Mapping[str, Sensor], settings: PlanSettings
) -> dict[str, Sensor]:
    """Return the sensors of the wanted sources in ascending order of names, with the chip sizes of the settings.

    Without `sources` in the settings, sources of scenes that no sensor describes are left out, unless all are such. Raises
    ValueError for unknown sources in the settings.
    """
    held = sorted({source for scene in found.scenes for source in scene.sources})
    described = [source for source in held if source in known]
    wanted = (described or held) if settings.sources is None else sorted(set(settings.sources))
    unknown = sorted((set(wanted) | set(settings.chip_px)) - set(known))
    if unknown:
        raise ValueError(
            f"unknown sources {unknown}; known are {sorted(known)}; describe your own in "
            f"{home_of_scenes(archive) / 'sources'}/NAME.yaml"
        )
    absent = sorted((set(wanted) | set(settings.chip_px)) - set(held))
    if absent:
        raise ValueError(f"no scene in {archive} has the sources {absent}; they hold {held}{_broken(found)}")
    if not wanted:
        raise ValueError(f"no scene in {archive} can be read{_broken(found)}")
    return {source: replace(known[source], chip_px=settings.chip_px.get(source, known[source].chip_px)) for source in wanted}


def _broken(found: FoundScenes) -> str:
    """The part of a message about scenes whose scene.yaml cannot be read."""
    if not found.unreadable:
        return ""
    first = found.unreadable[0]
    return f"; {len(found.unreadable)} scenes cannot be read, such as {first.folder}: {first.reason}"


def _legends_in_use(scenes: Sequence[Scene]) -> dict[str, Legend]:
    """Return the land-cover legends of the scenes by name, but those that cannot be read: the survey rejects such scenes.

    Raises ValueError when two legends have the same name.
    """
    legends: dict[str, Legend] = {}
    for scene in scenes:
        if scene.land_cover is None:
            continue
        try:
            legend = load_legend(scene.land_cover.legend)
        except ValueError as error:
            if not is_data_error(error):
                raise
            continue
        if legends.setdefault(legend.name, legend) != legend:
            raise ValueError(
                f"{scene.folder / SCENE_FILE}: another scene has a different legend named {legend.name!r}; rename one"
            )
    return legends
