"""Shards as data for fine-tuning: samples that hold a label beside their images (`data_prep/shard.py --label.SOURCE NAME`)."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from common.storage import is_url
from data_prep.archive.scene import Label
from data_prep.corpus.dataset import Corpus, Member, SampleEntry
from data_prep.shards.tar_format import LABEL
from finetune.task import Task


class ShardSamples:
    """The samples of one split of a corpus on this machine; see `finetune/data/samples.py` for what an item is.

    A sample of a shard is of one source, so a task of several takes them with `missing_sources: allow`. Pixels are mapped and
    read when they are sliced; all else is compared with its sha256. Raises ValueError when the corpus lies elsewhere, has no
    label for a source of the task, or no sample.
    """

    def __init__(self, corpus: Corpus, split: str, task: Task) -> None:
        if is_url(corpus.folder):
            raise ValueError(f"the corpus is at {corpus.folder}; fine-tuning reads shards on this machine only: copy it")
        here = [source for source in task.sources if (source, split) in corpus.splits]
        without = [source for source in here if source not in corpus.labels]
        if without:
            raise ValueError(
                f"{corpus.folder} has no label for {', '.join(without)}, as fine-tuning needs it; write shards with "
                f"`python data_prep/shard.py ... --label.{without[0]} {task.label}`, or give the scenes themselves as --data"
            )
        if not here:
            found = sorted({f"{source} ({name})" for source, name in corpus.splits})
            raise ValueError(f"{corpus.folder} has no {split} samples of {', '.join(task.sources)}; it has {', '.join(found)}")
        if len(task.sources) > 1 and task.missing_sources == "error":
            raise ValueError(
                f"a sample of a shard is of one source, and task {task.name} takes {', '.join(task.sources)}: choose one with "
                f"--sources [{here[0]}], or let each sample lack the others with --missing_sources allow"
            )
        self._corpus, self._task = corpus, task
        self._entries = [(source, entry) for source in here for entry in corpus.samples(source, split)]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, entry = self._entries[index]
        dates, codes, valid = (np.load(_checked(entry, name), allow_pickle=False) for name in ("dates.npy", LABEL, "valid.npy"))
        about = json.load(_checked(entry, "json"))
        named = self._corpus.labels[source]
        label = Label(path=entry.shard / f"{entry.key}.{LABEL}", classes=named.classes, nodata=named.nodata)
        return {
            "file_name": entry.key,
            "scene": about["scene"],
            "pixel": abs(about["transform"][0]),
            "data": {source: _mapped(entry.shard, entry.members["pixels.npy"])},
            "valid": {source: valid},
            "dates": {source: dates},
            "label": self._task.class_indices(codes, label),
        }


def _checked(entry: SampleEntry, name: str) -> io.BytesIO:
    """A member's bytes. Raises ValueError when they are not as they were written."""
    place = entry.members[name]
    with entry.shard.open("rb") as shard:
        shard.seek(place.offset)
        content = shard.read(place.size)
    if hashlib.sha256(content).hexdigest() != place.sha256:
        raise ValueError(f"{entry.shard}: {entry.key}.{name} is not as it was written; run data_prep/verify.py")
    return io.BytesIO(content)


def _mapped(shard: Path, place: Member) -> np.ndarray:
    """A .npy member, mapped into memory."""
    with shard.open("rb") as file:
        file.seek(place.offset)
        np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        assert not fortran_order, "shards hold arrays in C order"
        return np.memmap(shard, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
