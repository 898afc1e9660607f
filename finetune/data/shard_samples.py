"""Fine-tuning data from shards whose samples hold a label beside the images (`data_prep/shard.py --label.SOURCE NAME`)."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from common.storage import is_url
from data_prep.archive.scene import Label
from data_prep.corpus.dataset import Corpus
from data_prep.shards.shard_index import Member, SampleEntry
from data_prep.shards.tar_format import LABEL
from finetune.task import Task


class ShardSamples:
    """The samples of one split of a corpus on this machine; `finetune/data/labelled_sample.py` says what an item holds.

    A sample in a shard has one source, so a task with several sources needs `missing_sources: allow`. Pixels are memory-mapped
    and read only when they are sliced; all other members are compared with their sha256. Raises ValueError if the corpus is not
    on this machine, lacks a label for a source of the task, or has no sample in the split.
    """

    def __init__(self, corpus: Corpus, split: str, task: Task) -> None:
        if is_url(corpus.folder):
            raise ValueError(f"the corpus is at {corpus.folder}; fine-tuning reads shards on this machine only: copy it")
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
        dates, codes, valid = (np.load(_verified(entry, name), allow_pickle=False) for name in ("dates.npy", LABEL, "valid.npy"))
        metadata = json.load(_verified(entry, "json"))
        legend = self._corpus.labels[source]
        label = Label(path=entry.shard / f"{entry.key}.{LABEL}", classes=legend.classes, nodata=legend.nodata)
        return {
            "file_name": entry.key,
            "scene": metadata["scene"],
            "pixel": math.hypot(metadata["transform"][0], metadata["transform"][3]),
            "data": {source: _mapped(entry.shard, entry.members["pixels.npy"])},
            "valid": {source: valid},
            "dates": {source: dates},
            "label": self._task.class_indices(codes, label),
        }


def _verified(entry: SampleEntry, name: str) -> io.BytesIO:
    """The bytes of a member. Raises ValueError if their sha256 differs from the one in the index."""
    member = entry.members[name]
    with entry.shard.open("rb") as shard:
        shard.seek(member.offset)
        content = shard.read(member.size)
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise ValueError(f"{entry.shard}: {entry.key}.{name} is not as it was written; run data_prep/verify.py")
    return io.BytesIO(content)


def _mapped(shard: Path, member: Member) -> np.ndarray:
    """The array of a .npy member, memory-mapped."""
    with shard.open("rb") as file:
        file.seek(member.offset)
        np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        assert not fortran_order, "shards hold arrays in C order"
        return np.memmap(shard, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
