"""Command: is every byte of a corpus as it was written? Exit code 0, or 1 and what is wrong where, or 2 for no corpus.

python data_prep/verify.py corpus/ [--workers N]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import xxhash

from common.checksums import checksum_of
from common.command_line import run_command
from common.executors import MapJobs, open_executor
from common.json_files import json_bytes, read_json
from common.progress import PROGRESS, Progress
from data_prep.corpus.dataset import DATASET, DATASET_VERSION
from data_prep.corpus.description import REJECTED, ShardSummary, describe, rejected_lines, summarise
from data_prep.corpus.sample_index import table_name
from data_prep.corpus.sample_index_writer import table_faults, table_layouts
from data_prep.corpus.shard_checks import Fault, shard_faults
from data_prep.plan.plan import PLAN, Plan, load_plan
from data_prep.shards.tar_format import FAILED
from data_prep.shards.writing import load_plan as cached_plan


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What reading a whole shard gave.

    Attributes:
        faults: what is wrong with it.
        summary: its index in short, or None when it has faults.
        keys: XXH3 of the key of each of its samples, uint64.
    """

    faults: list[Fault]
    summary: ShardSummary | None
    keys: np.ndarray


def verify(corpus: Path, workers: int = 1) -> int:
    """Read a whole corpus and compare it with its plan, its indexes and its description.

    Args:
        corpus: folder that `data_prep/shard.py` wrote.
        workers: processes that read at the same time.
    """
    with open_executor("local", workers) as map_jobs:
        faults = find_faults(corpus, map_jobs)
    for fault in faults:
        print(fault)
    if faults:
        files = len({fault.file for fault in faults})
        print(f"{corpus}: {len(faults)} faults in {files} files")
        return 1
    values = read_json(corpus / DATASET)
    size = sum(shard["bytes"] for shard in values["shards"]) / 1e6
    print(f"{corpus}: {len(values['shards'])} shards, {size:.1f} MB, every byte as written; fingerprint {values['fingerprint']}")
    return 0


def find_faults(folder: Path, map_jobs: MapJobs) -> list[Fault]:
    """All faults of the corpus in `folder`. Raises ValueError when there is no corpus at all."""
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
    verified = verify_shards(folder, plan, map_jobs)
    faults = [fault for shard in verified for fault in shard.faults]
    return faults + list(_corpus_faults(folder, plan, verified, map_jobs))


def verify_shards(folder: Path, plan: Plan, map_jobs: MapJobs, log: Path | None = None) -> list[Verified]:
    """What reading each shard gives, in the order of the plan. `log` gets the progress as JSON lines."""
    numbers = range(plan.num_shards)
    found: dict[int, Verified] = {}
    with Progress("verify", total=len(numbers), log=log) as progress:
        for number, verified in map_jobs(partial(verify_shard, folder), numbers):
            found[number] = verified
            progress.add(verified.summary.bytes if verified.summary is not None else 0)
    return [found[number] for number in numbers]


def verify_shard(folder: Path, shard_id: int) -> Verified:
    """Read one shard of the plan in `folder`."""
    plan = cached_plan(folder)
    shard = plan.shard(shard_id)
    tar_path, index_path = folder / f"{shard.name}.tar", folder / f"{shard.name}.json"
    faults = [Fault(path.name, "", "is missing") for path in (tar_path, index_path) if not path.is_file()]
    if not faults:
        try:
            index = read_json(index_path)
            faults = shard_faults(plan, shard, tar_path, index)
        except ValueError as error:
            faults = [Fault(index_path.name, "", str(error))]
    if faults:
        return Verified(faults=faults, summary=None, keys=np.empty(0, np.uint64))
    return Verified(faults=[], summary=summarise(index), keys=key_hashes(sample["key"] for sample in index["samples"]))


def key_hashes(keys: Iterable[str]) -> np.ndarray:
    """XXH3 of each key, uint64: 8 bytes stand for a key, so that those of a whole corpus fit in memory."""
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64)


def repeated_keys(folder: Path, plan: Plan, hashes: Sequence[np.ndarray]) -> Iterator[tuple[str, str, str]]:
    """(key, shard, other shard) of samples that occur twice, given the `key_hashes` of each shard of the plan.

    Equal hashes are suspects; the keys themselves, read from the indexes of those shards, decide.
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
        for sample, suspected in zip(read_json(folder / f"{name}.json")["samples"], np.isin(of_shard, suspects), strict=True):
            if suspected and seen.setdefault(sample["key"], name) != name:
                yield sample["key"], seen[sample["key"]], name


def _corpus_faults(folder: Path, plan: Plan, verified: Sequence[Verified], map_jobs: MapJobs) -> Iterator[Fault]:
    """What concerns more than one shard; the description is not looked at when a shard has faults of its own."""
    planned = {f"{name}{suffix}" for name in plan.names for suffix in (".tar", ".json", FAILED)}
    planned |= {PLAN, DATASET, REJECTED, PROGRESS}
    planned |= {table_name(group.source, group.split) for group in plan.groups}
    for path in sorted(path for suffix in ("tar", "json", "jsonl", "npy") for path in folder.glob(f"*.{suffix}")):
        if path.name not in planned:
            yield Fault(path.name, "", "is not in the plan")
    for key, shard, other in repeated_keys(folder, plan, [shard.keys for shard in verified]):
        yield Fault(f"{other}.tar", key, f"is in {shard}.tar already")
    summaries = [shard.summary for shard in verified if shard.summary is not None]
    sound = len(summaries) == len(verified)
    if not (folder / DATASET).is_file():
        yield Fault(DATASET, "", "is missing: the corpus is unfinished; start shard.py again with the same arguments")
    elif sound:
        yield from _description_faults(folder, plan, summaries, map_jobs)
    if sound:
        path = folder / REJECTED
        if not path.is_file():
            yield Fault(REJECTED, "", "is missing")
        elif not _holds(path, rejected_lines(plan, folder, summaries)):
            yield Fault(REJECTED, "", "does not fit the plan and the indexes")


def _description_faults(folder: Path, plan: Plan, summaries: Sequence[ShardSummary], map_jobs: MapJobs) -> Iterator[Fault]:
    """What is wrong with dataset.json and with the tables of samples, given sound shards."""
    found = read_json(folder / DATASET)
    if found.get("version") != DATASET_VERSION:
        what = f"is {found.get('version')!r}, expected {DATASET_VERSION}: start shard.py again with the same arguments"
        yield Fault(DATASET, "version", what)
        return
    damaged = list(table_faults(folder, summaries, map_jobs))
    yield from damaged
    if damaged:
        return
    tables = {layout.name: checksum_of(folder / layout.name) for layout in table_layouts(summaries)}
    expected = describe(plan, folder, summaries, tables)
    for key in sorted(set(expected) | set(found)):
        if json_bytes({key: found.get(key)}) != json_bytes({key: expected.get(key)}):
            yield Fault(DATASET, key, "does not fit the shards and their indexes")


def _holds(path: Path, lines: Iterable[bytes]) -> bool:
    """True when the file consists of these lines."""
    with path.open("rb") as file:
        return all(found == line for found, line in zip_longest(file, lines))


if __name__ == "__main__":
    run_command(verify, positional=True)
