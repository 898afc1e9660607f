"""rejected.jsonl, the list of all rejected samples of a corpus with their reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from common.atomic_files import whole_file
from common.json_files import json_bytes
from data_prep.corpus.shard_contents import CorpusContents
from data_prep.plan.plan import Plan

REJECTED = "rejected.jsonl"


def rejected_lines(plan: Plan, contents: CorpusContents) -> Iterator[bytes]:
    """Yield the lines of rejected.jsonl, some at a time: the samples that the plan rejects, then those of each shard in order."""
    for rejection in plan.rejected():
        yield json_bytes({**asdict(rejection), "failed": False}) + b"\n"
    yield from contents.rejected()


def write_rejected(plan: Plan, contents: CorpusContents) -> None:
    """Write rejected.jsonl. `contents`: of all shards."""
    with whole_file(plan.folder / REJECTED) as temporary, temporary.open("wb") as file:
        file.writelines(rejected_lines(plan, contents))
