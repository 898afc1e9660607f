"""Writes a plan, with memory that does not grow with the number of samples.

The samples of each source and split go to a temporary table, in the order of scenes. When all are counted, these tables are read
once more and divided into shards. Nothing is ever sorted as a whole.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.atomic_files import TEMPORARY, whole_file
from common.checksums import sha256_of
from common.json_files import json_bytes
from common.storage import AnyPath, scratch_folder
from data_prep.archive.footprints import Footprints, overlap_text
from data_prep.archive.scene import SPLITS
from data_prep.archive.sensor import Sensor
from data_prep.landcover.legend import Legend
from data_prep.plan.candidates import candidate_splits, candidates
from data_prep.plan.chunk_groups import chunk_group_numbers, chunk_group_shape
from data_prep.plan.packing import Span, divide
from data_prep.plan.plan import (
    PLAN,
    PLAN_VERSION,
    TABLES,
    Plan,
    PlannedSeries,
    RejectedGroup,
    Rejection,
    ShardGroup,
    load_plan,
    sample_key,
)
from data_prep.plan.settings import PlanSettings
from data_prep.plan.sites import ANY, SiteCutter, load_sites
from data_prep.plan.splits import IN_BUFFER
from data_prep.plan.survey import Surveyed
from data_prep.plan.tables import REJECTED, SAMPLES, SERIES, SHARDS, TableWriter, batches
from data_prep.plan.windows import Windows

OTHER_REASONS = "cannot be read, for other reasons"
_MOST_REASONS = 5  # in a message
_MOST_GROUPS = 200  # of series and scenes that cannot be read, in plan.json; the table of rejected samples has all reasons
# What differs from one scene to another in a reason: texts in quotes and brackets, paths, names of files, numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\{[^}]*\}|\([^)]*\)|[^\s,;:]*(?:[\d/]|\w\.\w)[^\s,;:]*")
SPLIT_BUFFER = "in the buffer beside a block of another split"


def write_plan(
    output: AnyPath,
    surveyed: Iterable[Surveyed | Rejection],
    settings: PlanSettings,
    arguments: Mapping[str, Any],
    sensors: Mapping[str, Sensor],
    legends: Mapping[str, Legend],
) -> Plan:
    """Write the plan of the samples of all series, given in order, to `output`; plan.json comes last.

    `arguments` is the entry `settings` of plan.json, which describes settings and scenes. A failure leaves no files, and no
    folder that did not exist before. Raises ValueError when there is nothing to write.
    """
    is_new = isinstance(output, Path) and not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(whole_file(output / file)) for name, file in TABLES.items()}
            values = _write_tables(files, output, surveyed, settings, sensors)
            values["table_sha256"] = {TABLES[name]: sha256_of(path) for name, path in files.items()}
        values |= {"version": PLAN_VERSION, "settings": dict(arguments)}
        values |= {"sensors": {name: sensor.to_dict() for name, sensor in sensors.items()}}
        values |= {"legends": {name: legend.to_dict() for name, legend in legends.items()}}
        with whole_file(output / PLAN) as temporary:
            temporary.write_bytes(json_bytes(values))
    except BaseException:
        for file in TABLES.values():
            (output / file).unlink(missing_ok=True)
        if is_new and isinstance(output, Path):
            output.rmdir()
        raise
    return load_plan(output)


def _write_tables(
    files: Mapping[str, Path],
    output: AnyPath,
    surveyed: Iterable[Surveyed | Rejection],
    settings: PlanSettings,
    sensors: Mapping[str, Sensor],
) -> dict[str, Any]:
    """Write the tables to `files`; return the entries of plan.json about them."""
    with scratch_folder(output) as scratch, _SampleTables(scratch) as samples:
        with TableWriter(files["series"], SERIES) as series, TableWriter(files["rejected"], REJECTED) as rejected_table:
            rejected = _RejectedSamples(rejected_table)
            _write_series(surveyed, settings, sensors, series, samples, rejected)
            content = {"series": series.digest(), "rejected": rejected_table.digest()}
            if not series.rows:
                raise ValueError(
                    f"nothing to write: all {rejected.counts.total()} windows or series are rejected: {rejected.why()}"
                )
        with TableWriter(files["samples"], SAMPLES) as samples_table, TableWriter(files["shards"], SHARDS) as shards:
            groups = _write_shards(samples, settings.shard_mb * 1e6, samples_table, shards)
            content |= {"samples": samples_table.digest(), "shards": shards.digest()}
    return {"groups": groups, "rejected_groups": rejected.groups(), "content_sha256": content}


def _write_series(
    surveyed: Iterable[Surveyed | Rejection],
    settings: PlanSettings,
    sensors: Mapping[str, Sensor],
    series_table: TableWriter,
    samples: _SampleTables,
    rejected: _RejectedSamples,
) -> None:
    """Write the series with planned samples, their samples, and the rejected samples of all series.

    Raises ValueError when scenes lie on common ground and put it into different splits.
    """
    cutter = None if settings.sites is None else SiteCutter(load_sites(settings.sites), sorted(sensors))
    footprints = Footprints()  # of the series whose scenes decide on the split
    for found in surveyed:
        if isinstance(found, Rejection):
            rejected.add(found)
            continue
        series, sensor = found.series, sensors[found.series.source]
        number, planned = series_table.rows, 0
        for windows, reason in candidates(found, sensor.chip_px, settings.min_frames, cutter):
            if reason is not None:
                rejected.add_windows(series, windows, reason)
                continue
            splits = candidate_splits(found, sensor.chip_px, windows, settings.spatial_blocks, cutter)
            if settings.spatial_blocks is None and (cutter is None or (cutter.splits(windows.sites) == ANY).any()):
                footprints.add(series.scene, found.split, series.grid)
            rejected.add_windows(series, windows.take(splits == IN_BUFFER), SPLIT_BUFFER)
            for index, split in enumerate(SPLITS):
                of_split = windows.take(splits == index)
                samples.add(number, split, of_split, series, sensor, cutter)
                planned += len(of_split)
        if planned:
            series_table.add({column: [value] for column, value in series.to_row().items()})
    if cutter is not None:
        for source, reason, ids in cutter.without_window():
            rejected.add_sites(source, reason, ids)
    overlaps = footprints.overlaps()
    if overlaps:
        raise ValueError(
            f"scenes of different splits lie on common ground, in percent of the smaller one: {overlap_text(overlaps)}; scores "
            "on ground that was trained on are too high: give such scenes one region and one split in their scene.yaml, or "
            "split by place with --split.block_km"
        )


def _write_shards(
    samples: _SampleTables, shard_bytes: float, samples_table: TableWriter, shards_table: TableWriter
) -> list[dict[str, Any]]:
    """Divide the samples of each source and split into shards, and write both tables; return the groups of plan.json."""
    groups = []
    for source, split in samples.groups():
        first = samples_table.rows
        spans = list(samples.divided(source, split, samples_table, shard_bytes))
        shards_table.add(
            {
                "first": np.array([first + span.first for span in spans]),
                "samples": np.array([span.samples for span in spans]),
                "bytes": np.array([span.bytes for span in spans]),
            }
        )
        size = sum(span.bytes for span in spans)
        groups.append(asdict(ShardGroup(source, split, len(spans), samples_table.rows - first, size)))
    return groups


class _SampleTables:
    """Temporary tables of planned samples in `folder`, one per source and split: first written, then divided into shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = uuid.uuid4().hex  # unique, because two runs may plan the same corpus at a time
        self._writers: dict[tuple[str, str], TableWriter] = {}
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._chunk_groups: Counter[tuple[str, str]] = Counter()
        self._stack = ExitStack()

    def groups(self) -> list[tuple[str, str]]:
        """Return the (source, split) of all tables in ascending order."""
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
            schema = SAMPLES.append(pa.field("bytes", pa.int64())).append(pa.field("chunk_group", pa.int64()))
            self._writers[group] = self._stack.enter_context(TableWriter(self._path(group), schema))
        sizes = _sample_bytes(windows.stops - windows.starts, sensor)
        shape = chunk_group_shape(series.chunk, sensor.chip_px)
        chunk_groups = self._chunk_groups[group] + chunk_group_numbers(windows.rows, windows.cols, shape)
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
                "chunk_group": chunk_groups,
            }
        )
        self._bytes[group] += int(sizes.sum())
        self._chunk_groups[group] = int(chunk_groups[-1]) + 1

    def divided(self, source: str, split: str, table: TableWriter, shard_bytes: float) -> Iterator[Span]:
        """Append the samples of one source and split to `table`; yield the shards into which they are divided."""
        path = self._path((source, split))
        self._writers[source, split].close()

        def sizes_and_chunk_groups() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in batches(path):
                table.add_table(pa.Table.from_batches([batch.select(SAMPLES.names)]))
                yield batch["bytes"].to_numpy(), batch["chunk_group"].to_numpy()

        yield from divide(sizes_and_chunk_groups(), self._bytes[source, split], shard_bytes)
        path.unlink()

    def __enter__(self) -> _SampleTables:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        for group in self._writers:
            self._path(group).unlink(missing_ok=True)

    def _path(self, group: tuple[str, str]) -> Path:
        return self._folder / f".{'-'.join(group)}.{self._run}{TEMPORARY}"


