"""The survey of an archive: several processes open every series once and read its grid and dates, which a plan needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import xxhash
from tqdm import tqdm

from common.errors import InfrastructureError, is_data_error, portable_text
from common.executors import MapJobs
from common.notes import collected_notes, note
from common.storage import AnyPath, relative_path, version_of
from data_prep.archive.sample_files import is_file_collection, sample_files
from data_prep.archive.scene import SCENE_FILE, Scene, load_scene, scene_file_sha256, shared_labels
from data_prep.archive.sensor import Sensor
from data_prep.landcover.label_opening import LabelOnSource
from data_prep.landcover.legend import Legend, load_legend
from data_prep.landcover.maps import LandCoverMap
from data_prep.plan.plan import CANNOT_BE_READ, PlannedSeries, Rejection
from data_prep.plan.survey_journal import SurveyJournal
from data_prep.plan.surveyed import Surveyed
from data_prep.readers.opening import open_file_or_scene

NO_LAND_COVER = "the scene has no land cover"
NO_LOCATION = "its place on the globe is not known"
OTHER_QUALITY = "land cover is counted from the quality layer of another source"

# Limits that keep the names and dates of very many files from filling the memory.
FILES_PER_JOB = 128
JOBS_AT_ONCE = 400
SCENES_PER_JOB = 16  # so that few jobs are sent, and few pools of processes started, for 100,000 scenes

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


def survey(
    archive: AnyPath,
    scenes: Sequence[Scene],
    sensors: Mapping[str, Sensor],
    labels: Mapping[str, str],
    needs_location: bool,
    map_jobs: MapJobs,
    journal: SurveyJournal,
) -> Iterator[Surveyed | Rejection]:
    """Open the series of the sources in `sensors` in the order of scenes, then of sources by name, then of files.

    Rejects a series that cannot be read, or whose land cover or label cannot be used: those of the source, `labels` has their
    names. `needs_location`: also reject series whose location on the globe is unknown. `journal` has what an earlier run found.
    Raises errors of the infrastructure, and bugs.
    """
    jobs = _jobs(scenes, sensors)
    with tqdm(desc="plan", unit="series") as bar:
        while some := list(islice(jobs, JOBS_AT_ONCE)):
            work = partial(_survey_job, archive, sensors, labels, needs_location)
            for found in _in_order(_done(work, some, map_jobs, journal), some):
                bar.update(len(found))
                for text in (text for surveyed in found if isinstance(surveyed, Surveyed) for text in surveyed.notes):
                    note(text)
                yield from found


@dataclass(frozen=True)
class _Job:
    """A job of a worker: some scenes, or some files of a source of one scene, numbered from `first`.

    `problem`: why the files cannot be listed.
    """

    folders: tuple[AnyPath, ...]
    source: str | None = None
    first: int = 0
    files: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def name(self) -> str:
        """A name by which the journal knows the job."""
        words = (*map(str, self.folders), str(self.source), str(self.first), *self.files, str(self.problem))
        return xxhash.xxh3_128_hexdigest("\0".join(words).encode())


def _done(
    work: Callable[[_Job], list[Surveyed | Rejection]], jobs: Sequence[_Job], map_jobs: MapJobs, journal: SurveyJournal
) -> Iterator[tuple[_Job, list[Surveyed | Rejection]]]:
    """Yield jobs and what they find: first those that the journal has, then the others as they finish."""
    left = []
    for job in jobs:
        known = journal.find(job.name)
        if known is None:
            left.append(job)
        else:
            yield job, [*known]
    for job, found in map_jobs(work, left):
        surveyed = [one for one in found if isinstance(one, Surveyed)]
        if len(surveyed) == len(found):
            journal.add(job.name, surveyed)
        yield job, found


def _jobs(scenes: Sequence[Scene], sensors: Mapping[str, Sensor]) -> Iterator[_Job]:
    """Yield the jobs of one scene after another; the files of a collection are listed lazily."""
    some: list[AnyPath] = []
    for scene in scenes:
        sources = sorted(set(scene.sources) & set(sensors))
        collections = [source for source in sources if is_file_collection(scene, source)]
        if len(collections) < len(sources):
            some.append(scene.folder)
        if some and (collections or len(some) == SCENES_PER_JOB):
            yield _Job(tuple(some))
            some = []
        for source in collections:
            yield from _jobs_of_files(scene, source)
    if some:
        yield _Job(tuple(some))


def _jobs_of_files(scene: Scene, source: str) -> Iterator[_Job]:
    files, first = sample_files(scene, source), 0
    try:
        while some := tuple(islice(files, FILES_PER_JOB)):
            yield _Job((scene.folder,), source, first, some)
            first += len(some)
    except Exception as error:
        if not _is_about(scene, error):
            raise
        yield _Job((scene.folder,), source, first, problem=portable_text(error, scene.folder))


def _survey_job(
    archive: AnyPath, sensors: Mapping[str, Sensor], labels: Mapping[str, str], needs_location: bool, job: _Job
) -> list[Surveyed | Rejection]:
    """Open the series of one job in a worker."""
    if job.source is None:
        shared = shared_labels(job.folders[0])
        scenes = (_SceneSurvey(archive, load_scene(folder, shared), sensors, labels, needs_location) for folder in job.folders)
        return [
            scene.series(source)
            for scene in scenes
            for source in sorted(set(scene.scene.sources) & set(sensors))
            if not is_file_collection(scene.scene, source)
        ]
    scene = _SceneSurvey(archive, load_scene(job.folders[0]), sensors, labels, needs_location)
    if job.problem is not None:
        return [scene.rejection(job.source, scene.scene.name, job.problem)]
    return [scene.file(job.source, number, file) for number, file in enumerate(job.files, job.first)]


class _SceneSurvey:
    """Opens the series of one scene. Reads legend and map once for all files of a collection."""

    def __init__(
        self, archive: AnyPath, scene: Scene, sensors: Mapping[str, Sensor], labels: Mapping[str, str], needs_location: bool
    ) -> None:
        self.scene = scene
        self._archive, self._sensors, self._labels, self._needs_location = archive, sensors, labels, needs_location
        self._folder = relative_path(scene.folder, archive)
        self._sha256 = scene_file_sha256(scene.folder)
        self._legend: Legend | None = None
        self._map: LandCoverMap | None = None
        self._problem: Exception | None = None  # of the land cover, the same for all series
        try:
            self._open_land_cover()
        except Exception as error:
            if not _is_about(scene, error):
                raise
            self._problem = error

    def series(self, source: str) -> Surveyed | Rejection:
        """Open one source of the scene, or reject it with the reason why it cannot be read."""
        return self._series(source, None, self.scene.name)

    def file(self, source: str, number: int, file: str) -> Surveyed | Rejection:
        """Open one file of a collection, or reject it with the reason why it cannot be read."""
        return self._series(source, file, f"{self.scene.name}_{number:08d}")

    def rejection(self, source: str, key_prefix: str, problem: str) -> Rejection:
        """Reject a series of the scene."""
        return Rejection(f"{source}-{key_prefix}", source, self.scene.name, CANNOT_BE_READ + problem)

    def _series(self, source: str, file: str | None, key_prefix: str) -> Surveyed | Rejection:
        try:
            return self._opened(source, file, key_prefix)
        except Exception as error:
            if not _is_about(self.scene, error):
                raise
            text = portable_text(error, self.scene.folder).replace(f"{self._archive}/", "")
            return self.rejection(source, key_prefix, text)

    def _opened(self, source: str, file: str | None, key_prefix: str) -> Surveyed:
        """Open a series. Raises ValueError when it cannot be read."""
        if self._problem is not None:
            raise ValueError(str(self._problem)) from self._problem
        with collected_notes() as notes, open_file_or_scene(self.scene, source, file, self._sensors) as reader:
            series = PlannedSeries(
                scene=self.scene.name,
                key_prefix=key_prefix,
                folder=self._folder,
                scene_file_sha256=self._sha256,
                source=source,
                file=file,
                legend="" if self._legend is None else self._legend.name,
                grid=reader.grid,
                chunk=reader.chunk,
                dates=tuple(reader.dates.astype(np.int64).tolist()),
            )
        about_label: list[str] = []
        if source in self._labels:
            with LabelOnSource(self.scene, self._labels[source], source, series.grid, self._sensors) as label:
                years = reader.dates.astype("datetime64[Y]").astype(int) + 1970
                about_label = label.notes(set(years.tolist()))  # opening it compares the grids
        cover, reason, cover_years = self.scene.land_cover, None, None
        if cover is None:
            reason = NO_LAND_COVER
        elif cover.quality is not None and cover.quality != source:
            reason = OTHER_QUALITY
        elif (self._map is not None or self._needs_location) and not series.grid.georeferenced:
            reason = NO_LOCATION
        elif self._map is not None:
            if file is None:
                with self._map:
                    self._map.check(self.scene, series.grid)
            cover_years = None if cover.nearest_year else self._map.years_within(series.grid)
        return Surveyed(
            series=series, split=self.scene.split, reason=reason, cover_years=cover_years, notes=(*notes, *about_label)
        )

    def _open_land_cover(self) -> None:
        """Read legend and map. Raises ValueError when the land cover of the scene cannot be used."""
        cover = self.scene.land_cover
        if cover is None:
            return
        if cover.quality is not None and cover.quality not in self.scene.sources:
            raise ValueError(f"{SCENE_FILE}: land cover from the quality layer of {cover.quality!r}, which the scene lacks")
        self._legend = load_legend(cover.legend)
        if cover.rasters:
            self._map = LandCoverMap(cover, self._legend, str(self.scene.folder / SCENE_FILE))


def _is_about(scene: Scene, error: Exception) -> bool:
    """Return True when an error is about the data of one scene, and rejects it.

    Raises InfrastructureError when the scene itself is gone, as after a lost mount. Names the scene in a bug.
    """
    if not (is_data_error(error) or isinstance(error, FileNotFoundError)):
        error.add_note(f"while reading scene {scene.folder}")
        return False
    if version_of(scene.folder / SCENE_FILE) is None:
        raise InfrastructureError(f"{scene.folder / SCENE_FILE} is gone while the archive is read: {error}") from error
    return True


def _in_order(pairs: Iterable[tuple[Job, Result]], jobs: Sequence[Job]) -> Iterator[Result]:
    """Yield results in the order of `jobs`, each as soon as all results before it were yielded."""
    waiting: dict[Job, Result] = {}
    due = iter(jobs)
    job = next(due, None)
    for finished, result in pairs:
        waiting[finished] = result
        while job is not None and job in waiting:
            yield waiting.pop(job)
            job = next(due, None)
