"""The overview of a plan that `shard.py --plan_only` prints, and the table of the series and scenes that cannot be read."""

from __future__ import annotations

from tabulate import tabulate

from data_prep.plan.plan import Plan

_WIDTH = 80  # of a column of text


def plan_overview(plan: Plan) -> str:
    """Return two tables: shards, samples and approximate megabytes by source and split; rejected samples by reason."""
    rows = [[g.source, g.split, g.shards, g.samples, f"{g.bytes / 1e6:.1f}"] for g in plan.groups]
    tables = [tabulate(rows, ["source", "split", "shards", "samples", "MB"], disable_numparse=True)]
    rejected = [[g.source, g.samples, g.reason] for g in plan.rejected_groups if not g.example]
    if rejected:
        tables.append(tabulate(rejected, ["source", "rejected", "reason"]))
    return "\n\n".join(tables)


def unreadable_overview(plan: Plan) -> str:
    """Return a table of the series and scenes that could not be read when the corpus was planned; empty without any.

    It has their number by source and reason, and one example each.
    """
    groups = plan.unreadable_groups
    if not groups:
        return ""
    rows = [[g.source or "whole scenes", g.samples, g.example] for g in sorted(groups, key=lambda g: -g.samples)]
    count = sum(group.samples for group in groups)
    return (
        tabulate(rows, ["source", "rejected", "for example"], maxcolwidths=[None, None, _WIDTH])
        + f"\n{count} series or scenes could not be read and are no part of the corpus; rejected.jsonl of the finished corpus "
        "has all of them. Mend them and shard into a new output folder to have them."
    )
