"""Fine-tuning data from shards whose samples hold a label beside the images (`data_prep/shard.py --label.SOURCE NAME`)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.storage import AnyPath, RemotePath, read_range
from data_prep.archive.label import Label
from data_prep.corpus.dataset import Corpus
from data_prep.shards.shard_index import Member, SampleEntry
from data_prep.shards.tar_format import LABEL
from finetune.task import Task


class ShardSamples:
    """The samples of one split of a corpus; `finetune/data/labelled_sample.py` says what an item holds.

    A sample in a shard has one source, so a task with several sources needs `missing_sources: allow`. Pixels are memory-mapped
    and read only when they are sliced; all other members are compared with their checksums. Of a corpus at a URL, all of a sample
    is fetched and compared. Raises ValueError if the corpus lacks a label for a source of the task, or has no sample in the
    split, and for a season over New Year, since a sample holds the images of a calendar year.
    """

    def __init__(self, corpus: Corpus, split: str, task: Task) -> None:
        if task.begins_in_year_before() is not None:
            raise ValueError(
                f"a sample of a shard holds the images of a calendar year, and the season of task {task.name}, "
                f"{' to '.join(task.season)}, begins in the year before: give the scenes themselves as --data, or another season "
                "with --override.season"
            )
        present = [source for source in task.sources if (source, split) in corpus.splits]
        unlabelled = [source for source in present if source not in corpus.labels]
        if unlabelled:
            raise ValueError(
                f"{corpus.folder} has no label for {', '.join(unlabelled)}, as fine-tuning needs it; write shards with "
                f"`python data_prep/shard.py ... --label.{unlabelled[0]} {task.label}`, or give the scenes themselves as --data"
            )
        if not present:
            found = sorted({f"{source} ({name})" for source, name in corpus.splits})
            raise ValueError(f"{corpus.folder} has no {split} samples of {', '.join(task.sources)}; it has {', '.join(found)}")
        if len(task.sources) > 1 and task.missing_sources == "error":
            raise ValueError(
                f"a sample of a shard is of one source, and task {task.name} takes {', '.join(task.sources)}: choose one with "
                f"--override.sources [{present[0]}], or let each sample lack the others with --missing_sources allow"
            )
        self._corpus, self._task = corpus, task
        self._entries = [(source, entry) for source in present for entry in corpus.samples(source, split)]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, entry = self._entries[index]
        names = ["dates.npy", LABEL, "valid.npy", "json"]
        if isinstance(entry.shard, Path):
            members = {name: _verified(entry, name, _content(entry.shard, entry.members[name])) for name in names}
            pixels = _mapped(entry.shard, entry.members["pixels.npy"])
        else:
            members = _fetched(entry.shard, entry, [*names, "pixels.npy"])
            pixels = np.load(members["pixels.npy"], allow_pickle=False)
        dates, codes, valid = (np.load(members[name], allow_pickle=False) for name in names[:3])
        metadata = json.load(members["json"])
        label = label_of_corpus(self._corpus, source, entry.shard / f"{entry.key}.{LABEL}")
        return {
            "file_name": entry.key,
            "scene": metadata["scene"],
            "pixel": math.hypot(metadata["transform"][0], metadata["transform"][3]),
            "data": {source: pixels},
            "valid": {source: valid},
            "dates": {source: dates},
            "year": metadata["year"],
            "label": self._task.class_indices(codes, label),
        }


def label_of_corpus(corpus: Corpus, source: str, path: AnyPath) -> Label:
    """What the codes in labels of a source mean; `path` is for messages."""
    legend = corpus.labels[source]
    return Label(path=path, classes=legend.classes, nodata=legend.nodata)


def _content(shard: AnyPath, member: Member) -> bytes:
    return read_range(shard, member.offset, member.offset + member.size)


def _verified(entry: SampleEntry, name: str, content: bytes) -> io.BytesIO:
    """The bytes of a member. Raises ValueError if their checksum differs from the one in the index."""
    if not entry.members[name].holds(content):
        raise ValueError(f"{entry.shard}: {entry.key}.{name} is not as it was written; run data_prep/verify.py")
    return io.BytesIO(content)


def _fetched(shard: RemotePath, entry: SampleEntry, names: Sequence[str]) -> dict[str, io.BytesIO]:
    """The bytes of some members, fetched by one request: the members of a sample lie together."""
    members = [entry.members[name] for name in names]
    first, last = min(member.offset for member in members), max(member.offset + member.size for member in members)
    content = shard.read_range(first, last)
    parts = (content[member.offset - first :][: member.size] for member in members)
    return {name: _verified(entry, name, part) for name, part in zip(names, parts, strict=True)}


def _mapped(shard: Path, member: Member) -> np.ndarray:
    """The array of a .npy member, memory-mapped."""
    with shard.open("rb") as file:
        file.seek(member.offset)
        np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        assert not fortran_order, "shards hold arrays in C order"
        return np.memmap(shard, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
