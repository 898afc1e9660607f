"""Reading by chunk groups: equal arrays, and how often each chunk is read."""

from __future__ import annotations

from collections import Counter
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
from data_prep.archive.scene import SPLITS, load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.plan.plan import Plan, PlannedSample, PlannedSeries
from data_prep.plan.windows import windows_at
from data_prep.readers.base import Series
from data_prep.readers.opening import open_reader
from data_prep.shards.chunk_reader import ChunkReader
from tests.support.archives import NORTH, WEST, Cube, days, make_cube
from tests.support.chunked_scene import planned, write_chunked

SENSOR = load_sensors()["sentinel2"]


def read_counting(
    folder: Path, plan: Plan, cube: Cube, monkeypatch: pytest.MonkeyPatch, most_bytes: int = 256_000_000
) -> list[Counter[str]]:
    """Read all samples, compare them with what was written, and count how often each chunk was fetched, sweep by sweep."""
    fetched: Counter[str] = Counter()
    original = zarr.storage.LocalStore.get

    async def count(store: Any, key: str, *arguments: Any, **options: Any) -> Any:
        fetched[key] += 1
        return await original(store, key, *arguments, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", count)
    found = []
    for numbers in plan.sweeps(range(plan.num_shards)):
        samples = [sample for _, sample in plan.sweep(numbers).samples]
        with open_reader(load_scene(folder / "scenes" / "delta"), "sentinel2", plan.sensors) as reader:
            fetched.clear()
            chunks = ChunkReader(reader, samples, most_bytes)
            for sample in samples:
                rows, cols = (slice(start, start + sample.size) for start in (sample.row, sample.col))
                series = chunks.read(sample)
                np.testing.assert_array_equal(series.pixels, cube.pixels[sample.start : sample.stop, :, rows, cols])
                np.testing.assert_array_equal(series.quality, cube.quality[sample.start : sample.stop, rows, cols])
                np.testing.assert_array_equal(series.dates, cube.dates[sample.start : sample.stop])
                assert series.valid.shape == series.quality.shape
            assert not chunks._held  # no chunk group is kept after its last window
        found.append(Counter({key: count for key, count in fetched.items() if "/c/" in key}))
    return found


@pytest.mark.parametrize(
    ("chunk", "shard_mb", "nests"),
    [
        ((35, 24, 24), 100.0, True),  # windows nest in chunks
        ((35, 24, 24), 0.05, True),
        ((5, 12, 36), 0.05, True),
        ((35, 6, 4), 0.05, True),  # chunks nest in windows
        pytest.param((1, 1, 50), 0.05, True, marks=pytest.mark.slow),  # rows of a raster that is not tiled
        ((10, 20, 20), 0.05, False),  # neither: windows straddle
        ((35, 31, 17), 0.05, False),
        ((35, 50, 50), 0.05, True),  # one chunk for all, larger than many shards
    ],
)
def test_each_chunk_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int, int], shard_mb: float, nests: bool
) -> None:
    """Whatever the size of shards; where windows straddle chunk groups, at most once in each sweep."""
    cube = write_chunked(tmp_path / "scenes", 50, chunk)
    plan = planned(tmp_path, shard_mb=shard_mb)
    samples = [sample for shard in plan.shards() for sample in shard.samples]
    assert len({sample.key for sample in samples}) == len(samples) == 2 * 16
    fetched = read_counting(tmp_path, plan, cube, monkeypatch)
    assert plan.num_shards > (10 if shard_mb < 1 else 0)
    assert len(fetched) > (1 if shard_mb < 1 and chunk[1] < 50 else 0)
    assert all(set(counts.values()) == {1} for counts in fetched)
    if nests:
        assert set(sum(fetched, Counter()).values()) == {1}


def test_a_chunk_group_that_feeds_three_splits_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = write_chunked(tmp_path / "scenes", 48, (35, 24, 24))
    grid = Grid(crs="EPSG:32631", transform=Affine(10, 0, WEST, 0, -10, NORTH), height=48, width=48)
    rows, cols = (index.ravel() * 12 for index in np.indices((4, 4)))
    lon, lat = grid.lon_lat(rows + 6, cols + 6)
    splits = np.array(SPLITS)[np.arange(16) % 3]
    table = pa.table({"id": [f"s{n}" for n in range(16)], "lon": lon, "lat": lat, "split": splits})
    pq.write_table(table, tmp_path / "sites.parquet")
    plan = planned(tmp_path, sites=tmp_path / "sites.parquet", shard_mb=0.1)
    assert {group.split for group in plan.groups} == set(SPLITS)
    fetched = read_counting(tmp_path, plan, cube, monkeypatch)
    assert set(sum(fetched, Counter()).values()) == {1}
    found = [number for numbers in plan.sweeps(range(plan.num_shards)) for number in numbers]
    assert sorted(found) == list(range(plan.num_shards))


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
        for chunk_row in range(row // rows, (row + height - 1) // rows + 1):
            for chunk_col in range(col // cols, (col + width - 1) // cols + 1):
                self.touched[chunk_row, chunk_col] += 1
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
def test_windows_at_any_positions_with_any_chunks(
    chunk: tuple[int, int], size: int, places: list[tuple[int, int]], limit: int, part: tuple[float, float]
) -> None:
    reader = CountingReader(CUBE, chunk)
    series_of = PlannedSeries(
        scene="s",
        key_prefix="s",
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
    chunks = ChunkReader(reader, samples, limit)
    for sample in samples:
        found = chunks.read(sample)
        there = np.s_[sample.start : sample.stop, ..., sample.row : sample.row + size, sample.col : sample.col + size]
        np.testing.assert_array_equal(found.pixels, CUBE.pixels[there])
        np.testing.assert_array_equal(found.quality, CUBE.quality[there])
        np.testing.assert_array_equal(found.valid, CUBE.quality[there] < 7)
        np.testing.assert_array_equal(found.dates, CUBE.dates[sample.start : sample.stop])
    assert not chunks._held
    if limit == 10**9:
        assert set(reader.touched.values()) == {1}


@pytest.mark.parametrize("limit", [1, 120_000, 400_000, 900_000])
def test_chunk_groups_larger_than_memory_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    cube = write_chunked(tmp_path / "scenes", 60, (5, 60, 60))
    plan = planned(tmp_path)
    largest = 0
    original = ChunkReader._read_group

    def held(reader: ChunkReader, key: Any) -> Any:
        nonlocal largest
        group = original(reader, key)
        largest = max(largest, sum(b.pixels.nbytes + 2 * b.quality.nbytes for b in reader._held.values() if b is not None))
        return group

    monkeypatch.setattr(ChunkReader, "_read_group", held)
    (counts,) = read_counting(tmp_path, plan, cube, monkeypatch, limit)
    one_window = 18 * 12 * 12 * (10 * 2 + 2)
    assert largest <= max(limit, one_window)
    assert max(counts.values()) > 1
