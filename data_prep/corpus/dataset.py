"""A finished corpus as its readers see it: shards, their indexes, and `dataset.json` that describes the whole.

    corpus/
      plan.json, plan-*.parquet     what was to be written, frozen before a pixel was read
      rejected.jsonl                one line a rejected sample, with its reason
      <source>-<split>-000000.tar   plain WebDataset tar
      <source>-<split>-000000.json  its index: where each member lies in the tar, its size and sha256, counts and statistics
      <source>-<split>-000000.failed.jsonl  where samples could not be read: each with the traceback of its error
      <source>-<split>.samples.npy  where each sample lies, a record a sample (`data_prep/corpus/sample_index.py`)
      dataset.json                  written last

`data_prep/shard.py` writes it, `data_prep/verify.py` proves it, `pretrain/data/stream.py` reads it. Training opens dataset.json,
the tables and the tars it draws from, and no index: those of 25 million samples are 24 GB of JSON.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
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
RETRIES = 3  # of requests to an object store
_REQUESTS = 32  # at a time, where a folder's listing has no sizes


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's data lies in its shard: byte offset and size, and the sha256 of those bytes."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One sample: its key, shard, number of frames, members by name, legend and fine land-cover counts."""

    key: str
    shard: Path
    frames: int
    members: Mapping[str, Member]
    legend: str
    land_cover: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """One line of the table of shards. `path` is of the tar, or its URL; `bytes` and `xxh3_128` are of it; it holds `samples`."""

    path: str
    source: str
    split: str
    samples: int
    bytes: int
    xxh3_128: str

    @property
    def name(self) -> str:
        """The tar's file name."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def index(self) -> Path:
        """Its index, of a corpus on this machine."""
        return Path(self.path).with_suffix(".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """The samples of one source and split together.

    Attributes:
        table: file name of their table.
        xxh3_128: of the table's bytes.
        samples: how many they are.
        shortest, longest: least and largest number of frames.
        mean_shares: by legend the mean over its samples of the share of each fine code, float64 (codes,).
    """

    table: str
    xxh3_128: str
    samples: int
    shortest: int
    longest: int
    mean_shares: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What `dataset.json` says.

    Attributes:
        folder: path or URL of where the corpus lies.
        fingerprint: sha256 over all indexes; equal fingerprints mean equal pixels in equal order.
        sensors: by source name.
        shapes: (C, H, W) of a frame, by source name.
        mean, std: float64 (C,) in digital numbers over valid pixels of the training split, by source name.
        legends: by name.
        shards: in the order of their names within a source and split.
        splits: by (source, split), where there are samples.
        rejected: number of samples that were planned or looked at and not written.
        labels: of the sources whose samples hold a label for fine-tuning, by source name.
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
        """The shards of one source and split; the `shard` of their table is a place in this list."""
        return [shard for shard in self.shards if (shard.source, shard.split) == (source, split)]

    def samples(self, source: str, split: str) -> list[SampleEntry]:
        """Samples of one source and split in the order of shards and members, from the indexes of a corpus on this machine.

        They are read at each call and become Python objects: for pictures and tests, not for training.
        """
        if is_url(self.folder):
            raise ValueError(f"indexes are read on this machine only, and the corpus is at {self.folder}: copy it")
        indexes = (read_json(shard.index) for shard in self.shards_of(source, split))
        return [sample for index in indexes for sample in sample_entries(index, Path(self.folder))]


def sample_entries(index: Mapping[str, Any], folder: Path) -> list[SampleEntry]:
    """The samples of one shard's index, in the order of the tar."""
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
    """sha256 over the contents of all index files, in the order of the table of shards."""
    digest = hashlib.sha256()
    for content in indexes:
        digest.update(content)
    return digest.hexdigest()


def load_corpus(folder: str | Path) -> Corpus:
    """The corpus in `folder`, a path or any URL of fsspec; reads dataset.json and nothing else.

    Raises ValueError when dataset.json is missing, damaged, or of another version.
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
    values = json_object(content, path)
    if values.get("version") == 2:
        raise ValueError(
            f"{path} has version 2, without tables of samples; start shard.py again with the same arguments: its shards stay"
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
                (name, split): _split_summary(about)
                for name, source in sources.items()
                for split, about in source["splits"].items()
            },
            rejected=values["rejected"],
            labels={name: label_legend_from_dict(label) for name, label in values.get("labels", {}).items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a corpus: {type(error).__name__} {error}") from error


def _split_summary(values: Mapping[str, Any]) -> SplitSummary:
    """From the description of a split in dataset.json."""
    return SplitSummary(
        table=values["table"],
        xxh3_128=values["xxh3_128"],
        samples=values["samples"],
        shortest=values["frames"]["shortest"],
        longest=values["frames"]["longest"],
        mean_shares={name: np.array(shares) for name, shares in values["mean_shares"].items()},
    )


def check_shards(corpus: Corpus, split: str) -> None:
    """Raises ValueError unless all shards of a split are there, each as long as dataset.json says.

    One listing of the folder; from web servers, which list no sizes, a request a shard. No shard is opened.
    """
    shards = [shard for shard in corpus.shards if shard.split == split]
    files, root = file_system(corpus.folder, None)
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
    if "https" in files.protocol:
        names = [shard.name for shard in shards]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            sizes = dict(zip(names, pool.map(size, names), strict=True))
    else:
        sizes = retried(listing, RETRIES)
    wrong = [shard for shard in shards if sizes.get(shard.name) != shard.bytes]
    if wrong:
        found = sizes.get(wrong[0].name)
        state = "is missing" if found is None else f"has {found} of {wrong[0].bytes} bytes"
        raise ValueError(
            f"{len(wrong)} of {len(shards)} shards of split {split!r} are missing or of another size, first {wrong[0].path}, "
            f"which {state}; copy them again, or run data_prep/verify.py"
        )
