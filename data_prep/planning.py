"""From scenes to the plan of a corpus, in memory that does not grow with the number of samples.

Each scene is opened once, for its grid and dates. Its samples go to one temporary table a source and split, in the order of
scenes; when all are counted, these tables are read once more and divided into shards. Nothing is ever sorted as a whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.blocks import block_shape
from data_prep.division import Span, divide
from data_prep.durable import TEMPORARY, json_bytes, sha256_of, whole_file
from data_prep.engines import map_local
from data_prep.landcover import Legend, load_legend
from data_prep.landcover_codes import LandCoverMap
from data_prep.plan import (
    PLAN,
    TABLES,
    Plan,
    PlannedSeries,
    RejectedGroup,
    Rejection,
    ShardGroup,
    load_plan,
    plan_values,
    sample_key,
)
from data_prep.plan_table import REJECTED, SAMPLES, SERIES, SHARDS, TableWriter, batches
from data_prep.planned_reader import open_file_or_scene
from data_prep.sample_files import files_of, list_sha256, stands_for_files
from data_prep.scene import DESCRIPTION, SPLITS, Scene, description_sha256, find_scenes, load_scene
from data_prep.sensors import Sensor, load_sensors
from data_prep.sites import ANY, SAME_WINDOW, SiteCutter, load_sites
from data_prep.splits import IN_BUFFER, SplitBlocks
from data_prep.windows import Windows, grid_windows, windows_at

FEW_FRAMES = "fewer than {} dates in the year"
NO_LAND_COVER = "the scene has no land cover"
NO_PLACE = "its place on the globe is not known"
OTHER_YEARS = "the land-cover map is of {} to {}; take its nearest year with nearest_year"
OTHER_QUALITY = "land cover is counted from the quality layer of another source"
SPLIT_BUFFER = "in the buffer beside a block of another split"
WINDOW_TOO_LARGE = "a window of {size} x {size} px is larger than the scene, {height} x {width} px"

# Files are surveyed some at a time, and jobs are handed out some at a time: their names and dates must not fill memory.
FILES_A_JOB = 128
JOBS_AT_ONCE = 400

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What shapes a plan beside the scenes.

    Attributes:
        sources: only these; None for all that the scenes hold.
        chip_px: side of a sample in pixels by source, in place of the sensors' own.
        shard_mb: bytes of a shard in 1e6, on average at most.
        min_frames: samples with fewer dates in the year are rejected.
        split_blocks: blocks of places that decide on splits, in place of the scenes'.
        sites: table of the places where samples are cut (`data_prep/sites.py`); None for all windows of a grid.
    """

    sources: tuple[str, ...] | None = None
    chip_px: Mapping[str, int] = field(default_factory=dict)
    shard_mb: float = 256.0
    min_frames: int = 16
    split_blocks: SplitBlocks | None = None
    sites: Path | None = None

    def __post_init__(self) -> None:
        if self.shard_mb <= 0 or self.min_frames < 1:
            raise ValueError(f"shard_mb must be above 0 and min_frames at least 1, got {self.shard_mb} and {self.min_frames}")
        wrong = {source: size for source, size in self.chip_px.items() if size < 1}
        if wrong:
            raise ValueError(f"chip_px must be at least 1 pixel, got {wrong}")


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
        digest.update(f"{scene.folder.relative_to(archive).as_posix()} {description_sha256(scene)} {listed}\n".encode())
    arguments = {
        "sources": sorted(sensors),
        "shard_mb": settings.shard_mb,
        "min_frames": settings.min_frames,
        "split_blocks": None if settings.split_blocks is None else asdict(settings.split_blocks),
        "sites_sha256": None if settings.sites is None else _sites_sha256(settings.sites),
        "scenes_sha256": digest.hexdigest(),
    }
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

    return write_plan(output, _surveyed(archive, scenes, sensors, settings, workers), settings, arguments, sensors, legends)


def _surveyed(
    archive: Path, scenes: Sequence[Scene], sensors: Mapping[str, Sensor], settings: PlanSettings, workers: int
) -> Iterator[Surveyed | Rejection]:
    """All series in the order of scenes, surveyed by `workers` processes, some jobs at a time: there may be millions of files."""
    needs_place = settings.sites is not None or settings.split_blocks is not None
    jobs = _jobs(scenes, sensors)
    with tqdm(desc="plan", unit="series") as bar:
        while some := list(islice(jobs, JOBS_AT_ONCE)):
            for found in _in_order(map_local(partial(survey, archive, sensors, needs_place), some, workers), some):
                bar.update(len(found))
                yield from found


