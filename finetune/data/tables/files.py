"""The files of a table, Parquet or CSV, read a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from common.checksums import sha256_of
from common.errors import UNREACHABLE
from common.storage import AnyPath, joined, listed
from finetune.data.tables.description import TableDescription, check_columns

PARQUET, CSV = (".parquet", ".pq", ".geoparquet"), (".csv",)
BATCH_ROWS = 8192
_CSV_BLOCK_BYTES = 1 << 24


class TableFiles:
    """The files of a table, in the order of their names.

    Raises ValueError when there are none, and for files that are neither Parquet nor CSV, or both.
    """

    def __init__(self, table: TableDescription) -> None:
        self.paths = _paths(table)
        suffixes = {path.suffix.lower() for path in self.paths}
        self.is_csv = suffixes <= set(CSV)
        if not self.is_csv and not suffixes <= set(PARQUET):
            raise ValueError(f"{table.path}: files end in {', '.join(sorted(suffixes))}; expected .parquet, or .csv")

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns of the first file. The name of a CSV's index may be empty."""
        return self._names(self.paths[0])

    def _names(self, path: AnyPath) -> list[str]:
        with reading(path), self._opened(path, {}) as file:
            return list(file.schema.names if self.is_csv else file.schema_arrow.names)

    def batches(
        self,
        columns: Mapping[str, str],
        csv_types: Mapping[str, pa.DataType],
        choose: Callable[[Sequence[str]], Collection[str]] = lambda _: (),
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Where rows are, for messages, and the rows themselves, at most BATCH_ROWS together.

        The schema of rows of GeoParquet holds what their file states of its columns of geometry; see `stated_geometry`.

        Args:
            columns: what columns are for by their names.
            csv_types: types of those columns that a CSV shall be read as. A CSV has texts alone.
            choose: the columns that would be chosen of a file, by the names of all of its columns: they are those of `columns`
                that depend on the file, or it is refused.

        Raises ValueError for a file that lacks a column, has further ones of a kind that `columns` holds, or is damaged.
        """
        wanted = {what: name for name, what in columns.items()}
        for path in self.paths:
            names = self._names(path)
            check_columns(wanted, names, str(path))
            twice = sorted({name for name in columns if names.count(name) > 1})
            if twice:
                raise ValueError(f"{path}: has several columns {twice[0]!r}; rename them")
            more = sorted(set(choose(names)) - set(columns))
            if more:
                raise ValueError(
                    f"{path}: has {len(more)} columns that {self.paths[0]} lacks, such as {more[0]!r}; the files of a table have "
                    "the same columns: put them into two tables, or remove these columns"
                )
            with self._opened(path, csv_types) as file:
                first = 0
                parts = iter(file if self.is_csv else file.iter_batches(BATCH_ROWS, columns=list(columns)))
                while True:
                    with reading(path):
                        batch = next(parts, None)
                    if batch is None:
                        break
                    if not self.is_csv:
                        batch = batch.replace_schema_metadata(file.schema_arrow.metadata)
                    for start in range(0, len(batch), BATCH_ROWS):
                        yield f"{path}, rows from {first + start}", batch.slice(start, BATCH_ROWS)
                    first += len(batch)

    @contextmanager
    def _opened(self, path: AnyPath, csv_types: Mapping[str, pa.DataType]) -> Iterator[Any]:
        with ExitStack() as stack, reading(path):
            source = path if isinstance(path, Path) else stack.enter_context(path.open("rb"))
            if self.is_csv:
                how = pa_csv.ConvertOptions(column_types=dict(csv_types), strings_can_be_null=True)
                # Names of a CSV are read with its first block, of which an empty file has none.
                blocks = pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
                file = stack.enter_context(pa_csv.open_csv(source, read_options=blocks, convert_options=how))
            else:
                file = stack.enter_context(pq.ParquetFile(source))
            opened = stack.pop_all()
        with opened:
            yield file

    def sha256(self) -> list[str]:
        """sha256 of each file."""
        return [sha256_of(path) for path in self.paths]


def stated_geometry(rows: pa.RecordBatch) -> Mapping[str, Any]:
    """What the file of some rows states of its columns of geometry (GeoParquet), by their names."""
    content = (rows.schema.metadata or {}).get(b"geo")
    columns: Mapping[str, Any] = (json.loads(content) if content else {}).get("columns", {})
    return columns


def _paths(table: TableDescription) -> list[AnyPath]:
    """The files that a table.yaml names. Raises ValueError for a name without a file."""
    found: list[AnyPath] = []
    for name in [table.files] if isinstance(table.files, str) else table.files:
        path = joined(table.path.parent, name, table.storage_options)
        if any(sign in path.name for sign in "*?["):
            matching: Sequence[AnyPath] = listed(path.parent, path.name)
        elif path.is_dir():
            matching = [one for one in listed(path, "*") if one.suffix.lower() in (*PARQUET, *CSV)]
        else:
            matching = [path] if path.is_file() else []
        if not matching:
            raise ValueError(f"{table.path}: files {name!r}: there is no such file ({path})")
        found += matching
    return found


@contextmanager
def reading(path: AnyPath) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into a ValueError that names the file."""
    try:
        yield
    except UNREACHABLE:
        raise
    except pa.ArrowException as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: cannot be read: {error}") from error
