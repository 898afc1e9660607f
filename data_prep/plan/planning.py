"""From an archive to the plan of a corpus: what is asked for is checked, surveyed and written, once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from common.atomic_files import TEMPORARY
from common.checksums import sha256_of
from data_prep.archive.sample_files import list_sha256
from data_prep.archive.scene import SCENE_FILE, Scene, find_scenes, scene_file_sha256
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.landcover.label_legend import label_legends
from data_prep.landcover.label_raster import LabelRaster
from data_prep.landcover.legend import Legend, load_legend
from data_prep.plan.plan import PLAN, TABLES, Plan, Rejection, load_plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.survey import Surveyed, survey
from data_prep.plan.writing import write_plan


def make_plan(archive: Path, output: Path, settings: PlanSettings | None = None, workers: int = 1) -> Plan:
    """The plan of a corpus of all scenes in `archive`: the one that lies in `output` already, or a new one, written there.

    Raises ValueError for what the user must mend: an output folder that holds something else or another plan, no scenes,
    unknown sources, containers that are not what their scene says, land cover of another legend or another place, or
    nothing at all to write.
    """
    settings = settings or PlanSettings()
    scenes = find_scenes(archive)
    sensors = _sensors_in_use(archive, scenes, settings)
    legends: dict[str, Legend] = {}
    digest = hashlib.sha256()
    for scene in scenes:
        _add_legend(scene, legends)
        listed = [list_sha256(scene, source) for source in sorted(set(scene.sources) & set(sensors))]
        digest.update(f"{scene.folder.relative_to(archive).as_posix()} {scene_file_sha256(scene)} {listed}\n".encode())
    arguments = {
        "sources": sorted(sensors),
        "shard_mb": settings.shard_mb,
        "min_frames": settings.min_frames,
        "split_blocks": None if settings.split_blocks is None else asdict(settings.split_blocks),
        "sites_sha256": None if settings.sites is None else _sites_sha256(settings.sites),
        "scenes_sha256": digest.hexdigest(),
    }
    if settings.labels:  # left out where there are none: plans of an earlier version stay what they are
        absent = sorted(set(settings.labels) - set(sensors))
        if absent:
            raise ValueError(f"--label names the sources {absent}; this corpus has {sorted(sensors)}")
        arguments["labels"] = {source: names.to_dict() for source, names in label_legends(scenes, settings.labels).items()}
    if (output / PLAN).is_file():
        plan = load_plan(output)
        if (plan.settings, plan.sensors, plan.legends) != (arguments, sensors, legends):
            raise ValueError(
                f"{output} holds a corpus of another plan (other arguments, or scenes that changed): "
                "give the arguments it was begun with, or a new output folder"
            )
        return plan
    if output.exists() and (not output.is_dir() or any(not _is_ours(path.name) for path in output.iterdir())):
        raise ValueError(f"{output} exists and is no corpus; give a new output folder")

    needs_place = settings.sites is not None or settings.split_blocks is not None
    surveyed = survey(archive, scenes, sensors, needs_place, workers)
    if settings.labels:
        surveyed = _with_labels(surveyed, scenes, settings.labels)
    return write_plan(output, surveyed, settings, arguments, sensors, legends)


def _with_labels(
    surveyed: Iterable[Surveyed | Rejection], scenes: Sequence[Scene], labels: Mapping[str, str]
) -> Iterator[Surveyed | Rejection]:
    """The same; raises ValueError for a label that does not lie on the grid of its source, before anything is written."""
    by_name = {scene.name: scene for scene in scenes}
    for found in surveyed:
        if isinstance(found, Surveyed) and found.series.source in labels:
            LabelRaster(by_name[found.series.scene], labels[found.series.source], found.series.grid).__exit__()
        yield found


def _sites_sha256(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"table of sites {path} does not exist")
    return sha256_of(path)


def _is_ours(name: str) -> bool:
    """True for what a run leaves that was killed before its plan was whole."""
    return name.endswith(TEMPORARY) or name in TABLES.values()


def _sensors_in_use(archive: Path, scenes: Sequence[Scene], settings: PlanSettings) -> dict[str, Sensor]:
    """Sensors of the wanted sources, by name in ascending order, with their chip sizes."""
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


def _add_legend(scene: Scene, legends: dict[str, Legend]) -> None:
    """Add the scene's legend to `legends`. Raises ValueError when a name stands for two legends."""
    if scene.land_cover is None:
        return
    legend = load_legend(scene.land_cover.legend)
    if legends.setdefault(legend.name, legend) != legend:
        raise ValueError(f"{scene.folder / SCENE_FILE}: another scene has a different legend named {legend.name!r}; rename one")
    quality = scene.land_cover.quality
    if quality is not None and quality not in scene.sources:
        raise ValueError(f"{scene.folder / SCENE_FILE}: land cover from the quality layer of {quality!r}, which it lacks")