def _sites_sha256(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"table of sites {path} does not exist")
    return sha256_of(path)


def _is_ours(name: str) -> bool:
    """True for what a run leaves that was killed before its plan was whole."""
    return name.endswith(TEMPORARY) or name in TABLES.values()


def _sensors_in_use(archive: Path, scenes: Sequence[Scene], settings: PlanSettings) -> dict[str, Sensor]:
    """Sensors of the wanted sources, by name in ascending order, with their chip sizes."""
    home = archive.parent if (archive / DESCRIPTION).is_file() else archive
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
        raise ValueError(f"{scene.folder / DESCRIPTION}: another scene has a different legend named {legend.name!r}; rename one")
    quality = scene.land_cover.quality
    if quality is not None and quality not in scene.sources:
        raise ValueError(f"{scene.folder / DESCRIPTION}: land cover from the quality layer of {quality!r}, which it lacks")


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


def survey(archive: Path, sensors: Mapping[str, Sensor], needs_place: bool, job: _Job) -> list[Surveyed | Rejection]:
    """The series of a job, by name of source and in the order of files; their files are opened here.

    `needs_place`: series whose place on the globe is not known are rejected. So is a file among many that cannot be read; a scene
    that cannot be read raises ValueError.
    """
    scene = load_scene(job.folder)
    found: list[Surveyed | Rejection] = []
    if job.source is None:
        for source in sorted(set(scene.sources) & set(sensors)):
            if not stands_for_files(scene, source):
                found.append(_survey_series(archive, scene, source, sensors, needs_place))
        return found
    for number, file in enumerate(job.files, job.first):
        place = f"{scene.name}_{number:08d}"
        try:
            found.append(_survey_series(archive, scene, job.source, sensors, needs_place, file, place))
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
                raise
            reason = " ".join(str(error).split()).replace(f"{scene.folder}/", "")
            found.append(Rejection(f"{job.source}-{place}", job.source, scene.name, f"cannot be read: {reason}"))
    return found


def _survey_series(
    archive: Path,
    scene: Scene,
    source: str,
    sensors: Mapping[str, Sensor],
    needs_place: bool,
    file: str | None = None,
    place: str | None = None,
) -> Surveyed:
    cover = scene.land_cover
    legend = None if cover is None else load_legend(cover.legend)
    with open_file_or_scene(scene, source, file, sensors) as reader:
        series = PlannedSeries(
            scene=scene.name,
            place=place or scene.name,
            folder=scene.folder.relative_to(archive).as_posix(),
            description_sha256=description_sha256(scene),
            source=source,
            file=file,
            legend="" if legend is None else legend.name,
            grid=reader.grid,
            chunk=reader.chunk,
            dates=tuple(reader.dates.astype(np.int64).tolist()),
        )
    reason, years = None, None
    if cover is None or legend is None:
        reason = NO_LAND_COVER
    elif cover.quality is not None and cover.quality != source:
        reason = OTHER_QUALITY
    elif (cover.rasters or needs_place) and not series.grid.georeferenced:
        reason = NO_PLACE
    elif cover.rasters:
        with LandCoverMap(cover, legend, str(scene.folder / DESCRIPTION)) as land_cover:
            if file is None:
                land_cover.check(scene, series.grid)
            years = None if cover.nearest_year else land_cover.years
    return Surveyed(series=series, split=scene.split, reason=reason, cover_years=years)


def write_plan(
    output: Path,
    surveyed: Iterable[Surveyed | Rejection],
    settings: PlanSettings,
    arguments: Mapping[str, Any],
    sensors: Mapping[str, Sensor],
    legends: Mapping[str, Legend],
) -> Plan:
    """Write the plan of the samples of all series, given in order, to `output`; plan.json comes last.

    `arguments` are what plan.json says of the settings and the scenes.
    A failure leaves no file, and no folder that was not there. Raises ValueError when there is nothing to write.
    """
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(whole_file(output / file)) for name, file in TABLES.items()}
            content, groups, rejected_groups = _write_tables(files, output, surveyed, settings, sensors)
            table_sha256 = {TABLES[name]: sha256_of(path) for name, path in files.items()}
        values = plan_values(arguments, sensors, legends, groups, rejected_groups, content, table_sha256)
        with whole_file(output / PLAN) as temporary:
            temporary.write_bytes(json_bytes(values))
    except BaseException:
        for file in TABLES.values():
            (output / file).unlink(missing_ok=True)
        if is_new:
            output.rmdir()
        raise
    return load_plan(output)


