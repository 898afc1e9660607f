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
from dataclasses import asdict, replace
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
from data_prep.plan.packing import SWEEP_SHARDS, Span, divide, sweep_numbers
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
    is_placed = False
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(whole_file(output / file)) for name, file in TABLES.items()}
            values = _write_tables(files, output, surveyed, settings, sensors)
            values["table_sha256"] = {TABLES[name]: sha256_of(path) for name, path in files.items()}
            is_placed = True  # in a moment, one by one
        values |= {"version": PLAN_VERSION, "settings": dict(arguments)}
        values |= {"sensors": {name: sensor.to_dict() for name, sensor in sensors.items()}}
        values |= {"legends": {name: legend.to_dict() for name, legend in legends.items()}}
        with whole_file(output / PLAN) as temporary:
            temporary.write_bytes(json_bytes(values))
    except BaseException:
        # Another run may have planned the same corpus in the meantime, and write its shards by these tables.
        if is_placed and not (output / PLAN).is_file():
            for file in TABLES.values():
                (output / file).unlink(missing_ok=True)
        if is_new and isinstance(output, Path) and not any(output.iterdir()):  # the journal of the survey may stay
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
    with scratch_folder(output) as scratch, _SampleTables(scratch, settings.shard_mb * 1e6) as samples:
        with TableWriter(files["series"], SERIES) as series, TableWriter(files["rejected"], REJECTED) as rejected_table:
            rejected = _RejectedSamples(rejected_table)
            _write_series(surveyed, settings, sensors, series, samples, rejected)
            content = {"series": series.digest(), "rejected": rejected_table.digest()}
            if not series.rows:
                raise ValueError(
                    f"nothing to write: all {rejected.counts.total()} windows or series are rejected: {rejected.why()}"
                )
        with TableWriter(files["samples"], SAMPLES) as samples_table, TableWriter(files["shards"], SHARDS) as shards:
            groups = _write_shards(samples, samples_table, shards)
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
            in_buffer = splits == IN_BUFFER
            rejected.add_windows(series, windows.take(in_buffer), SPLIT_BUFFER)
            windows, splits = windows.take(~in_buffer), splits[~in_buffer]
            samples.add(number, windows, splits, series, sensor, cutter)
            planned += len(windows)
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


def _write_shards(samples: _SampleTables, samples_table: TableWriter, shards_table: TableWriter) -> list[dict[str, Any]]:
    """Divide the samples of each source and split into shards, and write both tables; return the groups of plan.json."""
    groups = []
    for source, split in samples.groups():
        first = samples_table.rows
        spans = list(samples.divided(source, split, samples_table))
        shards_table.add(
            {
                "first": np.array([first + span.first for span in spans]),
                "samples": np.array([span.samples for span in spans]),
                "bytes": np.array([span.bytes for span in spans]),
                "sweep": np.array([span.sweep for span in spans]),
            }
        )
        size = sum(span.bytes for span in spans)
        groups.append(asdict(ShardGroup(source, split, len(spans), samples_table.rows - first, size)))
    return groups


class _SampleTables:
    """Temporary tables of planned samples in `folder`: first written, then divided into shards of `shard_bytes`.

    Chunk groups that feed one split make sweeps of their own, so that these hold whole shards of it; so do those that feed
    the same several splits. A stream is the chunk groups of one source that feed the same splits.
    """

    def __init__(self, folder: Path, shard_bytes: float) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._run = uuid.uuid4().hex  # unique, because two runs may plan the same corpus at a time
        self._writers: dict[tuple[str, str, int], TableWriter] = {}  # by source, split, and the splits of the stream as bits
        self._bytes: Counter[tuple[str, int]] = Counter()  # by stream
        self._stack = ExitStack()

    def groups(self) -> list[tuple[str, str]]:
        """Return the (source, split) of all tables in ascending order."""
        return sorted({(source, split) for source, split, _ in self._writers})

    def add(
        self,
        number: int,
        windows: Windows,
        splits: np.ndarray,
        series: PlannedSeries,
        sensor: Sensor,
        cutter: SiteCutter | None,
    ) -> None:
        """Append all samples of the series with the row `number` in the table of series; `splits`: indices into SPLITS (n,)."""
        if not len(windows):
            return
        sizes = _sample_bytes(windows.stops - windows.starts, sensor)
        groups = chunk_group_numbers(windows.rows, windows.cols, chunk_group_shape(series.chunk, sensor.chip_px))
        begins = np.flatnonzero(np.diff(groups, prepend=-1))
        group_bytes = np.add.reduceat(sizes, begins)
        fed = np.bitwise_or.reduceat(1 << splits.astype(np.int64), begins)
        sweeps = np.empty(len(begins), np.int64)
        for splits_fed in np.unique(fed).tolist():
            of_stream, stream = fed == splits_fed, (series.source, splits_fed)
            sweeps[of_stream] = sweep_numbers(group_bytes[of_stream], self._bytes[stream], self._sweep_bytes)
            self._bytes[stream] += int(group_bytes[of_stream].sum())
            for index, split in enumerate(SPLITS):
                chosen = of_stream[groups] & (splits == index)
                if chosen.any():
                    self._append(
                        (series.source, split, splits_fed),
                        number,
                        windows.take(chosen),
                        cutter,
                        sizes[chosen],
                        sweeps[groups][chosen],
                    )

    def _append(
        self,
        table: tuple[str, str, int],
        number: int,
        windows: Windows,
        cutter: SiteCutter | None,
        sizes: np.ndarray,
        sweeps: np.ndarray,
    ) -> None:
        if table not in self._writers:
            schema = SAMPLES.append(pa.field("bytes", pa.int64())).append(pa.field("sweep", pa.int64()))
            self._writers[table] = self._stack.enter_context(TableWriter(self._path(table), schema))
        self._writers[table].add(
            {
                "series": np.full(len(windows), number),
                "year": windows.years,
                "row": windows.rows,
                "col": windows.cols,
                "start": windows.starts,
                "stop": windows.stops,
                "site": pa.nulls(len(windows), pa.string()) if cutter is None else cutter.ids(windows.sites),
                "bytes": sizes,
                "sweep": sweeps,
            }
        )

    def divided(self, source: str, split: str, table: TableWriter) -> Iterator[Span]:
        """Append the samples of one source and split to `table`; yield the shards into which they are divided."""
        rows = 0
        for key in sorted(key for key in self._writers if key[:2] == (source, split)):
            path, first_sweep = self._path(key), self._first_sweep((source, key[2]))
            self._writers[key].close()

            def sizes_and_sweeps(path: Path = path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
                for batch in batches(path):
                    table.add_table(pa.Table.from_batches([batch.select(SAMPLES.names)]))
                    yield batch["bytes"].to_numpy(), batch["sweep"].to_numpy()

            for span in divide(sizes_and_sweeps(), self._shard_bytes):
                yield replace(span, first=rows + span.first, sweep=first_sweep + span.sweep)
            rows += self._writers[key].rows
            path.unlink()

    @property
    def _sweep_bytes(self) -> float:
        return SWEEP_SHARDS * self._shard_bytes

    def _first_sweep(self, stream: tuple[str, int]) -> int:
        """Number of the first sweep of a stream: those of all streams are distinct."""
        return sum(int(size // self._sweep_bytes) + 1 for other, size in self._bytes.items() if other < stream)

    def __enter__(self) -> _SampleTables:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        for table in self._writers:
            self._path(table).unlink(missing_ok=True)

    def _path(self, table: tuple[str, str, int]) -> Path:
        return self._folder / f".{'-'.join(map(str, table))}.{self._run}{TEMPORARY}"


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
