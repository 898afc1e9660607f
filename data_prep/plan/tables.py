"""Parquet tables of a plan, written in bounded memory, read a few rows at a time, and hashed by their values.

The hash is over the values and not over the file's bytes, so that it does not depend on the version of the Parquet library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import UNREACHABLE
from common.json_files import json_bytes
from common.storage import AnyPath

# A shard has some hundreds of samples. A row group holds many shards, so that columns compress well and the footer stays small.
SAMPLES = pa.schema(
    [
        ("series", pa.int32()),  # row of the table of series
        ("year", pa.int16()),
        ("row", pa.int32()),
        ("col", pa.int32()),
        ("start", pa.int32()),
        ("stop", pa.int32()),
        ("site", pa.string()),  # the site's id in the user's table of sites, else null
    ]
)
SERIES = pa.schema(
    [
        ("scene", pa.string()),
        ("place", pa.string()),
        ("folder", pa.string()),
        ("description_sha256", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),  # one file of a scene that is a collection of files, else null
        ("legend", pa.string()),
        ("crs", pa.string()),
        ("transform", pa.list_(pa.float64())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("chunk_rows", pa.int32()),
        ("chunk_cols", pa.int32()),
        ("dates", pa.list_(pa.int32())),  # days since 1970-01-01
    ]
)
SHARDS = pa.schema([("first", pa.int64()), ("samples", pa.int64()), ("bytes", pa.int64()), ("sweep", pa.int64())])
REJECTED = pa.schema([("key", pa.string()), ("source", pa.string()), ("scene", pa.string()), ("reason", pa.string())])
GROUP_ROWS = 16_384


class TableWriter:
    """Appends rows to a Parquet file in row groups of GROUP_ROWS rows, and hashes their values.

    Attributes:
        rows: number of rows added so far.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._hashes = {name: (hashlib.sha256(), hashlib.sha256()) for name in schema.names}

    def add(self, columns: Mapping[str, Sequence[Any] | np.ndarray | pa.Array]) -> None:
        """Append rows, given column by column."""
        self.add_table(pa.table(dict(columns), schema=self._schema))

    def add_table(self, table: pa.Table) -> None:
        """Append the rows of a table with the writer's schema."""
        self.rows += len(table)
        self._pending.append(table)
        self._pending_rows += len(table)
        if self._pending_rows >= GROUP_ROWS:
            self._flush(self._pending_rows // GROUP_ROWS * GROUP_ROWS)

    def digest(self) -> str:
        """Return the sha256 of the values of all columns, which does not depend on how the rows were split over calls of `add`.

        Call it after the last row was added.
        """
        self._flush(self._pending_rows)
        return hashlib.sha256(
            json_bytes({name: [h.hexdigest() for h in pair] for name, pair in self._hashes.items()})
        ).hexdigest()

    def close(self) -> None:
        """Write the pending rows and the footer."""
        self._flush(self._pending_rows)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _flush(self, rows: int) -> None:
        if not rows:
            return
        pending = pa.concat_tables(self._pending).combine_chunks()
        table, rest = pending.slice(0, rows), pending.slice(rows)
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        for name in self._schema.names:
            _hash_column(table[name], *self._hashes[name])
        self._pending, self._pending_rows = ([rest] if len(rest) else []), len(rest)


def _hash_column(column: pa.ChunkedArray, lengths: Any, values: Any) -> None:
    """Update the hash `values` by a column's values, and the hash `lengths` by the lengths of texts and lists (-1 for null)."""
    if pa.types.is_string(column.type):
        lengths.update(pc.fill_null(pc.binary_length(column), -1).to_numpy().astype("<i4").tobytes())
        if column.null_count < len(column):
            values.update("".join(text or "" for text in column.to_pylist()).encode())
    elif pa.types.is_list(column.type):
        lengths.update(pc.list_value_length(column).to_numpy().astype("<i4").tobytes())
        _hash_column(pc.list_flatten(column), lengths, values)
    else:
        numbers = column.to_numpy()
        values.update(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())


def read_rows(path: AnyPath, metadata: pq.FileMetaData, rows: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows with the numbers `rows` (ascending) of a file that `TableWriter` wrote; reads only their row groups.

    `columns`: default all.

    Raises ValueError when the file is damaged or does not fit `metadata`, its footer.
    """
    groups = np.unique(rows // GROUP_ROWS)
    positions = np.searchsorted(groups, rows // GROUP_ROWS) * GROUP_ROWS + rows % GROUP_ROWS
    try:
        with parquet_file(path, metadata) as file:
            return file.read_row_groups(groups.tolist(), columns).take(positions)
    except UNREACHABLE:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; the plan is damaged: use a new output folder") from error


@contextmanager
def parquet_file(path: AnyPath, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file at a path or URL, of which `metadata` may be known."""
    with ExitStack() as stack:
        source = path if isinstance(path, Path) else stack.enter_context(path.open("rb"))
        yield stack.enter_context(pq.ParquetFile(source, metadata=metadata))


def batches(path: AnyPath, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read all rows of a file that `TableWriter` wrote, one row group at a time."""
    with parquet_file(path) as file:
        yield from file.iter_batches(batch_size=GROUP_ROWS, columns=columns)
