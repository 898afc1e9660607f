"""Plans against plain loops: how shards are cut, what the tables give back, and how often a chunk is read."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from common.grid import Grid
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.plan.build import make_plan
from data_prep.plan.packing import SLACK, divide
from data_prep.plan.plan import TABLES, Plan, PlannedSample, PlannedSeries
from data_prep.plan.settings import PlanSettings
from data_prep.plan.tables import GROUP_ROWS, TableWriter, batches, read_rows
from data_prep.plan.windows import windows_at
from data_prep.readers.base import Series
from data_prep.readers.opening import open_reader
from data_prep.readers.radiometry import series
from data_prep.shards import block_reader as blocks
from data_prep.shards.chunk_reader import ChunkReader
from tests.support.archives import Cube, days, make_cube, write_land_cover, write_scene

SENSOR = load_sensors()["sentinel2"]


def divided_plainly(sizes: list[int], block_of: list[int], shard_bytes: float) -> list[int]:
    """Where shards end, sample by sample, as the docstring of `divide` says."""
    ends = np.cumsum(sizes).tolist()
    total = ends[-1]
    count = -(-total // int(shard_bytes))
    block_ends = [0] + [end for n, end in enumerate(ends) if n + 1 == len(ends) or block_of[n] != block_of[n + 1]]
    cuts = []
    for target in (total / count * n for n in range(1, count)):
        near = min(block_ends, key=lambda end: abs(end - target))
        if abs(near - target) > SLACK * total / count:
            near = next(end for end in ends if end >= target)
        if 0 < near < total and near > (cuts or [0])[-1]:
            cuts.append(near)
    return [*cuts, total]


@given(data=st.data(), shard_bytes=st.integers(50, 3_000))
@settings(max_examples=200, deadline=None)
def test_division_equals_a_plain_loop_whatever_the_batches(data: st.DataObject, shard_bytes: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=1, max_size=60))
    steps = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    block_of = np.cumsum(steps)
    edges = sorted(data.draw(st.sets(st.integers(1, len(sizes)), max_size=5)))
    parts = zip(np.split(np.array(sizes), edges), np.split(block_of, edges), strict=True)
    spans = list(divide((part for part in parts if len(part[0])), sum(sizes), shard_bytes))
    assert np.cumsum([span.bytes for span in spans]).tolist() == divided_plainly(sizes, block_of.tolist(), shard_bytes)
    assert [span.first for span in spans] == [0, *np.cumsum([span.samples for span in spans])[:-1].tolist()]
    assert sum(span.samples for span in spans) == len(sizes)
    assert all(span.bytes == sum(sizes[span.first : span.first + span.samples]) for span in spans)


SCHEMA = pa.schema([("number", pa.int32()), ("name", pa.string()), ("days", pa.list_(pa.int32()))])


def write_table(path: Path, rows: list[tuple[int, str | None, list[int]]], edges: list[int]) -> str:
    with TableWriter(path, SCHEMA) as table:
        for first, last in zip([0, *edges], [*edges, len(rows)], strict=True):
            table.add({name: [row[n] for row in rows[first:last]] for n, name in enumerate(SCHEMA.names)})
        return table.digest()


def test_tables_give_back_any_rows_and_their_digest_is_of_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.plan.tables.GROUP_ROWS", 16)
    rng = np.random.default_rng(0)
    rows = [(int(n), None if n % 3 else f"s{n}", list(range(n % 5))) for n in rng.integers(0, 1_000, 100)]
    digest = write_table(tmp_path / "a.parquet", rows, [7, 40])
    assert write_table(tmp_path / "b.parquet", rows, [1, 2, 99]) == digest
    for at, changed in ((3, (rows[3][0] + 1, *rows[3][1:])), (50, (rows[50][0], "x", rows[50][2])), (99, (*rows[99][:2], [9]))):
        assert write_table(tmp_path / "c.parquet", [*rows[:at], changed, *rows[at + 1 :]], []) != digest
    moved = [(1, "ab", [1, 2]), (1, "c", [3])], [(1, "a", [1]), (1, "bc", [2, 3])]
    assert len({write_table(tmp_path / "d.parquet", table, []) for table in moved}) == 2

    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [16] * 6 + [4]
    for chosen in (np.arange(15, 18), np.array([0, 50, 99]), np.arange(100), np.array([16])):
        found = read_rows(tmp_path / "a.parquet", metadata, chosen).to_pydict()
        assert list(zip(*found.values(), strict=True)) == [rows[n] for n in chosen]
    assert sum(len(batch) for batch in batches(tmp_path / "a.parquet")) == 100


def test_a_damaged_table_is_said_in_a_line(tmp_path: Path) -> None:
    digest_of_nothing = write_table(tmp_path / "empty.parquet", [], [])
    assert len(digest_of_nothing) == 64
    write_table(tmp_path / "a.parquet", [(n, "x" * 50, [n]) for n in range(GROUP_ROWS)], [])
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
        read_rows(tmp_path / "a.parquet", metadata, np.array([3]))


def write_chunked(folder: Path, side: int, chunk: tuple[int, int, int], seed: int = 0) -> Cube:
    """One scene, Sentinel-2 of two years, stored in chunks of (frames, rows, columns)."""
    cube = make_cube(SENSOR, side, np.concatenate([days(2020, 17), days(2021, 18)]), np.random.default_rng(seed))
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    write_scene(folder / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover=land_cover)
    write_land_cover(folder / "delta" / "landcover.tif", np.full((side // 3 + 1, side // 3 + 1), 10))
    group = zarr.open_group(folder / "delta" / "sentinel2.zarr", mode="r+")
    bands = len(SENSOR.bands)
    arrays = {"reflectance": (cube.pixels, (chunk[0], bands, *chunk[1:])), "SCL": (cube.quality, chunk)}
    for name, (values, chunks) in arrays.items():
        group.create_array(name, data=values, chunks=chunks, overwrite=True)
    return cube


def planned(folder: Path, **changes: Any) -> Plan:
    plan_settings = replace(PlanSettings(chip_px={"sentinel2": 12}), **changes)
    return make_plan(folder / "scenes", folder / "corpus", plan_settings)


def read_counting(folder: Path, plan: Plan, cube: Cube, monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """Read all samples by blocks, each compared with what was written; how often each chunk was fetched, shard by shard."""
    fetched: Counter[str] = Counter()
    original = zarr.storage.LocalStore.get

    async def count(store: Any, key: str, *arguments: Any, **options: Any) -> Any:
        fetched[key] += 1
        return await original(store, key, *arguments, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", count)
    found = []
    for shard in plan.shards():
        with open_reader(load_scene(folder / "scenes" / "delta"), "sentinel2", plan.sensors) as reader:
            fetched.clear()
            block_reader = ChunkReader(reader, shard.samples)
            for sample in shard.samples:
                rows, cols = (slice(start, start + sample.size) for start in (sample.row, sample.col))
                series = block_reader.read(sample)
                np.testing.assert_array_equal(series.pixels, cube.pixels[sample.start : sample.stop, :, rows, cols])
                np.testing.assert_array_equal(series.quality, cube.quality[sample.start : sample.stop, rows, cols])
                np.testing.assert_array_equal(series.dates, cube.dates[sample.start : sample.stop])
                assert series.valid.shape == series.quality.shape
            assert not block_reader._blocks  # nothing is kept beyond its last window
        found.append(Counter({key: count for key, count in fetched.items() if "/c/" in key}))
    return found


@pytest.mark.parametrize(
    ("chunk", "shard_mb"),
    [
        ((35, 24, 24), 100.0),  # windows nest in chunks
        ((5, 12, 36), 1.0),
        ((35, 6, 4), 0.7),  # chunks nest in windows
        ((1, 1, 50), 1.0),  # rows of a raster without blocks
        ((10, 20, 20), 3.0),  # neither: windows straddle
        ((35, 31, 17), 1.0),
        ((35, 50, 50), 0.5),  # one chunk for all
    ],
)
def test_each_chunk_is_read_once_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int, int], shard_mb: float
) -> None:
    cube = write_chunked(tmp_path / "scenes", 50, chunk)
    plan = planned(tmp_path, shard_mb=shard_mb)
    samples = [sample for shard in plan.shards() for sample in shard.samples]
    assert len({sample.key for sample in samples}) == len(samples) == 2 * 16
    fetched = read_counting(tmp_path, plan, cube, monkeypatch)
    assert len(fetched) == plan.num_shards > (1 if shard_mb < 3 else 0)
    assert all(set(counts.values()) == {1} for counts in fetched)


class CountingReader:
    """A series in memory that counts how often pixels of each chunk are read in each year."""

    def __init__(self, cube: Cube, chunk: tuple[int, int]) -> None:
        side = cube.quality.shape[-1]
        self.sensor, self.dates, self.chunk = SENSOR, cube.dates, chunk
        self.grid = Grid(crs="EPSG:32631", transform=Affine(10, 0, 0, 0, -10, 0), height=side, width=side)
        self.touched: Counter[tuple[int, int]] = Counter()
        self._cube = cube

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        rows, cols = self.chunk
        for block_row in range(row // rows, (row + height - 1) // rows + 1):
            for block_col in range(col // cols, (col + width - 1) // cols + 1):
                self.touched[block_row, block_col] += 1
        pixels = self._cube.pixels[times, :, row : row + height, col : col + width]
        quality = self._cube.quality[times, row : row + height, col : col + width]
        return Series(pixels=pixels, quality=quality, valid=quality < 7, dates=self.dates[times])

    def __enter__(self) -> CountingReader:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


CUBE = make_cube(SENSOR, 40, np.concatenate([days(2020, 3), days(2021, 4)]), np.random.default_rng(3))


@given(
    chunk=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(1, 18),
    places=st.lists(st.tuples(st.integers(0, 22), st.integers(0, 22)), min_size=1, max_size=25, unique=True),
    limit=st.sampled_from([0, 10_000, 50_000, 10**9]),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=300, deadline=None)
def test_windows_at_any_places_by_any_blocks(
    chunk: tuple[int, int], size: int, places: list[tuple[int, int]], limit: int, part: tuple[float, float]
) -> None:
    reader = CountingReader(CUBE, chunk)
    series_of = PlannedSeries(
        scene="s",
        place="s",
        folder="s",
        scene_file_sha256="",
        source="sentinel2",
        file=None,
        legend="scl",
        grid=reader.grid,
        chunk=chunk,
        dates=tuple(CUBE.dates.astype(int).tolist()),
    )
    rows, cols = np.array(places).T
    windows = windows_at(series_of, size, rows, cols)
    assert len(windows) == 2 * len(places)
    samples = [
        PlannedSample(series_of, int(year), int(row), int(col), size, "train", int(start), int(stop))
        for row, col, year, start, stop in zip(
            windows.rows, windows.cols, windows.years, windows.starts, windows.stops, strict=True
        )
    ]
    first, last = sorted(int(share * len(samples)) for share in part)  # of several shards, any
    samples = samples[first:last] or samples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", limit)
        block_reader = ChunkReader(reader, samples)
        for sample in samples:
            found = block_reader.read(sample)
            there = np.s_[sample.start : sample.stop, ..., sample.row : sample.row + size, sample.col : sample.col + size]
            np.testing.assert_array_equal(found.pixels, CUBE.pixels[there])
            np.testing.assert_array_equal(found.quality, CUBE.quality[there])
            np.testing.assert_array_equal(found.valid, CUBE.quality[there] < 7)
            np.testing.assert_array_equal(found.dates, CUBE.dates[sample.start : sample.stop])
    assert not block_reader._blocks
    if limit == 10**9:
        assert set(reader.touched.values()) == {1}


@pytest.mark.parametrize("limit", [1, 120_000, 400_000, 900_000])
def test_blocks_larger_than_memory_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    cube = write_chunked(tmp_path / "scenes", 60, (5, 60, 60))
    plan = planned(tmp_path)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", limit)
    largest = 0
    original = ChunkReader._block

    def held(reader: ChunkReader, key: Any) -> Any:
        nonlocal largest
        block = original(reader, key)
        largest = max(largest, sum(b.pixels.nbytes + 2 * b.quality.nbytes for b in reader._blocks.values() if b is not None))
        return block

    monkeypatch.setattr(ChunkReader, "_block", held)
    (counts,) = read_counting(tmp_path, plan, cube, monkeypatch)
    one_window = 18 * 12 * 12 * (10 * 2 + 2)
    assert largest <= max(limit, one_window)
    assert max(counts.values()) > 1


def test_an_offset_takes_no_more_memory_than_a_date() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 3_000, (40, 10, 64, 64)).astype(np.uint16)
    offsets = np.where(np.arange(40) < 20, 0, -1000)
    expected = np.where((pixels == 0) | (offsets == 0)[:, None, None, None], pixels, np.maximum(pixels.astype(int) - 1000, 1))
    expected[20:][pixels[20:] == 0] = 0
    tracemalloc.start()
    found = series(pixels, np.full((40, 64, 64), 4, np.uint8), days(2021, 40), SENSOR, offsets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < pixels.nbytes / 2
    np.testing.assert_array_equal(found.pixels, expected)
    np.testing.assert_array_equal(found.valid, (expected != 0).all(axis=1))


def test_shards_end_where_chunks_end(tmp_path: Path) -> None:
    write_chunked(tmp_path / "scenes", 72, (35, 24, 24))
    plan = planned(tmp_path, shard_mb=0.8)
    ends = {(sample.row // 24, sample.col // 24) for shard in plan.shards() for sample in shard.samples[-1:]}
    starts = {(sample.row // 24, sample.col // 24) for shard in plan.shards() for sample in shard.samples[:1]}
    assert plan.num_shards == len(ends) == len(starts) > 4
    sizes = [sum(sample.stop - sample.start for sample in shard.samples) for shard in plan.shards()]
    assert max(sizes) <= 1.5 * np.mean(sizes)


def test_what_a_shard_says_is_what_the_tables_say(tmp_path: Path) -> None:
    write_chunked(tmp_path / "scenes", 50, (35, 24, 24))
    plan = planned(tmp_path, shard_mb=1.0)
    rows = pq.read_table(plan.folder / TABLES["samples"]).to_pylist()
    samples = [sample for shard in plan.shards() for sample in shard.samples]
    for row, sample in zip(rows, samples, strict=True):
        assert (row["row"], row["col"], row["year"], row["start"], row["stop"]) == (
            sample.row,
            sample.col,
            sample.year,
            sample.start,
            sample.stop,
        )
        dates = np.array(sample.series.dates, dtype="datetime64[D]")[sample.start : sample.stop]
        assert set(dates.astype("datetime64[Y]").astype(str)) == {str(sample.year)}
    (group,) = plan.groups
    assert (group.shards, group.samples) == (plan.num_shards, len(samples))
