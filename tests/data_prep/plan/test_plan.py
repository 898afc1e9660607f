"""Plans: what their tables hold, and where shards end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_prep.plan.plan import TABLES
from tests.support.chunked_scene import planned, write_chunked


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
