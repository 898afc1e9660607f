"""Plans: what their tables hold, and where shards end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.plan.plan import TABLES
from data_prep.plan.splits import SpatialBlocks
from tests.support.archives import change_split
from tests.support.chunked_scene import planned, write_chunked
from tests.support.sites import write_wide_scene


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


def test_scenes_on_common_ground_belong_into_one_split(tmp_path: Path) -> None:
    for year, (name, split) in enumerate([("a", "train"), ("b", "test"), ("c", "validation")], 2019):
        write_wide_scene(tmp_path / "scenes", name, side=24, year=year)
        change_split(tmp_path / "scenes" / name, split)
    pairs = r"a \(train\) and b \(test\) by 100 %; a .* c .* by 100 %; b .* c .* by 100 %"
    said = rf"{pairs}; scores .* one region and one split .* or split by place with --split\.block_km"
    with pytest.raises(ValueError, match=said):
        planned(tmp_path)
    assert not (tmp_path / "corpus").exists()
    blocks = SpatialBlocks(block_km=50, shares={"train": 0.5, "test": 0.5})
    assert len({sample.split for shard in planned(tmp_path, spatial_blocks=blocks).shards() for sample in shard.samples}) == 1
