"""Parquet tables of a plan: rows, digests and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.plan.tables import GROUP_ROWS, TableWriter, batches, read_rows

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
