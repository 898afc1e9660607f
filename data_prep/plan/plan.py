"""The plan of a corpus: which sample goes into which shard, frozen and hashed before any pixel is read.

    plan.json               settings, sensors, legends, number of shards by source and split, hashes; written last
    plan-shards.parquet     one row per shard: its first sample, number of samples, approximate bytes, and its sweep
    plan-samples.parquet    one row per sample, shard by shard
    plan-series.parquet     one row per series of images: its scene, grid and dates
    plan-rejected.parquet   one row per sample, series or scene that is not written, with the reason

A sample is a window of one series with all dates of one calendar year. A sweep is a run of chunk groups that a worker reads in
one go, and the shards that it fills (`data_prep/plan/packing.py`); in plans of version 2, each shard is one. Opening a plan of 25
million samples reads plan.json only; the rows of a shard are read when they are needed. `data_prep/plan/build.py` makes plans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine

from common.checksums import sha256_of
from common.errors import UNREACHABLE
from common.grid import Grid
from common.json_files import json_bytes, read_json
from common.storage import AnyPath, version_of
from data_prep.archive.sensor import Sensor, sensor_from_dict
from data_prep.landcover.label_legend import LabelLegend, label_legend_from_dict
from data_prep.landcover.legend import Legend, legend_from_dict
from data_prep.landcover.sample_map import MapLayout, map_layout
from data_prep.plan.chunk_groups import chunk_group_shape
from data_prep.plan.tables import batches, parquet_file, read_rows
from data_prep.readers.base import SeriesReader

PLAN = "plan.json"
TABLES = {name: f"plan-{name}.parquet" for name in ("shards", "samples", "series", "rejected")}
PLAN_VERSION = 3
_READ_VERSIONS = (2, 3)
CANNOT_BE_READ = "cannot be read: "  # begins the reasons of samples, series and scenes whose data are at fault
# Settings of plans whose shards say what is as bright as snow, or hold maps; absent in earlier versions, whose plans keep their
# hash.
SNOW_APART, LAND_COVER_MAPS = "snow_apart", "land_cover_maps"

# Columns of the table of series by attribute of `PlannedSeries`. Two columns keep the names of earlier versions.
_SERIES_COLUMNS = {
    "scene": "scene",
    "key_prefix": "place",
    "folder": "folder",
    "scene_file_sha256": "description_sha256",
    "source": "source",
    "file": "file",
    "legend": "legend",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSeries:
    """One source of one scene, or one file of a scene that is a collection of files, as it was when the corpus was planned.

    Attributes:
        scene: the scene's name.
        key_prefix: part of the sample keys between source and year: the scene's name, followed by the file's number if any.
        folder: the scene's folder relative to the archive.
        scene_file_sha256: of its scene.yaml.
        source: source name.
        file: path relative to the scene's folder where the scene is a collection of files, else None.
        legend: name of the land-cover legend.
        grid: grid of all its pixels.
        chunk: (rows, columns) that are stored together.
        dates: days since 1970-01-01.
    """

    scene: str
    key_prefix: str
    folder: str
    scene_file_sha256: str
    source: str
    file: str | None
    legend: str
    grid: Grid
    chunk: tuple[int, int]
    dates: tuple[int, ...]

    def matches(self, reader: SeriesReader) -> bool:
        """Return True when `reader` has the planned grid and dates."""
        return self.grid == reader.grid and self.dates == tuple(reader.dates.astype(np.int64).tolist())

    def to_row(self) -> dict[str, Any]:
        """Return the row of the table of series; `series_from_row` is the inverse."""
        row = {column: getattr(self, name) for name, column in _SERIES_COLUMNS.items()}
        row |= {"crs": self.grid.crs, "transform": list(self.grid.transform)[:6]}
        row |= {"height": self.grid.height, "width": self.grid.width}
        return row | {"chunk_rows": self.chunk[0], "chunk_cols": self.chunk[1], "dates": list(self.dates)}


def series_from_row(row: Mapping[str, Any]) -> PlannedSeries:
    """Inverse of `PlannedSeries.to_row`."""
    return PlannedSeries(
        **{name: row[column] for name, column in _SERIES_COLUMNS.items()},
        grid=Grid(crs=row["crs"], transform=Affine(*row["transform"]), height=row["height"], width=row["width"]),
        chunk=(row["chunk_rows"], row["chunk_cols"]),
        dates=tuple(row["dates"]),
    )


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """A window of `size` x `size` pixels at (row, col) of a series, with the dates [start, stop) of the series.

    `site` is the site's id in the user's table of sites, else None.
    """

    series: PlannedSeries
    year: int
    row: int
    col: int
    size: int
    split: str
    start: int
    stop: int
    site: str | None = None

    @property
    def key(self) -> str:
        return sample_key(self.source, self.series.key_prefix, self.year, self.row, self.col)

    @property
    def scene(self) -> str:
        return self.series.scene

    @property
    def source(self) -> str:
        return self.series.source


def sample_key(source: str, key_prefix: str, year: int, row: int, col: int) -> str:
    """Return the key of a planned sample, without dots.

    It is unique in the corpus, because a series has one window at (row, col) in a year.
    """
    return f"{source}-{key_prefix}-{year}-r{row:05d}-c{col:05d}"


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard: its name without suffix, and its samples in the order of the tar."""

    name: str
    source: str
    split: str
    samples: tuple[PlannedSample, ...]


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """Shards of one source that are read in one go.

    Attributes:
        shards: shards in ascending order of numbers.
        samples: the samples of all of them in the order in which they are read, each with the position of its shard in `shards`.
            Those of one shard are in the order of its tar.
    """

    shards: tuple[PlannedShard, ...]
    samples: tuple[tuple[int, PlannedSample], ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A sample that is not written, or a series or scene that cannot be read, and why.

    Attributes:
        key: key of the sample; for a series `SOURCE-KEY_PREFIX`, for a scene that cannot be read its folder.
        source: source name; empty for a scene.
        scene: name of the scene, or its folder where scene.yaml does not tell.
        reason: why it is not written.
    """

    key: str
    source: str
    scene: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """The shards of one source and split: their number, their number of samples and their approximate bytes."""

    source: str
    split: str
    shards: int
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RejectedGroup:
    """The number of samples, series or scenes of a source that the plan rejects for one reason.

    Attributes:
        source: source name; empty for whole scenes.
        reason: the reason; for series and scenes that cannot be read, what many have in common (`common_reason`).
        samples: number of rows in the table of rejected samples.
        example: scene and whole reason of the first one, for series and scenes that cannot be read; else empty.
    """

    source: str
    reason: str
    samples: int
    example: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan in a folder.

    Attributes:
        folder: folder of the plan and of the corpus.
        hash: sha256 of everything that is planned: equal hashes mean equal shards.
        settings: the arguments that shape the plan.
        sensors: by source name.
        legends: land-cover legends by name.
        groups: shards by source and split.
        rejected_groups: rejected samples by source and reason.
        table_sha256: sha256 of the tables by file name.
    """

    folder: AnyPath
    hash: str
    settings: Mapping[str, Any]
    sensors: Mapping[str, Sensor]
    legends: Mapping[str, Legend]
    groups: tuple[ShardGroup, ...]
    rejected_groups: tuple[RejectedGroup, ...]
    table_sha256: Mapping[str, str]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all shards without suffix."""
        return tuple(f"{group.source}-{group.split}-{n:06d}" for group in self.groups for n in range(group.shards))

    @property
    def labels(self) -> dict[str, LabelLegend]:
        """Legends of the labels that the samples hold for fine-tuning, by source."""
        return {source: label_legend_from_dict(values) for source, values in self.settings.get("labels", {}).items()}

    @property
    def keeps_snow_apart(self) -> bool:
        """Return True when shard indexes hold band statistics of what is as bright as snow; False for earlier versions."""
        return bool(self.settings.get(SNOW_APART, False))

    @property
    def has_maps(self) -> bool:
        """Return True when the samples hold a land-cover map; False for plans of earlier versions."""
        return bool(self.settings.get(LAND_COVER_MAPS, False))

    def map_layout(self, source: str, legend: str) -> MapLayout | None:
        """Return the form of the land-cover maps of a source with a legend; None for samples without a map."""
        return map_layout(self.sensors[source], self.legends[legend]) if self.has_maps else None

    @property
    def unreadable_groups(self) -> list[RejectedGroup]:
        """Return the groups of series and scenes that cannot be read."""
        return [group for group in self.rejected_groups if group.example]

    @property
    def num_shards(self) -> int:
        return sum(group.shards for group in self.groups)

    @property
    def num_rejected(self) -> int:
        return sum(group.samples for group in self.rejected_groups)

    def shard(self, number: int) -> PlannedShard:
        """Read shard `number` of `num_shards` with its samples from the tables. Raises ValueError when they are damaged."""
        return self._shard(number, {})

    def _shard(self, number: int, known: dict[int, PlannedSeries]) -> PlannedShard:
        """Read a shard; `known`: series by their row, of which missing ones are read and added."""
        name = self.names[number]
        source, split, _ = name.rsplit("-", 2)
        first, count = self._spans[number, :2].tolist()
        rows = self._rows("samples", np.arange(first, first + count)).to_pydict()
        series_of_sample = rows.pop("series")
        missing = np.array(sorted(set(series_of_sample) - set(known)), dtype=np.int64)
        if len(missing):
            found = self._rows("series", missing).to_pylist()
            known.update(zip(missing.tolist(), map(series_from_row, found), strict=True))
        size = self.sensors[source].chip_px
        samples = (
            PlannedSample(series=known[position], size=size, split=split, **dict(zip(rows, values, strict=True)))
            for position, *values in zip(series_of_sample, *rows.values(), strict=True)
        )
        return PlannedShard(name=name, source=source, split=split, samples=tuple(samples))

    def sample_keys(self, numbers: range) -> list[list[str]]:
        """Read the keys of the samples of consecutive shards; much faster than `shard`."""
        spans = self._spans[numbers.start : numbers.stop]
        begin, end = int(spans[0, 0]), int(spans[-1, :2].sum())
        samples = self._rows("samples", np.arange(begin, end), ["series", "year", "row", "col"])
        wanted, which = np.unique(samples["series"].to_numpy(), return_inverse=True)
        series = self._rows("series", wanted, ["source", "place"]).to_pydict()
        columns = (samples[name].to_pylist() for name in ("year", "row", "col"))
        keys = [
            sample_key(series["source"][n], series["place"][n], year, row, col)
            for n, year, row, col in zip(which.tolist(), *columns, strict=True)
        ]
        return [keys[first - begin : first - begin + count] for first, count in spans[:, :2].tolist()]

    def sweeps(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """Return some shards, given by ascending numbers, sweep by sweep."""
        chosen = np.asarray(numbers, dtype=np.int64)
        order = np.argsort(self._spans[chosen, 2], kind="stable")
        edges = np.flatnonzero(np.diff(self._spans[chosen[order], 2])) + 1
        return sorted(tuple(part.tolist()) for part in np.split(chosen[order], edges) if len(part))

    def sweep(self, numbers: Sequence[int]) -> PlannedSweep:
        """Read some shards of one sweep, as `shard` does."""
        known: dict[int, PlannedSeries] = {}
        shards = tuple(self._shard(number, known) for number in numbers)
        row_of = {id(series): row for row, series in known.items()}

        def reading_order(found: tuple[int, PlannedSample]) -> tuple[int, ...]:
            sample = found[1]
            rows, cols = chunk_group_shape(sample.series.chunk, sample.size)
            group = sample.row // rows, sample.col // cols
            return row_of[id(sample.series)], *group, sample.year, sample.row, sample.col

        samples = ((position, sample) for position, shard in enumerate(shards) for sample in shard.samples)
        return PlannedSweep(shards=shards, samples=tuple(sorted(samples, key=reading_order)))

    def shards(self) -> Iterator[PlannedShard]:
        """Read all shards in the order of their numbers, one at a time."""
        return map(self.shard, range(self.num_shards))

    def rejected(self) -> Iterator[Rejection]:
        """Read the rejected samples in the order of scenes."""
        for batch in batches(self.folder / TABLES["rejected"]):
            yield from (Rejection(**row) for row in batch.to_pylist())

    def damaged_tables(self) -> list[str]:
        """Read all tables and return the names of those that are missing or not as they were written."""
        paths = {name: self.folder / name for name in TABLES.values()}
        return [n for n, path in paths.items() if not path.is_file() or sha256_of(path) != self.table_sha256.get(n)]

    @cached_property
    def _spans(self) -> np.ndarray:
        """First sample, number of samples, and sweep of each shard, int64 (num_shards, 3)."""
        table = self._rows("shards", np.arange(self.num_shards))
        sweeps = table["sweep"].to_numpy() if "sweep" in table.column_names else np.arange(self.num_shards)
        return np.stack([table["first"].to_numpy(), table["samples"].to_numpy(), sweeps], axis=1)

    def _rows(self, table: str, rows: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        return read_rows(self.folder / TABLES[table], self._footers[table], rows, columns)

    @cached_property
    def _footers(self) -> dict[str, pq.FileMetaData]:
        """Parquet footers of the tables, which locate each group of rows; read once."""
        found = {}
        for name in ("shards", "samples", "series"):
            path = self.folder / TABLES[name]
            try:
                with parquet_file(path) as file:
                    found[name] = file.metadata
            except UNREACHABLE:
                raise
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path} cannot be read: {error}; the plan is damaged: use a new output folder") from error
        return found


def plan_hash(values: Mapping[str, Any]) -> str:
    """Return the sha256 of a plan.json without `table_sha256`, because bytes of Parquet depend on the library's version."""
    return hashlib.sha256(json_bytes({key: value for key, value in values.items() if key != "table_sha256"})).hexdigest()


def load_plan(folder: AnyPath) -> Plan:
    """Read plan.json in `folder`; the tables are read when they are needed.

    Raises ValueError when it is missing, damaged or of another version.
    """
    path = folder / PLAN
    values = read_json(path)
    if values.get("version") not in _READ_VERSIONS:
        raise ValueError(f"{path} has version {values.get('version')!r}; this code knows the versions {_READ_VERSIONS}")
    try:
        return Plan(
            folder=folder,
            hash=plan_hash(values),
            settings=values["settings"],
            sensors={name: sensor_from_dict(sensor, str(path)) for name, sensor in values["sensors"].items()},
            legends={name: legend_from_dict(legend) for name, legend in values["legends"].items()},
            groups=tuple(ShardGroup(**group) for group in values["groups"]),
            rejected_groups=tuple(RejectedGroup(**group) for group in values["rejected_groups"]),
            table_sha256=values["table_sha256"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a plan: {type(error).__name__} {error}") from error


def cached_plan(folder: AnyPath) -> Plan:
    """Return the plan as `load_plan` does, but read plan.json only once per process: a worker needs it for every shard."""
    return _cached_plan(folder, version_of(folder / PLAN))


@lru_cache(maxsize=1)
def _cached_plan(folder: AnyPath, _version: Hashable) -> Plan:
    return load_plan(folder)
