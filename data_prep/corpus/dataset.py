"""A finished corpus as its readers see it: `dataset.json`, the shards and their indexes.

    corpus/
      plan.json, plan-*.parquet     the plan, frozen before any pixel was read
      rejected.jsonl                one line per rejected sample, with the reason
      <source>-<split>-000000.tar   a shard, a plain WebDataset tar
      <source>-<split>-000000.json  its shard index: offset, size and sha256 of each member, counts and statistics
      <source>-<split>-000000.failed.jsonl  only where samples could not be read: one line each, with the traceback of the error
      <source>-<split>.samples.npy  the sample index, one record per sample (`data_prep/corpus/sample_index.py`)
      dataset.json                  written last

`data_prep/shard.py` writes a corpus, `data_prep/verify.py` checks it, `pretrain/data/stream.py` reads it. Training opens
dataset.json, the sample indexes and the tars that it draws from. It opens no shard index: for 25 million samples these are 24 GB
of JSON.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from common.json_files import json_object, read_json
from common.retries import retried
from common.storage import file_system, is_url
from data_prep.archive.sensor import Sensor, sensor_from_dict
from data_prep.landcover.label_legend import LabelLegend, label_legend_from_dict
from data_prep.landcover.legend import Legend, legend_from_dict

DATASET_VERSION = 3
DATASET = "dataset.json"
RETRIES = 3  # retries of a request to an object store
_REQUESTS = 32  # requests at a time, where a folder's listing has no sizes


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a shard: byte offset and size of its data in the tar, and their sha256."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """A sample in a shard index: its key, tar, number of frames, members by name, legend and fine land-cover counts."""

    key: str
    shard: Path
    frames: int
    members: Mapping[str, Member]
    legend: str
    land_cover: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard.

    Attributes:
        path: path or URL of the tar.
        source, split: of all its samples.
        samples: number of samples.
        bytes, xxh3_128: size and checksum of the tar.
    """

    path: str
    source: str
    split: str
    samples: int
    bytes: int
    xxh3_128: str

    @property
    def name(self) -> str:
        """File name of the tar."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def index(self) -> Path:
        """Path of the shard index, for a corpus on this machine."""
        return Path(self.path).with_suffix(".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """The samples of one source and split together.

    Attributes:
        sample_index: file name of their sample index.
        xxh3_128: checksum of the sample index.
        samples: number of samples.
        shortest, longest: least and largest number of frames.
        mean_shares: mean share of each fine land-cover code over the samples, float64 (codes,), by legend.
    """

    sample_index: str
    xxh3_128: str
    samples: int
    shortest: int
    longest: int
    mean_shares: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The content of `dataset.json`.

    Attributes:
        folder: path or URL of the corpus.
        fingerprint: sha256 over all shard indexes; equal fingerprints mean equal pixels in equal order.
        sensors: by source name.
        shapes: (C, H, W) of a frame, by source name.
        mean, std: float64 (C,) in digital numbers over valid pixels of the training split, by source name.
        legends: by name.
        shards: in the order of their names within a source and split.
        splits: summaries by (source, split), where there are samples.
        rejected: number of samples that the plan or the writing of shards rejected.
        labels: legends of the labels for fine-tuning, by the names of the sources whose samples hold one.
    """

    folder: str
    fingerprint: str
    sensors: dict[str, Sensor]
    shapes: dict[str, tuple[int, int, int]]
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    legends: dict[str, Legend]
    shards: list[Shard]
    splits: dict[tuple[str, str], SplitSummary]
    rejected: int
    labels: dict[str, LabelLegend]

    def shards_of(self, source: str, split: str) -> list[Shard]:
        """Return the shards of one source and split; `shard` in their sample index is a position in this list."""
        return [shard for shard in self.shards if (shard.source, shard.split) == (source, split)]

    def samples(self, source: str, split: str) -> list[SampleEntry]:
        """Read the samples of one source and split from the shard indexes, in the order of shards and members.

        Each call reads all indexes and makes one Python object per sample: for figures and tests, not for training. Raises
        ValueError for a corpus at a URL.
        """
        if is_url(self.folder):
            raise ValueError(f"indexes are read on this machine only, and the corpus is at {self.folder}: copy it")
        indexes = (read_json(shard.index) for shard in self.shards_of(source, split))
        return [sample for index in indexes for sample in sample_entries(index, Path(self.folder))]


def sample_entries(index: Mapping[str, Any], folder: Path) -> list[SampleEntry]:
    """Return the samples of one shard index in the order of the tar."""
    shard = folder / index["shard"]
    return [
        SampleEntry(
            key=sample["key"],
            shard=shard,
            frames=sample["frames"],
            members={name: Member(**member) for name, member in sample["members"].items()},
            legend=sample["legend"],
            land_cover=tuple(sample["land_cover"]),
        )
        for sample in index["samples"]
    ]


