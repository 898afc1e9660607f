"""Command: is every byte of a corpus as it was written? Exit code 0, or 1 and what is wrong where, or 2 for no corpus.

python data_prep/verify.py corpus/ [--workers N]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.command import run_command
from data_prep.corpus import DATASET, read_json
from data_prep.description import REJECTED, describe, rejected_lines
from data_prep.durable import json_bytes
from data_prep.engines import map_local
from data_prep.faults import Fault, shard_faults
from data_prep.plan import PLAN, Plan, load_plan
from data_prep.shards import load_plan as cached_plan


def verify(corpus: Path, workers: int = 1) -> int:
    """Read a whole corpus and compare it with its plan, its indexes and its description.

    Args:
        corpus: folder that `data_prep/shard.py` wrote.
        workers: processes that read at the same time.
    """
    faults = find_faults(corpus, workers)
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


def find_faults(folder: Path, workers: int = 1) -> list[Fault]:
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
    faults = [fault for number in verify_shards(folder, plan, workers) for fault in number]
    indexes = [read_json(path) for path in index_paths(folder, plan)] if not faults else []
    return faults + list(_corpus_faults(folder, plan, indexes))


def index_paths(folder: Path, plan: Plan) -> list[Path]:
    """Paths of the indexes in the order of the plan."""
    return [folder / f"{name}.json" for name in plan.names]


def verify_shards(folder: Path, plan: Plan, workers: int) -> list[list[Fault]]:
    """Faults of each shard, in the order of the plan."""
    numbers = range(plan.num_shards)
    results = map_local(partial(verify_shard, folder), numbers, workers)
    found = dict(tqdm(results, desc="verify", unit="shard", total=len(numbers)))
    return [found[number] for number in numbers]


def verify_shard(folder: Path, shard_id: int) -> list[Fault]:
    """Faults of one shard of the plan in `folder`."""
    plan = cached_plan(folder)
    shard = plan.shard(shard_id)
    tar_path, index_path = folder / f"{shard.name}.tar", folder / f"{shard.name}.json"
    missing = [Fault(path.name, "", "is missing") for path in (tar_path, index_path) if not path.is_file()]
    if missing:
        return missing
    try:
        index = read_json(index_path)
    except ValueError as error:
        return [Fault(index_path.name, "", str(error))]
    return shard_faults(plan, shard, tar_path, index)


def _corpus_faults(folder: Path, plan: Plan, indexes: Sequence[dict[str, Any]]) -> Iterator[Fault]:
    """What concerns more than one shard; `indexes` is empty when a shard has faults of its own."""
    planned = {f"{name}{suffix}" for name in plan.names for suffix in (".tar", ".json")} | {PLAN, DATASET}
    for path in sorted([*folder.glob("*.tar"), *folder.glob("*.json")]):
        if path.name not in planned:
            yield Fault(path.name, "", "is not in the plan")
    keys = Counter(sample.key for shard in plan.shards() for sample in shard.samples)
    for key, count in keys.items():
        if count > 1:
            yield Fault(PLAN, key, f"occurs {count} times in the corpus")
    if not (folder / DATASET).is_file():
        yield Fault(DATASET, "", "is missing: the corpus is unfinished; start shard.py again with the same arguments")
    elif indexes:
        expected, found = describe(plan, folder, indexes), read_json(folder / DATASET)
        for key in sorted(set(expected) | set(found)):
            if json_bytes({key: found.get(key)}) != json_bytes({key: expected.get(key)}):
                yield Fault(DATASET, key, "does not fit the shards and their indexes")
    if indexes:
        path = folder / REJECTED
        if not path.is_file():
            yield Fault(REJECTED, "", "is missing")
        elif not _holds(path, rejected_lines(plan, indexes)):
            yield Fault(REJECTED, "", "does not fit the plan and the indexes")


def _holds(path: Path, lines: Iterable[bytes]) -> bool:
    """True when the file consists of these lines."""
    with path.open("rb") as file:
        return all(found == line for found, line in zip_longest(file, lines))


if __name__ == "__main__":
    run_command(verify, positional=True)
