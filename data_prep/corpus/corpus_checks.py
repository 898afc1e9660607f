"""Checks of a whole corpus: reads every shard, and compares plan, shards, sample indexes, rejected.jsonl and dataset.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryFile

import numpy as np

from common.checksums import checksum_of
from common.executors import MapJobs
from common.json_files import json_bytes, read_json
from common.progress import PROGRESS
from common.storage import AnyPath, listed
from data_prep.corpus.dataset import DATASET, DATASET_VERSION
from data_prep.corpus.dataset_json import dataset_json
from data_prep.corpus.rejected import REJECTED, rejected_lines
from data_prep.corpus.sample_index import sample_index_name
from data_prep.corpus.sample_index_checks import sample_index_faults
from data_prep.corpus.sample_index_writer import sample_index_layouts
from data_prep.corpus.shard_checks import Fault, check_shards
from data_prep.corpus.shard_contents import CorpusContents
from data_prep.plan.plan import PLAN, Plan, load_plan
from data_prep.shards.shard_index import read_index
from data_prep.shards.tar_format import FAILED


def corpus_faults(folder: AnyPath, map_jobs: MapJobs) -> list[Fault]:
    """Return all faults of the corpus in `folder`. Raises ValueError when there is no corpus at all."""
    if not (folder / PLAN).is_file() and not (folder / DATASET).is_file():
        raise ValueError(f"{folder} holds no corpus: neither {PLAN} nor {DATASET}; `python data_prep/shard.py` writes one")
    try:
        plan = load_plan(folder)
    except ValueError as error:
        return [Fault(PLAN, "", str(error))]
    if (folder / DATASET).is_file():
        try:
            written = read_json(folder / DATASET).get("plan")
        except ValueError as error:
            return [Fault(DATASET, "", str(error))]
        if written != plan.hash:
            return [Fault(PLAN, "", f"is not the plan that {DATASET} was written from; one of the two is damaged")]
    damaged = plan.damaged_tables()
    if damaged:
        return [Fault(name, "", "is missing, or is not the table that the plan was written with") for name in damaged]
    with TemporaryFile() as file:
        contents = CorpusContents(file)
        faults: list[Fault] = []
        keys: dict[str, np.ndarray] = {}
        for checked in check_shards(plan, map_jobs, contents):
            faults += checked.faults
            keys |= checked.keys
        are_sound = not faults
        order = {name: number for number, name in enumerate(plan.names)}
        faults.sort(key=lambda fault: order[fault.file.split(".")[0]])
        faults += _unplanned_files(folder, plan)
        for key, shard, other in repeated_keys(folder, plan, [keys[name] for name in plan.names]):
            faults.append(Fault(f"{other}.tar", key, f"is in {shard}.tar already"))
        return faults + list(_summary_faults(folder, plan, contents if are_sound else None))


def repeated_keys(folder: AnyPath, plan: Plan, hashes: Sequence[np.ndarray]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, shard, other shard) of samples that occur twice, given the `key_hashes` of each shard of the plan.

    Where hashes are equal, the keys themselves are read from the shard indexes and compared.
    """
    ordered = np.concatenate([*hashes, np.empty(0, np.uint64)])
    ordered.sort()
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(suspects):
        return
    seen: dict[str, str] = {}
    for name, of_shard in zip(plan.names, hashes, strict=True):
        if not np.isin(of_shard, suspects).any():
            continue
        keys = read_index(folder / f"{name}.json")["samples"]["key"]
        for key, suspected in zip(keys, np.isin(of_shard, suspects), strict=True):
            if suspected and seen.setdefault(key, name) != name:
                yield key, seen[key], name


def _unplanned_files(folder: AnyPath, plan: Plan) -> Iterator[Fault]:
    planned = {f"{name}{suffix}" for name in plan.names for suffix in (".tar", ".json", FAILED)}
    planned |= {PLAN, DATASET, REJECTED, PROGRESS}
    planned |= {sample_index_name(group.source, group.split) for group in plan.groups}
    for path in listed(folder, "*"):
        if path.suffix in (".tar", ".json", ".jsonl", ".npy") and path.name not in planned:
            yield Fault(path.name, "", "is not in the plan")


def _summary_faults(folder: AnyPath, plan: Plan, contents: CorpusContents | None) -> Iterator[Fault]:
    """Check dataset.json, sample indexes and rejected.jsonl, which can be compared only when all shards are sound.

    `contents`: of all shards; None when a shard has faults.
    """
    if not (folder / DATASET).is_file():
        yield Fault(DATASET, "", "is missing: the corpus is unfinished; start shard.py again with the same arguments")
    elif contents is not None:
        yield from _dataset_faults(folder, plan, contents)
    if contents is not None:
        path = folder / REJECTED
        if not path.is_file():
            yield Fault(REJECTED, "", "is missing")
        elif not _consists_of(path, rejected_lines(plan, contents)):
            yield Fault(REJECTED, "", "does not fit the plan and the indexes")


def _dataset_faults(folder: AnyPath, plan: Plan, contents: CorpusContents) -> Iterator[Fault]:
    """Check the sample indexes, then dataset.json, of sound shards."""
    found = read_json(folder / DATASET)
    if found.get("version") != DATASET_VERSION:
        what = f"is {found.get('version')!r}, expected {DATASET_VERSION}: start shard.py again with the same arguments"
        yield Fault(DATASET, "version", what)
        return
    damaged = list(sample_index_faults(folder, contents))
    yield from damaged
    if damaged:
        return
    layouts = sample_index_layouts(contents.groups).values()
    expected = dataset_json(plan, contents, {layout.name: checksum_of(folder / layout.name) for layout in layouts})
    for key in sorted(set(expected) | set(found)):
        if json_bytes({key: found.get(key)}) != json_bytes({key: expected.get(key)}):
            yield Fault(DATASET, key, "does not fit the shards and their indexes")


def _consists_of(path: AnyPath, parts: Iterable[bytes]) -> bool:
    """Return True when a file consists of these parts."""
    with path.open("rb") as file:
        return all(file.read(len(part)) == part for part in parts) and not file.read(1)
