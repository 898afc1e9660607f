"""Where the samples of one source and split lie: a table that opens at once, whatever its length.

`<source>-<split>.samples.npy` is a plain .npy of a structured dtype, a record a sample in the order of shards and members:

    key      fixed-width bytes (UTF-8), as wide as the longest
    shard    int32, place of its shard in the list of the shards of this source and split in dataset.json
    frames   int32, dates of the year
    offsets  5 x int64, bytes in the tar where the data of each of `TABLE_MEMBERS` begins
    sizes    5 x int64, bytes of each

It is mapped into memory and not read: a batch touches its own rows only, and all processes of a machine share the pages. A
table in an object store is copied to this machine once. `data_prep/corpus/sample_index_writer.py` writes tables and proves them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.retries import retried
from common.storage import file_system, is_url
from data_prep.corpus.dataset import RETRIES, Corpus, SplitSummary

TABLE_MEMBERS = ("pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "checksums.npy")  # json is for people
_LOOKED_AT = 32  # rows when a table is opened
_MEND = "copy it again, or run data_prep/verify.py"


def table_name(source: str, split: str) -> str:
    """File name of a table."""
    return f"{source}-{split}.samples.npy"


def record_dtype(key_bytes: int) -> np.dtype:
    """Of a record whose key takes up to `key_bytes` bytes."""
    places = (len(TABLE_MEMBERS),)
    return np.dtype(
        [("key", f"S{key_bytes}"), ("shard", "<i4"), ("frames", "<i4"), ("offsets", "<i8", places), ("sizes", "<i8", places)]
    )


def open_table(corpus: Corpus, source: str, split: str, cache: Path | None = None) -> np.ndarray:
    """The table of a source and split, mapped into memory: (N,) of `record_dtype`, read-only.

    The table of a corpus at a URL is copied into `cache`, by default a folder for temporary files, below which each corpus has
    a folder named by its fingerprint. A copy is compared with its checksum. In the corpus' own folder only some rows are looked
    at, because reading gigabytes takes long, and `data_prep/verify.py` does it.

    Raises ValueError when the split has no samples of the source, and when the table is missing, cut off, or another one.
    """
    if (source, split) not in corpus.splits:
        raise ValueError(f"{corpus.folder} has no samples of source {source!r} in split {split!r}")
    summary = corpus.splits[source, split]
    if summary.table != table_name(source, split):
        raise ValueError(f"{corpus.folder} calls its table {summary.table!r}; expected {table_name(source, split)!r}")
    path = _local_copy(corpus, summary, cache) if is_url(corpus.folder) else Path(corpus.folder, summary.table)
    try:
        table = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)  # what `numpy.load` does; opens nothing but .npy
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; copy it again, or start shard.py again with the same arguments") from error
    except (ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError) as error:  # the header is a Python literal
        raise ValueError(f"{path} is no whole table of samples: {error}; {_MEND}") from error
    key = table.dtype["key"] if table.dtype.names and "key" in table.dtype.names else np.dtype(np.int8)
    if table.dtype != record_dtype(key.itemsize) or table.shape != (summary.samples,):
        expected = f"{summary.samples} records of samples"
        raise ValueError(f"{path} holds {table.shape} of {table.dtype}; expected {expected}; {_MEND}")
    _expect_rows(table, corpus, source, split, path)
    return table


def _expect_rows(table: np.ndarray, corpus: Corpus, source: str, split: str, path: Path) -> None:
    """Raises ValueError when the first or last row of one of some shards cannot be what dataset.json describes."""
    summary, shards = corpus.splits[source, split], corpus.shards_of(source, split)
    counts = np.array([shard.samples for shard in shards], dtype=np.int64)
    if counts.sum() != summary.samples:
        raise ValueError(f"{corpus.folder}: the shards hold {counts.sum()} samples, {summary.table} {summary.samples}; {_MEND}")
    filled, ends = np.flatnonzero(counts), np.cumsum(counts)
    some = filled[np.unique(np.linspace(0, len(filled) - 1, _LOOKED_AT // 2).round().astype(int))]
    rows = np.concatenate([ends[some] - counts[some], ends[some] - 1])
    found = table[rows]
    numbers = np.concatenate([some, some])
    sizes = np.array([shards[number].bytes for number in numbers])[:, None]
    right = (
        (found["shard"] == numbers)
        & (found["frames"] >= summary.shortest)
        & (found["frames"] <= summary.longest)
        & np.char.startswith(found["key"], f"{source}-".encode())
        & (found["offsets"] >= 0).all(axis=1)
        & (found["sizes"] >= 0).all(axis=1)
        & (found["sizes"] <= sizes - found["offsets"]).all(axis=1)  # their sum might be beyond int64
    )
    if not right.all():
        wrong = rows[np.flatnonzero(~right)[0]]
        raise ValueError(f"{path} is not the table of this corpus: row {wrong} does not fit its shard; {_MEND}")


def _local_copy(corpus: Corpus, summary: SplitSummary, cache: Path | None) -> Path:
    """A whole copy of a table on this machine, made by the first process that asks for it while others wait."""
    folder = (cache or Path(tempfile.gettempdir(), f"agrifm-{os.getuid()}")) / corpus.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / summary.table

    def is_whole() -> bool:
        return path.is_file() and checksum_of(path) == summary.xxh3_128

    if is_whole():  # asked before waiting, so that ranks need not wait for each other's reading of a copy that is there
        return path
    with _only_one(path.with_suffix(".lock")):
        if is_whole():
            return path
        files, root = file_system(corpus.folder, None)
        with whole_file(path) as temporary:
            try:
                retried(partial(files.get_file, f"{root}/{summary.table}", str(temporary)), RETRIES)
            except FileNotFoundError as error:
                raise ValueError(f"{corpus.folder}/{summary.table} is missing; {_MEND}") from error
            if checksum_of(temporary) != summary.xxh3_128:
                raise ValueError(f"{corpus.folder}/{summary.table} has not the checksum that dataset.json states; {_MEND}")
    return path


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold a lock against other processes of this machine; the system frees it when a process dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
