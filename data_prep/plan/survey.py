"""The survey of an archive: every series is opened once, by several processes, for what a plan rests on: grids and dates."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from common.executors import map_local
from data_prep.archive.sample_files import files_of, stands_for_files
from data_prep.archive.scene import SCENE_FILE, Scene, load_scene, scene_file_sha256
from data_prep.archive.sensor import Sensor
from data_prep.landcover.legend import load_legend
from data_prep.landcover.maps import LandCoverMap
from data_prep.plan.opening import open_file_or_scene
from data_prep.plan.plan import PlannedSeries, Rejection

NO_LAND_COVER = "the scene has no land cover"
NO_PLACE = "its place on the globe is not known"
OTHER_QUALITY = "land cover is counted from the quality layer of another source"

# Files are surveyed some at a time, and jobs are handed out some at a time: their names and dates must not fill memory.
FILES_A_JOB = 128
JOBS_AT_ONCE = 400

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """One series as it was found.

    Attributes:
        series: what is planned of it.
        split: its scene's.
        reason: why all of it is rejected, or None.
        cover_years: first and last year of its land-cover map, when other years are rejected.
    """

    series: PlannedSeries
    split: str
    reason: str | None = None
    cover_years: tuple[int, int] | None = None


def survey(
    archive: Path, scenes: Sequence[Scene], sensors: Mapping[str, Sensor], needs_place: bool, workers: int
) -> Iterator[Surveyed | Rejection]:
    """The series of the sources in `sensors`, in the order of scenes, of sources by name, and of files.

    `needs_place`: series whose place on the globe is not known are rejected. So is a file among many that cannot be read. Raises
    ValueError for a scene that cannot be read.
    """
    jobs = _jobs(scenes, sensors)
    with tqdm(desc="plan", unit="series") as bar:
        while some := list(islice(jobs, JOBS_AT_ONCE)):
            for found in _in_order(map_local(partial(_survey_job, archive, sensors, needs_place), some, workers), some):
                bar.update(len(found))
                yield from found


@dataclass(frozen=True)
class _Job:
    """What a worker surveys at once: a scene, or some of the files of one of its sources, numbered from `first`."""

    folder: Path
    source: str | None = None
    first: int = 0
    files: tuple[str, ...] = ()


def _jobs(scenes: Sequence[Scene], sensors: Mapping[str, Sensor]) -> Iterator[_Job]:
    """Scene after scene; the files that a scene stands for are listed as they are asked for."""
    for scene in scenes:
        sources = sorted(set(scene.sources) & set(sensors))
        if not all(stands_for_files(scene, source) for source in sources):
            yield _Job(scene.folder)
        for source in sources:
            if stands_for_files(scene, source):
                files, first = files_of(scene, source), 0
                while some := tuple(islice(files, FILES_A_JOB)):
                    yield _Job(scene.folder, source, first, some)
                    first += len(some)


def _survey_job(archive: Path, sensors: Mapping[str, Sensor], needs_place: bool, job: _Job) -> list[Surveyed | Rejection]:
    """What a worker finds: it opens the files of one job."""
    scene = _SceneSurvey(archive, load_scene(job.folder), sensors, needs_place)
    if job.source is None:
        sources = sorted(set(scene.scene.sources) & set(sensors))
        return [scene.series(source) for source in sources if not stands_for_files(scene.scene, source)]
    return [scene.file(job.source, number, file) for number, file in enumerate(job.files, job.first)]


class _SceneSurvey:
    """Opens the series of one scene. What it holds is read once for all files that the scene may stand for."""

    def __init__(self, archive: Path, scene: Scene, sensors: Mapping[str, Sensor], needs_place: bool) -> None:
        self.scene = scene
        self._sensors, self._needs_place = sensors, needs_place
        self._folder = scene.folder.relative_to(archive).as_posix()
        self._sha256 = scene_file_sha256(scene)
        self._legend = None if scene.land_cover is None else load_legend(scene.land_cover.legend)
        self._map: LandCoverMap | None = None
        if scene.land_cover is not None and self._legend is not None and scene.land_cover.rasters:
            self._map = LandCoverMap(scene.land_cover, self._legend, str(scene.folder / SCENE_FILE))

    def series(self, source: str, file: str | None = None, place: str | None = None) -> Surveyed:
        """One source of the scene, or one of the files it stands for. Raises ValueError when it cannot be read."""
        with open_file_or_scene(self.scene, source, file, self._sensors) as reader:
            series = PlannedSeries(
                scene=self.scene.name,
                place=place or self.scene.name,
                folder=self._folder,
                scene_file_sha256=self._sha256,
                source=source,
                file=file,
                legend="" if self._legend is None else self._legend.name,
                grid=reader.grid,
                chunk=reader.chunk,
                dates=tuple(reader.dates.astype(np.int64).tolist()),
            )
        cover, reason, years = self.scene.land_cover, None, None
        if cover is None:
            reason = NO_LAND_COVER
        elif cover.quality is not None and cover.quality != source:
            reason = OTHER_QUALITY
        elif (self._map is not None or self._needs_place) and not series.grid.georeferenced:
            reason = NO_PLACE
        elif self._map is not None:
            if file is None:
                with self._map:
                    self._map.check(self.scene, series.grid)
            years = None if cover.nearest_year else self._map.years
        return Surveyed(series=series, split=self.scene.split, reason=reason, cover_years=years)

    def file(self, source: str, number: int, file: str) -> Surveyed | Rejection:
        """One of the files that the scene stands for: when it cannot be read, that is the reason to reject it."""
        place = f"{self.scene.name}_{number:08d}"
        try:
            return self.series(source, file, place)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
                raise
            reason = " ".join(str(error).split()).replace(f"{self.scene.folder}/", "")
            return Rejection(f"{source}-{place}", source, self.scene.name, f"cannot be read: {reason}")


def _in_order(pairs: Iterable[tuple[Job, Result]], jobs: Sequence[Job]) -> Iterator[Result]:
    """Results in the order of `jobs`, each as soon as those before it are there."""
    waiting: dict[Job, Result] = {}
    due = iter(jobs)
    job = next(due, None)
    for finished, result in pairs:
        waiting[finished] = result
        while job is not None and job in waiting:
            yield waiting.pop(job)
            job = next(due, None)
