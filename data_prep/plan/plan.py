"""The plan of a corpus: which sample goes into which shard, frozen and hashed before any pixel is read.

    plan.json               settings, sensors, legends, shards by source and split, hashes; written last
    plan-shards.parquet     one row a shard: its first sample, how many, and about how many bytes
    plan-samples.parquet    one row a sample, shard by shard
    plan-series.parquet     one row a series of images: its scene, grid and dates
    plan-rejected.parquet   one row a sample that is not written, and why

A sample is a window of one series with all dates of one calendar year. A plan of 25 million samples opens at once: a shard's
rows are read when they are asked for. `data_prep/plan/planning.py` makes plans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from tabulate import tabulate

from common.checksums import sha256_of
from common.grid import Grid
from common.json_files import json_bytes, read_json
from data_prep.archive.sensor import Sensor, sensor_from_dict
from data_prep.landcover.label_legend import LabelLegend, label_legend_from_dict
from data_prep.landcover.legend import Legend, legend_from_dict
from data_prep.plan.tables import batches, read_rows
from data_prep.readers.base import SeriesReader

PLAN = "plan.json"
TABLES = {name: f"plan-{name}.parquet" for name in ("shards", "samples", "series", "rejected")}
VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSeries:
    """What the plan rests on and a writer finds again: one source of one scene, or one file of its folder of files.

    Attributes:
        scene: the scene's name.
        place: what stands for it in keys: the scene's name, for a file its number with it.
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
    place: str
    folder: str
    scene_file_sha256: str
    source: str
    file: str | None
    legend: str
    grid: Grid
    chunk: tuple[int, int]
    dates: tuple[int, ...]

    def is_of(self, reader: SeriesReader) -> bool:
        """True when `reader` has the planned grid and dates."""
        return self.grid == reader.grid and self.dates == tuple(reader.dates.astype(np.int64).tolist())


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """A window of `size` x `size` pixels at (row, col) of a series, at the dates [start, stop) of the series.

    `site` is the id that a user's table of sites gives the place, else None.
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
        return sample_key(self.source, self.series.place, self.year, self.row, self.col)

    @property
    def scene(self) -> str:
        return self.series.scene

    @property
    def source(self) -> str:
        return self.series.source


def sample_key(source: str, place: str, year: int, row: int, col: int) -> str:
    """Unique in a corpus, without dots: a series has one window at (row, col) in a year."""
    return f"{source}-{place}-{year}-r{row:05d}-c{col:05d}"


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


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """The shards of one source and split: how many they are, their samples, and about how many bytes."""

    source: str
    split: str
    shards: int
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RejectedGroup:
    """How many samples of a source the plan rejects for a reason."""

    source: str
    reason: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan in `folder`. `settings` are the arguments that shape it; sensors and legends are by name.

    `hash` is the sha256 of all that is planned: equal hashes mean equal shards.
    """

    folder: Path
    hash: str
    settings: Mapping[str, Any]
    sensors: Mapping[str, Sensor]
    legends: Mapping[str, Legend]
    groups: tuple[ShardGroup, ...]
    rejected_groups: tuple[RejectedGroup, ...]
    table_sha256: Mapping[str, str]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all shards without suffix."""
        return tuple(f"{group.source}-{group.split}-{n:06d}" for group in self.groups for n in range(group.shards))

    @property
    def labels(self) -> dict[str, LabelLegend]:
        """The labels that travel with samples, by source."""
        return {source: label_legend_from_dict(values) for source, values in self.settings.get("labels", {}).items()}

    @property
    def num_shards(self) -> int:
        return sum(group.shards for group in self.groups)

    @property
    def num_rejected(self) -> int:
        return sum(group.samples for group in self.rejected_groups)

    def shard(self, number: int) -> PlannedShard:
        """Shard `number` of `num_shards` with its samples, read from the tables. Raises ValueError when they are damaged."""
        name = self.names[number]
        source, split, _ = name.rsplit("-", 2)
        first, count = self._spans[number].tolist()
        rows = self._rows("samples", np.arange(first, first + count)).to_pydict()
        numbers, places = np.unique(rows.pop("series"), return_inverse=True)
        series = [_series(values) for values in self._rows("series", numbers).to_pylist()]
        size = self.sensors[source].chip_px
        samples = (
            PlannedSample(series=series[place], size=size, split=split, **dict(zip(rows, values, strict=True)))
            for place, *values in zip(places, *rows.values(), strict=True)
        )
        return PlannedShard(name=name, source=source, split=split, samples=tuple(samples))

    def shards(self) -> Iterator[PlannedShard]:
        """All shards in the order of their numbers, one at a time."""
        return map(self.shard, range(self.num_shards))

    def rejected(self) -> Iterator[Rejection]:
        """What the plan leaves out, in the order of scenes."""
        for batch in batches(self.folder / TABLES["rejected"]):
            yield from (Rejection(**row) for row in batch.to_pylist())

    def damaged_tables(self) -> list[str]:
        """Names of the plan's files that are missing or are not as they were written; reads all of them."""
        paths = {name: self.folder / name for name in TABLES.values()}
        return [n for n, path in paths.items() if not path.is_file() or sha256_of(path) != self.table_sha256.get(n)]

    @cached_property
    def _spans(self) -> np.ndarray:
        """(num_shards, 2) int64: first sample and number of samples of each shard."""
        table = self._rows("shards", np.arange(self.num_shards))
        return np.stack([table["first"].to_numpy(), table["samples"].to_numpy()], axis=1)

    def _rows(self, table: str, rows: np.ndarray) -> pa.Table:
        return read_rows(self.folder / TABLES[table], self._metadata[table], rows)

    @cached_property
    def _metadata(self) -> dict[str, pq.FileMetaData]:
        """Footers of the tables, read once: they say where each group of rows lies."""
        found = {}
        for name in ("shards", "samples", "series"):
            path = self.folder / TABLES[name]
            try:
                found[name] = pq.read_metadata(path)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path} cannot be read: {error}; the plan is damaged: use a new output folder") from error
        return found


