"""The sample index: a table that says where each sample of one source and split lies in the shards.

`<source>-<split>.samples.npy` is a plain .npy of a structured dtype, one record per sample in the order of shards and members:

    key      fixed-width bytes (UTF-8), as wide as the longest key
    shard    int32, position of the shard in the list of the shards of this source and split in dataset.json
    frames   int32, number of dates
    offsets  6 x int64, byte offset in the tar of the data of each of `INDEXED_MEMBERS`
    sizes    6 x int64, their sizes in bytes

Without land-cover maps, as in a corpus of an earlier version, there are 5 of each.

The file is mapped into memory, so that opening it takes the same time for any length: a batch touches its own rows only, and all
processes of a machine share the pages. A sample index in an object store is copied to this machine once.
`data_prep/corpus/sample_index_writer.py` writes and checks sample indexes.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.storage import RemotePath, is_url
from data_prep.corpus.dataset import Corpus, SplitSummary

# Training does not read `json`. The map comes last, so that the members without it begin alike.
INDEXED_MEMBERS = ("pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "checksums.npy", "landcover_map.npy")
_CHECKED_ROWS = 32  # when a sample index is opened
_MEND = "copy it again, or run data_prep/verify.py"


def sample_index_name(source: str, split: str) -> str:
    """Return the file name of a sample index."""
    return f"{source}-{split}.samples.npy"


def indexed_members(has_maps: bool) -> tuple[str, ...]:
    """Return the members of each sample that a sample index locates."""
    return INDEXED_MEMBERS if has_maps else INDEXED_MEMBERS[:-1]


def record_dtype(key_bytes: int, has_maps: bool) -> np.dtype:
    """Return the dtype of a record whose key has at most `key_bytes` bytes, of samples with or without a land-cover map."""
    members = (len(indexed_members(has_maps)),)
    return np.dtype(
        [("key", f"S{key_bytes}"), ("shard", "<i4"), ("frames", "<i4"), ("offsets", "<i8", members), ("sizes", "<i8", members)]
    )


def open_sample_index(corpus: Corpus, source: str, split: str, cache: Path | None = None) -> np.ndarray:
    """Map the sample index of a source and split into memory: (N,) of `record_dtype`, read-only.

    The sample index of a corpus at a URL is copied into `cache` (default: a folder for temporary files), in which each corpus has
    a folder named by its fingerprint. The copy is compared with its checksum. In the folder of a corpus only some rows are
    checked, because reading gigabytes takes long; `data_prep/verify.py` checks all of them.

    Raises ValueError when the split has no samples of the source, and when the sample index is missing, cut off, or that of
    another corpus.
    """
    if (source, split) not in corpus.splits:
        raise ValueError(f"{corpus.folder} has no samples of source {source!r} in split {split!r}")
    summary = corpus.splits[source, split]
    name = sample_index_name(source, split)
    if summary.sample_index != name:
        raise ValueError(f"{corpus.folder} names its sample index {summary.sample_index!r}; expected {name!r}")
    path = _local_copy(corpus, summary, cache) if is_url(corpus.folder) else Path(corpus.folder, name)
    try:
        records = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)  # as `numpy.load`, but for .npy files only
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; copy it again, or start shard.py again with the same arguments") from error
    except (ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError) as error:  # the header is a Python literal
        raise ValueError(f"{path} is no whole sample index: {error}; {_MEND}") from error
    key = records.dtype["key"] if records.dtype.names and "key" in records.dtype.names else np.dtype(np.int8)
    if records.dtype != record_dtype(key.itemsize, corpus.has_maps(source)) or records.shape != (summary.samples,):
        expected = f"{summary.samples} records of samples"
        raise ValueError(f"{path} holds {records.shape} of {records.dtype}; expected {expected}; {_MEND}")
    _check_some_rows(records, corpus, source, split, path)
    return records


def _check_some_rows(records: np.ndarray, corpus: Corpus, source: str, split: str, path: Path) -> None:
    """Raise ValueError when the first or last row of some shards contradicts dataset.json."""
    summary, shards = corpus.splits[source, split], corpus.shards_of(source, split)
    counts = np.array([shard.samples for shard in shards], dtype=np.int64)
    if counts.sum() != summary.samples:
        raise ValueError(f"{corpus.folder}: the shards hold {counts.sum()} samples, {path.name} {summary.samples}; {_MEND}")
    filled, ends = np.flatnonzero(counts), np.cumsum(counts)
    some = filled[np.unique(np.linspace(0, len(filled) - 1, _CHECKED_ROWS // 2).round().astype(int))]
    rows = np.concatenate([ends[some] - counts[some], ends[some] - 1])
    found = records[rows]
    numbers = np.concatenate([some, some])
    sizes = np.array([shards[number].bytes for number in numbers])[:, None]
    right = (
        (found["shard"] == numbers)
        & (found["frames"] >= summary.shortest)
        & (found["frames"] <= summary.longest)
        & np.char.startswith(found["key"], f"{source}-".encode())
        & (found["offsets"] >= 0).all(axis=1)
        & (found["sizes"] >= 0).all(axis=1)
        & (found["sizes"] <= sizes - found["offsets"]).all(axis=1)  # a difference, because the sum of both may exceed int64
    )
    if not right.all():
        wrong = rows[np.flatnonzero(~right)[0]]
        raise ValueError(f"{path} is not the sample index of this corpus: row {wrong} does not fit its shard; {_MEND}")


def _local_copy(corpus: Corpus, summary: SplitSummary, cache: Path | None) -> Path:
    """Return the path of a copy of a sample index on this machine; the first process makes the copy while others wait."""
    folder = (cache or Path(tempfile.gettempdir(), f"agrifm-{os.getuid()}")) / corpus.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / summary.sample_index

    def is_whole() -> bool:
        return path.is_file() and checksum_of(path) == summary.xxh3_128

    if is_whole():  # checked before locking, so that ranks read an existing copy at the same time
        return path
    with _exclusive(path.with_suffix(".lock")):
        if is_whole():
            return path
        with whole_file(path) as temporary:
            try:
                RemotePath(f"{corpus.folder}/{summary.sample_index}").download(temporary)
            except FileNotFoundError as error:
                raise ValueError(f"{corpus.folder}/{summary.sample_index} is missing; {_MEND}") from error
            if checksum_of(temporary) != summary.xxh3_128:
                raise ValueError(f"{corpus.folder}/{summary.sample_index} has not the checksum that dataset.json states; {_MEND}")
    return path


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock against other processes of this machine; the system frees it when the process dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
