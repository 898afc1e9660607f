"""The overview of a plan that `shard.py --plan_only` prints."""

from __future__ import annotations

from tabulate import tabulate

from data_prep.plan.plan import Plan


def plan_overview(plan: Plan) -> str:
    """Return two tables: shards, samples and approximate megabytes by source and split; rejected samples by reason."""
    rows = [[g.source, g.split, g.shards, g.samples, f"{g.bytes / 1e6:.1f}"] for g in plan.groups]
    tables = [tabulate(rows, ["source", "split", "shards", "samples", "MB"], disable_numparse=True)]
    if plan.rejected_groups:
        rejected = [[g.source, g.samples, g.reason] for g in plan.rejected_groups]
        tables.append(tabulate(rejected, ["source", "rejected", "reason"]))
    return "\n\n".join(tables)
