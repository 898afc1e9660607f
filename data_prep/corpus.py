"""A finished corpus as its readers see it: shards, their indexes, and `dataset.json` that describes the whole.

    corpus/
      plan.json, plan-*.parquet     what was to be written, frozen before a pixel was read
      rejected.jsonl                one line a rejected sample, with its reason
      <source>-<split>-000000.tar   plain WebDataset tar
      <source>-<split>-000000.json  its index: where each member lies in the tar, its size and sha256, counts and statistics
      <source>-<split>-000000.failed.jsonl  where samples could not be read: each with the traceback of its error
      dataset.json                  written last

`data_prep/shard.py` writes it, `data_prep/verify.py` proves it, `pretrain/stream.py` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.landcover import Legend, legend_from_dict
from data_prep.sensors import Sensor, sensor_from_dict

VERSION = 2
DATASET = "dataset.json"
FAILED = ".failed.jsonl"  # suffix after a shard's name
MEMBERS = ("checksums.npy", "dates.npy", "json", "landcover.npy", "pixels.npy", "valid.npy")  # as they lie in a tar


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
    """One line of the table of shards. `bytes` and `xxh3_128` are of the tar, `samples` is how many it holds."""

    path: Path
    source: str
    split: str
    samples: int
    bytes: int
    xxh3_128: str

    @property
    def index(self) -> Path:
        return self.path.with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What `dataset.json` says.

    Attributes:
        folder: where the corpus lies.
        fingerprint: sha256 over all indexes; equal fingerprints mean equal pixels in equal order.
        sensors: by source name.
        shapes: (C, H, W) of a frame, by source name.
        mean, std: float64 (C,) in digital numbers over valid pixels of the training split, by source name.
        legends: by name.
        shards: in the order of their names within a source and split.
        rejected: number of samples that were planned or looked at and not written.
    """

    folder: Path
    fingerprint: str
    sensors: dict[str, Sensor]
    shapes: dict[str, tuple[int, int, int]]
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    legends: dict[str, Legend]
    shards: list[Shard]
    rejected: int

    def samples(self, source: str, split: str) -> list[SampleEntry]:
        """Samples of one source and split in the order of shards and members; read from the indexes at each call."""
        shards = [shard for shard in self.shards if (shard.source, shard.split) == (source, split)]
        return [sample for shard in shards for sample in sample_entries(read_json(shard.index), self.folder)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError that names the file when it is missing or no JSON object."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); it is damaged or was not written by shard.py") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected a JSON object")
    return values


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


def load_corpus(folder: Path) -> Corpus:
    """The corpus in `folder`.

    Raises ValueError when dataset.json is missing, is of another version, or does not fit the indexes beside it.
    """
    path = folder / DATASET
    if not path.is_file():
        raise ValueError(f"no {DATASET} in {folder}: no finished corpus; `python data_prep/shard.py --output {folder}` writes it")
    values = read_json(path)
    if values.get("version") != VERSION:
        raise ValueError(f"{path} has version {values.get('version')!r}; this code reads version {VERSION}: shard again")
    try:
        sources = values["sources"]
        corpus = Corpus(
            folder=folder,
            fingerprint=values["fingerprint"],
            sensors={name: sensor_from_dict(source["sensor"], str(path)) for name, source in sources.items()},
            shapes={name: tuple(source["shape"]) for name, source in sources.items()},
            mean={name: np.array(source["normalization"]["mean"]) for name, source in sources.items()},
            std={name: np.array(source["normalization"]["std"]) for name, source in sources.items()},
            legends={name: legend_from_dict(legend) for name, legend in values["legends"].items()},
            shards=[
                Shard(folder / s["shard"], s["source"], s["split"], s["samples"], s["bytes"], s["xxh3_128"])
                for s in values["shards"]
            ],
            rejected=values["rejected"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a corpus: {type(error).__name__} {error}") from error
    missing = [shard.index.name for shard in corpus.shards if not shard.index.is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} of {len(corpus.shards)} indexes, first {missing[0]}: shard again")
    if corpus_fingerprint(shard.index.read_bytes() for shard in corpus.shards) != corpus.fingerprint:
        raise ValueError(f"the indexes in {folder} are not those of {DATASET}; `python data_prep/verify.py {folder}` says which")
    return corpus