def corpus_fingerprint(indexes: Iterable[bytes]) -> str:
    """Return the sha256 over the contents of all shard indexes in the order of shards."""
    digest = hashlib.sha256()
    for content in indexes:
        digest.update(content)
    return digest.hexdigest()


def load_corpus(folder: str | Path) -> Corpus:
    """Read dataset.json, and no other file, of the corpus in `folder`, a path or any URL of fsspec.

    Raises ValueError when dataset.json is missing, damaged or of another version.
    """
    files, root = file_system(str(folder), None)
    folder = root if isinstance(files, LocalFileSystem) else str(folder).rstrip("/")
    path = f"{folder}/{DATASET}"
    try:
        content = retried(partial(files.cat_file, f"{root.rstrip('/')}/{DATASET}"), RETRIES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"no {DATASET} in {folder}: no finished corpus; `python data_prep/shard.py --output {folder}` writes it"
        ) from error
    return _corpus(json_object(content, path), folder, path)


def _corpus(values: Mapping[str, Any], folder: str, path: str) -> Corpus:
    """Return the corpus that the content of dataset.json describes; `path` is named in errors."""
    if values.get("version") == 2:
        raise ValueError(
            f"{path} has version 2, without sample indexes; start shard.py again with the same arguments: its shards stay"
        )
    if values.get("version") != DATASET_VERSION:
        raise ValueError(f"{path} has version {values.get('version')!r}; this code reads version {DATASET_VERSION}: shard again")
    try:
        sources, fingerprint = values["sources"], values["fingerprint"]
        if not re.fullmatch("[0-9a-f]{64}", fingerprint):
            raise ValueError(f"{path} states the fingerprint {fingerprint!r}; expected a sha256 in hexadecimal")
        return Corpus(
            folder=folder,
            fingerprint=fingerprint,
            sensors={name: sensor_from_dict(source["sensor"], path) for name, source in sources.items()},
            shapes={name: tuple(source["shape"]) for name, source in sources.items()},
            mean={name: np.array(source["normalization"]["mean"]) for name, source in sources.items()},
            std={name: np.array(source["normalization"]["std"]) for name, source in sources.items()},
            legends={name: legend_from_dict(legend) for name, legend in values["legends"].items()},
            shards=[
                Shard(f"{folder}/{s['shard']}", s["source"], s["split"], s["samples"], s["bytes"], s["xxh3_128"])
                for s in values["shards"]
            ],
            splits={
                (name, split): _split_summary(summary)
                for name, source in sources.items()
                for split, summary in source["splits"].items()
            },
            rejected=values["rejected"],
            labels={name: label_legend_from_dict(label) for name, label in values.get("labels", {}).items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a corpus: {type(error).__name__} {error}") from error


def _split_summary(values: Mapping[str, Any]) -> SplitSummary:
    """Read the entry of a split in dataset.json."""
    return SplitSummary(
        sample_index=values["table"],
        xxh3_128=values["xxh3_128"],
        samples=values["samples"],
        shortest=values["frames"]["shortest"],
        longest=values["frames"]["longest"],
        mean_shares={name: np.array(shares) for name, shares in values["mean_shares"].items()},
    )


def check_shards(corpus: Corpus, split: str) -> None:
    """Raise ValueError when shards of a split are missing or have another size than dataset.json states.

    Lists the folder once; a web server, which lists no sizes, gets one request per shard. No shard is opened.
    """
    shards = [shard for shard in corpus.shards if shard.split == split]
    sizes = _sizes(corpus.folder, [shard.name for shard in shards])
    wrong = [shard for shard in shards if sizes.get(shard.name) != shard.bytes]
    if wrong:
        found = sizes.get(wrong[0].name)
        state = "is missing" if found is None else f"has {found} of {wrong[0].bytes} bytes"
        raise ValueError(
            f"{len(wrong)} of {len(shards)} shards of split {split!r} are missing or of another size, first {wrong[0].path}, "
            f"which {state}; copy them again, or run data_prep/verify.py"
        )


def _sizes(folder: str, names: Sequence[str]) -> dict[str, int | None]:
    """Return the bytes of at least the files `names` in a folder; missing files are left out or None."""
    files, root = file_system(folder, None)
    root = root.rstrip("/")

    def listing() -> dict[str, int | None]:
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in files.ls(root or "/", detail=True)}

    def size(name: str) -> int | None:
        try:
            found: int | None = retried(partial(files.size, f"{root}/{name}"), RETRIES)
        except FileNotFoundError:
            return None
        return found

    files.invalidate_cache()
    if "https" not in files.protocol:
        return retried(listing, RETRIES)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(names, pool.map(size, names), strict=True))