def _write_tables(
    files: Mapping[str, Path],
    output: Path,
    surveyed: Iterable[Surveyed | Rejection],
    settings: PlanSettings,
    sensors: Mapping[str, Sensor],
) -> tuple[dict[str, str], list[ShardGroup], list[RejectedGroup]]:
    """Write the tables to `files`; returns their digests by name, and the groups of shards and of rejected samples."""
    content = {}
    cutter = None if settings.sites is None else SiteCutter(load_sites(settings.sites), sorted(sensors))
    with (
        _Samples(output) as samples,
        TableWriter(files["series"], SERIES) as series_table,
        TableWriter(files["rejected"], REJECTED) as rejected_table,
    ):
        rejected = _Rejected(rejected_table)
        for found in surveyed:
            if isinstance(found, Rejection):
                rejected.add(found)
                continue
            series, sensor = found.series, sensors[found.series.source]
            number, planned = series_table.rows, 0
            for windows, reason in _cut(found, sensor.chip_px, settings.min_frames, cutter):
                if reason is not None:
                    rejected.add_windows(series, windows, reason)
                    continue
                splits = _splits(found, sensor.chip_px, windows, settings.split_blocks, cutter)
                rejected.add_windows(series, windows.take(splits == IN_BUFFER), SPLIT_BUFFER)
                for index, split in enumerate(SPLITS):
                    of_split = windows.take(splits == index)
                    samples.add(number, split, of_split, series, sensor, cutter)
                    planned += len(of_split)
            if planned:
                series_table.add(_series_row(series))
        if cutter is not None:
            for source, reason, ids in cutter.without_window():
                rejected.add_sites(source, reason, ids)
        content["series"], content["rejected"] = series_table.digest(), rejected_table.digest()
        rejected_groups = [RejectedGroup(*names, count) for names, count in sorted(rejected.reasons.items())]
        if not series_table.rows:
            listed = "; ".join(sorted({reason for _, reason in rejected.reasons}))
            raise ValueError(f"nothing to write: all {rejected.reasons.total()} windows are rejected: {listed}")

        groups = []
        with TableWriter(files["samples"], SAMPLES) as samples_table, TableWriter(files["shards"], SHARDS) as shards_table:
            for source, split in samples.groups():
                first = samples_table.rows
                spans = list(samples.divided(source, split, samples_table, settings.shard_mb * 1e6))
                shards_table.add(
                    {
                        "first": np.array([first + span.first for span in spans]),
                        "samples": np.array([span.samples for span in spans]),
                        "bytes": np.array([span.bytes for span in spans]),
                    }
                )
                size = sum(span.bytes for span in spans)
                groups.append(ShardGroup(source, split, len(spans), samples_table.rows - first, size))
            content["samples"], content["shards"] = samples_table.digest(), shards_table.digest()
    return content, groups, rejected_groups


def _cut(found: Surveyed, size: int, min_frames: int, cutter: SiteCutter | None) -> Iterator[tuple[Windows, str | None]]:
    """The samples of one series with None, and those to reject with the reason; each part in the order of reading."""
    series, reason = found.series, found.reason
    if cutter is not None and series.grid.georeferenced:
        windows, repeated = cutter.cut(series, size)
        yield repeated, SAME_WINDOW
    elif min(series.grid.shape) >= size:
        windows = grid_windows(series, size)
    else:
        windows = windows_at(series, size, np.zeros(1, np.int64), np.zeros(1, np.int64))
        reason = WINDOW_TOO_LARGE.format(size=size, height=series.grid.height, width=series.grid.width)
    if reason is not None:
        yield windows, reason
        return
    if found.cover_years is not None:
        first, last = found.cover_years
        outside = (windows.years < first) | (windows.years > last)
        yield windows.take(outside), OTHER_YEARS.format(first, last)
        windows = windows.take(~outside)
    few = windows.stops - windows.starts < min_frames
    yield windows.take(few), FEW_FRAMES.format(min_frames)
    yield windows.take(~few), None


def _splits(found: Surveyed, size: int, windows: Windows, blocks: SplitBlocks | None, cutter: SiteCutter | None) -> np.ndarray:
    """Index into SPLITS of each window, or IN_BUFFER: what the table of sites says, else its block, else its scene."""
    if blocks is None:
        splits = np.full(len(windows), SPLITS.index(found.split), np.int8)
    else:
        splits = blocks.of_places(*found.series.grid.places_of(windows.rows + size / 2, windows.cols + size / 2))
    if cutter is None:
        return splits
    stated = cutter.splits(windows.sites)
    return np.where(stated == ANY, splits, stated)


