"""Which sample goes into which shard: a table, frozen and hashed before any pixel is read.

A sample is a window of one source of one scene with all dates of one calendar year. The plan looks at grids, dates, sensors
and legends only, and at the codes of land-cover maps, so that a wrong legend is known before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from tqdm import tqdm

from data_prep.corpus import read_json
from data_prep.grid import Grid, read_raster_at_own_resolution
from data_prep.landcover import Legend, legend_from_dict, load_legend
from data_prep.readers import SeriesReader, open_reader
from data_prep.scene import DESCRIPTION, Scene, find_scenes
from data_prep.sensors import Sensor, load_sensors, sensor_from_dict

PLAN = "plan.json"
VERSION = 1
FEW_FRAMES = "fewer than {} dates in the year"
NO_LAND_COVER = "the scene has no land cover"
OTHER_QUALITY = "land cover is counted from the quality layer of another source"
WINDOW_TOO_LARGE = "a window of {size} x {size} px is larger than the scene, {height} x {width} px"


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """A window of `size` x `size` pixels at (row, col) of one source of one scene, at the dates [start, stop) of the series."""

    key: str
    scene: str
    source: str
    year: int
    row: int
    col: int
    size: int
    split: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard to be: its name without suffix, and its samples in the order of the tar."""

    name: str
    source: str
    split: str
    samples: tuple[PlannedSample, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A sample that is not written, and why."""

    key: str
    source: str
    scene: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PlannedSeries:
    """What the plan rests on and a writer finds again: the grid and the dates (days since 1970-01-01) of one series."""

    grid: Grid
    dates: tuple[int, ...]

    @staticmethod
    def of(reader: SeriesReader) -> PlannedSeries:
        return PlannedSeries(grid=reader.grid, dates=tuple(reader.dates.astype(np.int64).tolist()))

    def to_dict(self) -> dict[str, Any]:
        grid = {**asdict(self.grid), "transform": list(self.grid.transform)[:6]}
        return {"grid": grid, "dates": list(self.dates)}


@dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """A scene's folder relative to the archive, the sha256 of its scene.yaml, its series by source, its legend's name."""

    folder: str
    description_sha256: str
    series: Mapping[str, PlannedSeries]
    legend: str | None

    def to_dict(self) -> dict[str, Any]:
        series = {source: series.to_dict() for source, series in self.series.items()}
        return {**{k: v for k, v in vars(self).items() if k != "series"}, "series": series}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a corpus. `settings` are the arguments that shape it; sensors, legends and scenes are by name."""

    settings: Mapping[str, Any]
    sensors: Mapping[str, Sensor]
    legends: Mapping[str, Legend]
    scenes: Mapping[str, PlannedScene]
    shards: tuple[PlannedShard, ...]
    rejected: tuple[Rejection, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `load_plan` is the inverse."""
        return {
            "version": VERSION,
            "settings": dict(self.settings),
            "sensors": {name: sensor.to_dict() for name, sensor in self.sensors.items()},
            "legends": {name: legend.to_dict() for name, legend in self.legends.items()},
            "scenes": {name: scene.to_dict() for name, scene in self.scenes.items()},
            "shards": [asdict(shard) for shard in self.shards],
            "rejected": [asdict(rejection) for rejection in self.rejected],
        }

    @cached_property
    def content(self) -> bytes:
        """The bytes of plan.json: canonical, so that equal plans are equal bytes."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def hash(self) -> str:
        """sha256 of `content`."""
        return hashlib.sha256(self.content).hexdigest()


def load_plan(folder: Path) -> Plan:
    """The plan in `folder`/plan.json. Raises ValueError when it is missing or is no plan of this version."""
    path = folder / PLAN
    values = read_json(path)
    if values.get("version") != VERSION:
        raise ValueError(f"{path} has version {values.get('version')!r}; this code knows version {VERSION}")
    try:
        return Plan(
            settings=values["settings"],
            sensors={name: sensor_from_dict(sensor, str(path)) for name, sensor in values["sensors"].items()},
            legends={name: legend_from_dict(legend) for name, legend in values["legends"].items()},
            scenes={name: _planned_scene(scene) for name, scene in values["scenes"].items()},
            shards=tuple(
                PlannedShard(**{**shard, "samples": tuple(PlannedSample(**sample) for sample in shard["samples"])})
                for shard in values["shards"]
            ),
            rejected=tuple(Rejection(**rejection) for rejection in values["rejected"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a plan: {type(error).__name__} {error}") from error


def _planned_scene(values: Mapping[str, Any]) -> PlannedScene:
    series = {}
    for source, entry in values["series"].items():
        grid = Grid(**{**entry["grid"], "transform": Affine(*entry["grid"]["transform"])})
        series[source] = PlannedSeries(grid=grid, dates=tuple(entry["dates"]))
    return PlannedScene(**{**values, "series": series})


def make_plan(
    archive: Path,
    sources: Sequence[str] | None = None,
    chip_px: Mapping[str, int] | None = None,
    shard_mb: float = 256.0,
    min_frames: int = 16,
) -> Plan:
    """Plan the samples of all scenes in `archive`; `sources` restricts, `chip_px` replaces the sensors' chip sizes.

    Raises ValueError for what the user must mend: no scenes, unknown sources, containers that are not what their scene says,
    land cover of another legend or another place, or nothing at all to write.
    """
    if shard_mb <= 0 or min_frames < 1:
        raise ValueError(f"shard_mb must be above 0 and min_frames at least 1, got {shard_mb} and {min_frames}")
    scenes = find_scenes(archive)
    sensors = _sensors_in_use(archive, scenes, sources, chip_px or {})
    legends: dict[str, Legend] = {}
    planned: dict[str, PlannedScene] = {}
    samples: list[PlannedSample] = []
    rejected: list[Rejection] = []
    for scene in tqdm(scenes, desc="plan", unit="scene"):
        legend = _legend(scene, legends)
        series = {}
        for source in sorted(set(scene.sources) & set(sensors)):
            with open_reader(scene, source, sensors) as reader:
                series[source] = PlannedSeries.of(reader)
            if scene.land_cover is not None and scene.land_cover.raster is not None and legend is not None:
                _check_land_cover(scene, scene.land_cover.raster, legend, series[source].grid, sensors[source].chip_px)
            for sample, reason in _cut(scene, sensors[source], series[source], min_frames):
                if reason is None:
                    samples.append(sample)
                else:
                    rejected.append(Rejection(sample.key, source, scene.name, reason))
        if series:
            planned[scene.name] = PlannedScene(
                folder=scene.folder.relative_to(archive).as_posix(),
                description_sha256=description_sha256(scene),
                series=series,
                legend=None if legend is None else legend.name,
            )
    if not samples:
        reasons = "; ".join(sorted({rejection.reason for rejection in rejected}))
        raise ValueError(f"nothing to write: all {len(rejected)} windows of {archive} are rejected: {reasons}")
    settings = {"sources": sorted(sensors), "shard_mb": shard_mb, "min_frames": min_frames}
    shards = tuple(_divide(samples, sensors, shard_mb * 1e6))
    return Plan(settings=settings, sensors=sensors, legends=legends, scenes=planned, shards=shards, rejected=tuple(rejected))


def description_sha256(scene: Scene) -> str:
    """What tells a writer that a scene was described anew since it was planned."""
    return hashlib.sha256((scene.folder / DESCRIPTION).read_bytes()).hexdigest()


def _sensors_in_use(
    archive: Path, scenes: Sequence[Scene], sources: Sequence[str] | None, chip_px: Mapping[str, int]
) -> dict[str, Sensor]:
    """Sensors of the wanted sources, by name in ascending order, with their chip sizes."""
    home = archive.parent if (archive / DESCRIPTION).is_file() else archive
    known = load_sensors(home / "sources")
    held = sorted({source for scene in scenes for source in scene.sources})
    wanted = held if sources is None else sorted(set(sources))
    unknown = sorted((set(wanted) | set(chip_px)) - set(known))
    if unknown:
        raise ValueError(
            f"unknown sources {unknown}; known are {sorted(known)}; describe your own in {home / 'sources'}/NAME.yaml"
        )
    absent = sorted((set(wanted) | set(chip_px)) - set(held))
    if absent:
        raise ValueError(f"no scene in {archive} has the sources {absent}; they hold {held}")
    wrong = {source: size for source, size in chip_px.items() if size < 1}
    if wrong:
        raise ValueError(f"chip_px must be at least 1 pixel, got {wrong}")
    return {source: replace(known[source], chip_px=chip_px.get(source, known[source].chip_px)) for source in wanted}


def _legend(scene: Scene, legends: dict[str, Legend]) -> Legend | None:
    """The scene's legend, added to `legends`. Raises ValueError when a name stands for two legends."""
    if scene.land_cover is None:
        return None
    legend = load_legend(scene.land_cover.legend)
    if legends.setdefault(legend.name, legend) != legend:
        raise ValueError(f"{scene.folder / DESCRIPTION}: another scene has a different legend named {legend.name!r}; rename one")
    quality = scene.land_cover.quality
    if quality is not None and quality not in scene.sources:
        raise ValueError(f"{scene.folder / DESCRIPTION}: land cover from the quality layer of {quality!r}, which it lacks")
    return legend


def _check_land_cover(scene: Scene, raster: Path, legend: Legend, grid: Grid, rows: int) -> None:
    """Read the map under the whole scene in strips of `rows`. Raises ValueError for foreign codes and for another place."""
    if not raster.is_file():
        raise ValueError(f"{scene.folder / DESCRIPTION}: land-cover raster {raster} does not exist")
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), rasterio.open(raster) as file:
        if file.crs is None or file.transform.is_identity:
            raise ValueError(f"{raster} is not georeferenced: a land-cover map needs a CRS and a transform")
    mapped = 0
    for row in range(0, grid.height, rows):
        strip = grid.window(row, 0, min(rows, grid.height - row), grid.width)
        try:
            mapped += int(legend.count(read_raster_at_own_resolution(raster, strip, legend.fill[0])).sum())
        except ValueError as error:
            raise ValueError(f"{raster}: {error}") from error
    if mapped == 0:
        raise ValueError(f"{raster} maps nothing of scene {scene.name}, {grid.crs} {grid.bounds}: does it lie elsewhere?")


def _cut(scene: Scene, sensor: Sensor, series: PlannedSeries, min_frames: int) -> Iterator[tuple[PlannedSample, str | None]]:
    """The samples of one series, year by year and row by row, each with the reason to reject it or None."""
    cover, size, grid = scene.land_cover, sensor.chip_px, series.grid
    reason_for_all = None
    if cover is None:
        reason_for_all = NO_LAND_COVER
    elif cover.quality is not None and cover.quality != sensor.name:
        reason_for_all = OTHER_QUALITY
    windows = list(grid.windows(size))
    if not windows:
        windows = [(0, 0)]
        reason_for_all = WINDOW_TOO_LARGE.format(size=size, height=grid.height, width=grid.width)
    dates = np.array(series.dates, dtype=np.int64).astype("datetime64[D]")
    for year in np.unique(dates.astype("datetime64[Y]")):
        start, stop = np.searchsorted(dates, [year, year + 1]).tolist()
        reason = reason_for_all or (FEW_FRAMES.format(min_frames) if stop - start < min_frames else None)
        for row, col in windows:
            key = f"{sensor.name}-{scene.name}-{year}-r{row:05d}-c{col:05d}"
            numbers = (int(str(year)), row, col, size, scene.split, start, stop)
            yield PlannedSample(key, scene.name, sensor.name, *numbers), reason


def _divide(samples: Sequence[PlannedSample], sensors: Mapping[str, Sensor], shard_bytes: float) -> Iterator[PlannedShard]:
    """Shards of about equal size, `shard_bytes` at most on average. Neighbours in a scene stay together: their reads do."""
    by_source = sorted(samples, key=lambda s: (s.source, s.split))  # stable: scenes, years and windows keep their order
    for (source, split), group in groupby(by_source, key=lambda s: (s.source, s.split)):
        members = list(group)
        ends = np.cumsum([_sample_bytes(sample, sensors[source]) for sample in members])
        count = int(np.ceil(ends[-1] / shard_bytes))
        shard_of = ((ends - 1) * count // ends[-1]).tolist()
        parts = groupby(zip(shard_of, members, strict=True), key=lambda pair: pair[0])
        for number, (_, part) in enumerate(parts):
            yield PlannedShard(f"{source}-{split}-{number:06d}", source, split, tuple(sample for _, sample in part))


def _sample_bytes(sample: PlannedSample, sensor: Sensor) -> int:
    """About the bytes of a sample in a tar: pixels, valid, dates, and some 6 kB of headers, counts and JSON."""
    pixel_bytes = len(sensor.bands) * np.dtype(sensor.dtype).itemsize + 1
    frames = sample.stop - sample.start
    return int(frames * (sample.size**2 * pixel_bytes + 4)) + 6_000