def plan_table(plan: Plan) -> str:
    """Two tables for people: shards, samples and about the bytes by source and split; rejected samples by reason."""
    rows = [[g.source, g.split, g.shards, g.samples, f"{g.bytes / 1e6:.1f}"] for g in plan.groups]
    tables = [tabulate(rows, ["source", "split", "shards", "samples", "MB"], disable_numparse=True)]
    if plan.rejected_groups:
        rejected = [[g.source, g.samples, g.reason] for g in plan.rejected_groups]
        tables.append(tabulate(rejected, ["source", "rejected", "reason"]))
    return "\n\n".join(tables)


def plan_hash(values: Mapping[str, Any]) -> str:
    """sha256 of the content of a plan.json without the sha256 of the files beside it: their bytes depend on who wrote them."""
    return hashlib.sha256(json_bytes({key: value for key, value in values.items() if key != "table_sha256"})).hexdigest()


def load_plan(folder: Path) -> Plan:
    """The plan in `folder`; its tables are read later. Raises ValueError when it is missing or is no plan of this version."""
    path = folder / PLAN
    values = read_json(path)
    if values.get("version") != VERSION:
        raise ValueError(f"{path} has version {values.get('version')!r}; this code knows version {VERSION}")
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


def plan_values(
    settings: Mapping[str, Any],
    sensors: Mapping[str, Sensor],
    legends: Mapping[str, Legend],
    groups: list[ShardGroup],
    rejected_groups: list[RejectedGroup],
    content_sha256: Mapping[str, str],
    table_sha256: Mapping[str, str],
) -> dict[str, Any]:
    """The content of plan.json. `content_sha256` is of each table's values, `table_sha256` of its file."""
    return {
        "version": VERSION,
        "settings": dict(settings),
        "sensors": {name: sensor.to_dict() for name, sensor in sensors.items()},
        "legends": {name: legend.to_dict() for name, legend in legends.items()},
        "groups": [asdict(group) for group in groups],
        "rejected_groups": [asdict(group) for group in rejected_groups],
        "content_sha256": dict(content_sha256),
        "table_sha256": dict(table_sha256),
    }


def _series(row: Mapping[str, Any]) -> PlannedSeries:
    """A row of the table of series."""
    names = ("scene", "place", "folder", "source", "file", "legend")
    grid = Grid(crs=row["crs"], transform=Affine(*row["transform"]), height=row["height"], width=row["width"])
    chunk = (row["chunk_rows"], row["chunk_cols"])
    named = {name: row[name] for name in names} | {"scene_file_sha256": row["description_sha256"]}
    return PlannedSeries(**named, grid=grid, chunk=chunk, dates=tuple(row["dates"]))