def common_reason(reason: str) -> str:
    """Return the reason of a series that cannot be read, with `...` for what differs from scene to scene: reasons to count."""
    return re.sub(r"\.\.\.(?:[,\s]+\.\.\.)+", "...", _VARYING.sub("...", reason))


def _sample_bytes(frames: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Return the approximate bytes of samples in a tar: pixels, valid, dates, and some 6 kB of headers, counts and JSON.

    Land-cover maps do not count, so that a corpus has the same shards with and without them.
    """
    pixel_bytes = len(sensor.bands) * np.dtype(sensor.dtype).itemsize + 1
    return np.asarray(frames * (sensor.chip_px**2 * pixel_bytes + 4) + 6_000)


class _RejectedSamples:
    """Writes the table of rejected samples, series and scenes, and counts them by source and reason."""

    def __init__(self, table: TableWriter) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._table = table

    def groups(self) -> list[dict[str, Any]]:
        """Return the rejected groups of plan.json."""
        groups = []
        for (source, reason), count in sorted(self.counts.items()):
            group = asdict(RejectedGroup(source, reason, count, self._examples.get((source, reason), "")))
            # Without an example the key is left out, so that plans of earlier versions keep their hash.
            groups.append({name: value for name, value in group.items() if name != "example" or value})
        return groups

    def why(self) -> str:
        """Return the most frequent reasons for a message."""
        most = [self._examples.get(key, key[1]) for key, _ in self.counts.most_common(_MOST_REASONS)]
        return "; ".join(sorted(set(most)))

    def add(self, rejection: Rejection) -> None:
        """Add a series or scene that cannot be read."""
        common = common_reason(rejection.reason)
        if (rejection.source, common) not in self.counts and len(self._examples) >= _MOST_GROUPS:
            common = OTHER_REASONS
        self._examples.setdefault((rejection.source, common), f"{rejection.scene}: {rejection.reason}")
        self._add([rejection.key], rejection.source, rejection.scene, rejection.reason, common)

    def add_windows(self, series: PlannedSeries, windows: Windows, reason: str) -> None:
        positions = zip(windows.years.tolist(), windows.rows.tolist(), windows.cols.tolist(), strict=True)
        keys = [sample_key(series.source, series.key_prefix, *position) for position in positions]
        self._add(keys, series.source, series.scene, reason)

    def add_sites(self, source: str, reason: str, ids: pa.Array) -> None:
        self._add([f"{source}-site-{text}" for text in ids.to_pylist()], source, "", reason)

    def _add(self, keys: list[str], source: str, scene: str, reason: str, counted_as: str | None = None) -> None:
        count = len(keys)
        if count:
            self.counts[source, counted_as or reason] += count
            self._table.add({"key": keys, "source": [source] * count, "scene": [scene] * count, "reason": [reason] * count})
