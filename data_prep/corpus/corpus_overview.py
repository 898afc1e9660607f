"""Overviews of a corpus: tables printed by shard.py and describe.py, and the same as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from tabulate import tabulate

from data_prep.corpus.dataset import Corpus
from data_prep.corpus.rejected import REJECTED
from data_prep.corpus.summary import ShardSummary
from data_prep.landcover.legend import Legend
from data_prep.plan.plan import Plan

_MOST_REASONS = 30  # lines of the table of reasons; rejected.jsonl has all reasons


def overview_of_written_corpus(plan: Plan, groups: Mapping[tuple[str, str], ShardSummary]) -> str:
    """Return two tables about a corpus that was just written.

    The first: samples, frames, valid share and size by source and split. The second: rejected samples by reason.
    `groups`: the summary of each source and split. Series and scenes that cannot be read have a table of their own
    (`unreadable_overview`).
    """
    shards = {(group.source, group.split): group.shards for group in plan.groups}
    rows = []
    for (source, split), group in groups.items():
        share = f"{group.valid_share(plan.sensors[source].chip_px):.0%}"
        size = f"{group.bytes / 1e6:.1f}"
        rows.append([source, split, shards[source, split], group.samples, group.total_frames, share, size])
    tables = [tabulate(rows, ["source", "split", "shards", "samples", "frames", "valid", "MB"], disable_numparse=True)]
    reasons = Counter({(group.source, group.reason): group.samples for group in plan.rejected_groups if not group.example})
    for (source, _), group in groups.items():
        for (reason, _), count in group.rejected.items():
            reasons[source, reason] += count
    if reasons:
        shown = sorted(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_MOST_REASONS])
        lines = [[source, str(count), reason] for (source, reason), count in shown]
        if len(reasons) > len(shown):
            lines.append(["...", "", f"{len(reasons) - len(shown)} more reasons in {REJECTED}"])
        tables.append(tabulate(lines, ["source", "rejected", "reason"]))
    return "\n\n".join(tables)


def corpus_overview(corpus: Corpus, groups: Mapping[tuple[str, str], ShardSummary]) -> dict[str, Any]:
    """Return an overview of each source and split as plain values for JSON. `groups`: summaries by source and split.

    `mean` and `std` are in digital numbers over the valid pixels of a split; `normalization` is what training uses.
    """
    sources: dict[str, Any] = {}
    for (source, split), group in groups.items():
        of_source = sources.setdefault(
            source,
            {
                "shape": list(corpus.shapes[source]),
                "bands": list(corpus.sensors[source].bands),
                "splits": {},
                "has_land_cover_maps": corpus.has_maps(source),
                "normalization": corpus.normalization(source),
            },
        )
        of_source["splits"][split] = _split_overview(corpus, source, split, group)
    return {"fingerprint": corpus.fingerprint, "rejected": corpus.rejected, "sources": sources}


def _split_overview(corpus: Corpus, source: str, split: str, group: ShardSummary) -> dict[str, Any]:
    lengths = sorted(group.frames)
    reached = np.cumsum([group.frames[length] for length in lengths])
    median = lengths[int(np.searchsorted(reached, group.samples / 2))]
    assert group.days is not None, "a group has samples"
    first, last = (str(np.datetime64(day, "D")) for day in group.days)
    return {
        "shards": len(corpus.shards_of(source, split)),
        "samples": group.samples,
        "bytes": group.bytes,
        "first_date": first,
        "last_date": last,
        "frames": {"min": lengths[0], "median": median, "max": lengths[-1]},
        "valid_share": group.valid_share(corpus.shapes[source][-1]),
        "class_fractions": class_fractions(group, corpus.legends),
        "mean": group.statistics.mean.tolist(),
        "std": group.statistics.std.tolist(),
        "rejected_when_read": group.rejected.total(),
        "failed": group.failed,
    }


def class_fractions(group: ShardSummary, legends: Mapping[str, Legend]) -> dict[str, dict[str, float]]:
    """Return area fractions for the overview of a corpus: over all samples of a group together, by legend and class."""
    fractions = {}
    for name, counts in group.land_cover.items():
        fractions[name] = dict(zip(legends[name].classes, legends[name].fractions(counts).tolist(), strict=True))
    return fractions


def overview_tables(overview: Mapping[str, Any]) -> str:
    """Return the values of `corpus_overview` as tables: counts, land cover, and bands."""
    counts, classes, bands = [], [], []
    for source, of_source in overview["sources"].items():
        for split, values in of_source["splits"].items():
            frames = values["frames"]
            length = f"{frames['min']}, {frames['median']}, {frames['max']}"
            dates = f"{values['first_date']} to {values['last_date']}"
            size = f"{values['bytes'] / 1e6:.1f}"
            row = [source, split, values["shards"], values["samples"], size, dates, length, f"{values['valid_share']:.1%}"]
            counts.append([*row, values["failed"]])
            for legend, fractions in values["class_fractions"].items():
                shown = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in fractions.items() if share)
                classes.append([source, split, legend, shown])
        for number, band in enumerate(of_source["bands"]):
            of_band = ((split, values["mean"][number], values["std"][number]) for split, values in of_source["splits"].items())
            bands.append([source, band, ", ".join(f"{split} {mean:.1f} ± {std:.1f}" for split, mean, std in of_band)])
    mapped = [source for source, of_source in overview["sources"].items() if of_source["has_land_cover_maps"]]
    maps = f"land-cover maps of {', '.join(mapped)}" if mapped else "no land-cover maps (data_prep/add_maps.py adds them)"
    header = ["source", "split", "shards", "samples", "MB", "dates", "frames: least, median, most", "valid", "failed"]
    return "\n\n".join(
        [
            tabulate(counts, header, disable_numparse=True),
            tabulate(classes, ["source", "split", "legend", "share of the area"]),
            tabulate(bands, ["source", "band", "digital numbers, mean ± deviation"]),
            f"{overview['rejected']} samples rejected; {maps}; fingerprint {overview['fingerprint']}",
        ]
    )
