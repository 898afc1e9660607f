"""Writing a plan in memory that does not grow with the number of samples.

The samples of a series go to one temporary table a source and split, in the order of scenes; when all are counted, these tables
are read once more and divided into shards. Nothing is ever sorted as a whole.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.atomic_files import TEMPORARY, whole_file
from common.checksums import sha256_of
from common.json_files import json_bytes
from data_prep.archive.scene import SPLITS
from data_prep.archive.sensor import Sensor
from data_prep.landcover.legend import Legend
from data_prep.plan.packing import Span, divide
from data_prep.plan.plan import (
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
from data_prep.plan.settings import PlanSettings
from data_prep.plan.sites import ANY, SAME_WINDOW, SiteCutter, load_sites
from data_prep.plan.splits import IN_BUFFER, SplitBlocks
from data_prep.plan.survey import Surveyed
from data_prep.plan.tables import REJECTED, SAMPLES, SERIES, SHARDS, TableWriter, batches
from data_prep.plan.windows import Windows, grid_windows, windows_at
from data_prep.shards.block_reader import block_shape

FEW_FRAMES = "fewer than {} dates in the year"
OTHER_YEARS = "the land-cover map is of {} to {}; take its nearest year with nearest_year"
SPLIT_BUFFER = "in the buffer beside a block of another split"
WINDOW_TOO_LARGE = "a window of {size} x {size} px is larger than the scene, {height} x {width} px"


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
        splits = blocks.of_places(*found.series.grid.lon_lat(windows.rows + size / 2, windows.cols + size / 2))
    if cutter is None:
        return splits
    stated = cutter.splits(windows.sites)
    return np.where(stated == ANY, splits, stated)


class _Samples:
    """Temporary tables of planned samples in `folder`, one a source and split: written first, then divided into shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = uuid.uuid4().hex  # two runs that plan the same corpus at a time each write files of their own
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
        return self._folder / f".{'-'.join(group)}.{self._run}{TEMPORARY}"


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
    names = ("scene", "place", "folder", "source", "file", "legend")
    row = {name: [getattr(series, name)] for name in names} | {"description_sha256": [series.scene_file_sha256]}
    grid = series.grid
    row |= {"crs": [grid.crs], "transform": [list(grid.transform)[:6]], "height": [grid.height], "width": [grid.width]}
    return row | {"chunk_rows": [series.chunk[0]], "chunk_cols": [series.chunk[1]], "dates": [list(series.dates)]}
