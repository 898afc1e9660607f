"""rejected.jsonl, the list of all rejected samples of a corpus with their reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from common.atomic_files import whole_file
from common.json_files import json_bytes, read_json
from common.storage import AnyPath
from data_prep.corpus.summary import ShardSummary
from data_prep.plan.plan import Plan

REJECTED = "rejected.jsonl"


def rejected_lines(plan: Plan, output: AnyPath, summaries: Sequence[ShardSummary]) -> Iterator[bytes]:
    """Yield the lines of rejected.jsonl: the samples that the plan rejects, then those of each shard in order.

    `summaries` are those of the plan's shards in their order; the shard indexes are read from `output`.
    """
    for rejection in plan.rejected():
        yield json_bytes({**asdict(rejection), "failed": False}) + b"\n"
    for name, summary in zip(plan.names, summaries, strict=True):
        if summary.rejected:
            for row in read_json(output / f"{name}.json")["rejected"]:
                yield json_bytes(row) + b"\n"


def write_rejected(plan: Plan, summaries: Sequence[ShardSummary]) -> None:
    """Write rejected.jsonl. `summaries`: of all shards in the order of the plan."""
    with whole_file(plan.folder / REJECTED) as temporary, temporary.open("wb") as file:
        file.writelines(rejected_lines(plan, plan.folder, summaries))