class _Samples:
    """Temporary tables of planned samples in `folder`, one a source and split: written first, then divided into shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[tuple[str, str], TableWriter] = {}
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._blocks: Counter[tuple[str, str]] = Counter()
        self._stack = ExitStack()

    def groups(self) -> list[tuple[str, str]]:
        return sorted(self._writers)

    def add(
        self, number: int, split: str, windows: Windows, series: PlannedSeries, sensor: Sensor, cutter: SiteCutter | None
    ) -> None:
        """Append samples of the series with the row `number` in the table of series."""
        count = len(windows)
        if not count:
            return
        group = (series.source, split)
        if group not in self._writers:
            schema = SAMPLES.append(pa.field("bytes", pa.int64())).append(pa.field("block", pa.int64()))
            self._writers[group] = self._stack.enter_context(TableWriter(self._path(group), schema))
        sizes = _sample_bytes(windows.stops - windows.starts, sensor)
        block_rows, block_cols = block_shape(series.chunk, sensor.chip_px)
        places = np.stack([windows.rows // block_rows, windows.cols // block_cols])
        changes = (np.diff(places, axis=1) != 0).any(axis=0)
        blocks = self._blocks[group] + np.concatenate([[0], np.cumsum(changes)])
        self._writers[group].add(
            {
                "series": np.full(count, number),
                "year": windows.years,
                "row": windows.rows,
                "col": windows.cols,
                "start": windows.starts,
                "stop": windows.stops,
                "site": pa.nulls(count, pa.string()) if cutter is None else cutter.ids(windows.sites),
                "bytes": sizes,
                "block": blocks,
            }
        )
        self._bytes[group] += int(sizes.sum())
        self._blocks[group] = int(blocks[-1]) + 1

    def divided(self, source: str, split: str, table: TableWriter, shard_bytes: float) -> Iterator[Span]:
        """Append the samples of one source and split to `table`; yields the shards that they make up."""
        path = self._path((source, split))
        self._writers[source, split].close()

        def sizes_and_blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in batches(path):
                table.add_table(pa.Table.from_batches([batch.select(SAMPLES.names)]))
                yield batch["bytes"].to_numpy(), batch["block"].to_numpy()

        yield from divide(sizes_and_blocks(), self._bytes[source, split], shard_bytes)
        path.unlink()

    def __enter__(self) -> _Samples:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        for group in self._writers:
            self._path(group).unlink(missing_ok=True)

    def _path(self, group: tuple[str, str]) -> Path:
        return self._folder / f".{'-'.join(group)}.samples{TEMPORARY}"


def _sample_bytes(frames: np.ndarray, sensor: Sensor) -> np.ndarray:
    """About the bytes of samples in a tar: pixels, valid, dates, and some 6 kB of headers, counts and JSON."""
    pixel_bytes = len(sensor.bands) * np.dtype(sensor.dtype).itemsize + 1
    return np.asarray(frames * (sensor.chip_px**2 * pixel_bytes + 4) + 6_000)


class _Rejected:
    """Writes the table of rejected samples, and counts them by source and reason."""

    def __init__(self, table: TableWriter) -> None:
        self.reasons: Counter[tuple[str, str]] = Counter()
        self._table = table

    def add(self, rejection: Rejection) -> None:
        self._add([rejection.key], rejection.source, rejection.scene, rejection.reason)

    def add_windows(self, series: PlannedSeries, windows: Windows, reason: str) -> None:
        places = zip(windows.years.tolist(), windows.rows.tolist(), windows.cols.tolist(), strict=True)
        self._add([sample_key(series.source, series.place, *place) for place in places], series.source, series.scene, reason)

    def add_sites(self, source: str, reason: str, ids: pa.Array) -> None:
        self._add([f"{source}-site-{text}" for text in ids.to_pylist()], source, "", reason)

    def _add(self, keys: list[str], source: str, scene: str, reason: str) -> None:
        count = len(keys)
        if count:
            self.reasons[source, reason] += count
            self._table.add({"key": keys, "source": [source] * count, "scene": [scene] * count, "reason": [reason] * count})


def _series_row(series: PlannedSeries) -> dict[str, list[Any]]:
    names = ("scene", "place", "folder", "description_sha256", "source", "file", "legend")
    row = {name: [getattr(series, name)] for name in names}
    grid = series.grid
    row |= {"crs": [grid.crs], "transform": [list(grid.transform)[:6]], "height": [grid.height], "width": [grid.width]}
    return row | {"chunk_rows": [series.chunk[0]], "chunk_cols": [series.chunk[1]], "dates": [list(series.dates)]}


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
