"""A finished corpus as its readers see it: `dataset.json`, the shards and their indexes.

    corpus/
      plan.json, plan-*.parquet     the plan, frozen before any pixel was read
      rejected.jsonl                one line per rejected sample, with the reason
      <source>-<split>-000000.tar   a shard, a plain WebDataset tar
      <source>-<split>-000000.json  its shard index: place and checksum of each member, counts and statistics
      <source>-<split>-000000.failed.jsonl  only where samples could not be read: one line each, with the traceback of the error
      <source>-<split>.samples.npy  the sample index, one record per sample (`data_prep/corpus/sample_index.py`)
      dataset.json                  written last

`data_prep/shard.py` writes a corpus, `data_prep/verify.py` checks it, `data_prep/add_maps.py` adds land-cover maps to one of an
earlier version, `pretrain/data/stream.py` reads it. Training opens dataset.json, the sample indexes and the tars that it draws
from. It opens no shard index: for 25 million samples these are 24 GB of JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.json_files import json_object
from common.retries import retried
from common.storage import AnyPath, any_path
from data_prep.archive.sensor import Sensor, sensor_from_dict
from data_prep.landcover.label_legend import LabelLegend, label_legend_from_dict
from data_prep.landcover.legend import Legend, legend_from_dict
from data_prep.landcover.sample_map import MapLayout, map_layout_from_dict
from data_prep.shards.shard_index import SampleEntry, read_index, sample_entries

DATASET_VERSION = 4
_READ_VERSIONS = (3, 4)  # 3: the fingerprint is the sha256 over the shard indexes
DATASET = "dataset.json"


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
    def index(self) -> AnyPath:
        """Path or URL of the shard index."""
        return any_path(self.path).with_suffix(".json")


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
        fingerprint: sha256 over the plan's hash and the checksums of all shards; equal ones mean equal pixels in equal order.
        sensors: by source name.
        shapes: (C, H, W) of a frame, by source name.
        mean, std: float64 (C,) in digital numbers over valid pixels of the training split, by source name.
        limits: float64 (2, C), the lowest and the highest digital number that normalisation lets through, by source name; only of
            sources that have limits.
        legends: by name.
        shards: in the order of their names within a source and split.
        splits: summaries by (source, split), where there are samples.
        rejected: number of samples that the plan or the writing of shards rejected.
        labels: legends of the labels for fine-tuning, by the names of the sources whose samples hold one.
        map_layouts: form of the samples' land-cover maps, by source name and legend; empty for a corpus without maps.
    """

    folder: str
    fingerprint: str
    sensors: dict[str, Sensor]
    shapes: dict[str, tuple[int, int, int]]
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    limits: dict[str, np.ndarray]
    legends: dict[str, Legend]
    shards: list[Shard]
    splits: dict[tuple[str, str], SplitSummary]
    rejected: int
    labels: dict[str, LabelLegend]
    map_layouts: dict[str, dict[str, MapLayout]]

    def has_maps(self, source: str) -> bool:
        """Return True when the samples of a source hold a land-cover map."""
        return source in self.map_layouts

    def normalization(self, source: str) -> dict[str, list[float]]:
        """Return how the bands of a source are normalised: `mean` and `std`, and `low` and `high` where there are limits."""
        limits = dict(zip(("low", "high"), self.limits[source].tolist(), strict=True)) if source in self.limits else {}
        return {"mean": self.mean[source].tolist(), "std": self.std[source].tolist()} | limits

    def shards_of(self, source: str, split: str) -> list[Shard]:
        """Return the shards of one source and split; `shard` in their sample index is a position in this list."""
        return [shard for shard in self.shards if (shard.source, shard.split) == (source, split)]

    def samples(self, source: str, split: str) -> list[SampleEntry]:
        """Read the samples of one source and split from the shard indexes, in the order of shards and members.

        Each call reads all indexes and makes one Python object per sample: for figures, fine-tuning and tests only.
        """
        indexes = (read_index(shard.index) for shard in self.shards_of(source, split))
        return [sample for index in indexes for sample in sample_entries(index, any_path(self.folder))]


def load_corpus(folder: str | AnyPath) -> Corpus:
    """Read dataset.json, and no other file, of the corpus in `folder`, a path or any URL of fsspec.

    Raises ValueError when dataset.json is missing, damaged or of another version.
    """
    place = any_path(folder) if isinstance(folder, str) else folder
    place = place.absolute() if isinstance(place, Path) else place
    path = place / DATASET
    try:
        content = retried(path.read_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"no {DATASET} in {place}: no finished corpus; `python data_prep/shard.py --output {place}` writes it"
        ) from error
    return _corpus(json_object(content, str(path)), str(place), str(path))


def check_has_maps(corpus: Corpus, sources: Iterable[str]) -> None:
    """Raise ValueError that names the command to run, when the samples of one of the `sources` hold no land-cover map."""
    missing = sorted(source for source in sources if not corpus.has_maps(source))
    if missing:
        raise ValueError(
            f"{corpus.folder} has no land-cover maps for the sources {missing}; add them without decoding pixels again: "
            f"`python data_prep/add_maps.py --input SCENES --corpus {corpus.folder} --output NEW`"
        )


def _corpus(values: Mapping[str, Any], folder: str, path: str) -> Corpus:
    """Return the corpus that the content of dataset.json describes; `path` is named in errors."""
    if values.get("version") == 2:
        raise ValueError(
            f"{path} has version 2, without sample indexes; start shard.py again with the same arguments: its shards stay"
        )
    if values.get("version") not in _READ_VERSIONS:
        raise ValueError(f"{path} has version {values.get('version')!r}; this code reads {DATASET_VERSION}: shard again")
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
            limits={
                name: np.array([source["normalization"][limit] for limit in ("low", "high")])
                for name, source in sources.items()
                if "low" in source["normalization"]
            },
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
            map_layouts={
                name: {legend: map_layout_from_dict(layout) for legend, layout in source["land_cover_maps"].items()}
                for name, source in sources.items()
                if "land_cover_maps" in source
            },
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
