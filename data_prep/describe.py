"""Command: describe a corpus: counts, dates, validity, classes and statistics by source and split, as tables and figures.

python data_prep/describe.py corpus/ [--output pictures/] [--json corpus.json]
"""

from __future__ import annotations

from typing import NoReturn

from common.atomic_files import whole_file
from common.command_line import run_command
from common.executors import open_executor
from common.json_files import json_bytes
from common.progress import Progress
from common.storage import AnyPath, check_writable
from data_prep.corpus.corpus_overview import corpus_overview, overview_tables
from data_prep.corpus.dataset import Corpus, load_corpus
from data_prep.corpus.summary import ShardSummary, by_source_and_split, read_summary
from data_prep.plan.plan import load_plan
from data_prep.plan.plan_overview import unreadable_overview
from data_prep.plots.contact_sheet import contact_sheet, evenly_spread_samples
from data_prep.plots.corpus_figure import corpus_figure
from data_prep.shards.shard_index import SampleEntry

DPI = 110


def describe_corpus(
    corpus: AnyPath,
    output: AnyPath | None = None,
    json: AnyPath | None = None,
    samples: int = 4,
    frames: int = 12,
    workers: int = 1,
) -> None:
    """Describe a corpus from its shard indexes; only the contact sheet reads pixels.

    Args:
        corpus: corpus written by shard.py, a folder or a URL.
        output: folder for two figures: overview.png (classes, frames, bands) and samples.png (a contact sheet).
        json: file for the same values as JSON.
        samples: samples of each source and split on the contact sheet, evenly spread.
        frames: images of each sample.
        workers: processes that read indexes at the same time.
    """
    if samples < 1 or frames < 1 or workers < 1:
        raise ValueError(f"samples, frames and workers must be at least 1, got {samples}, {frames} and {workers}")
    for written in (output, json):
        if written is not None:
            check_writable(written)
    loaded = load_corpus(corpus)
    groups = _summaries(loaded, workers)
    overview = corpus_overview(loaded, groups)
    print(overview_tables(overview))
    plan = load_plan(corpus)
    if unreadable := unreadable_overview(plan):
        print(f"\n{unreadable}")
    if json is not None:
        with whole_file(json) as temporary:
            temporary.write_bytes(json_bytes(overview) + b"\n")
        print(f"{json} says the same")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        chosen: dict[str, list[SampleEntry]] = {}
        for source, split in groups:
            chosen.setdefault(source, []).extend(evenly_spread_samples(loaded, source, split, samples))
        figures = {"overview.png": corpus_figure(loaded, groups), "samples.png": contact_sheet(loaded, chosen, frames)}
        for name, figure in figures.items():
            with whole_file(output / name) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
            print(output / name)


def _summaries(corpus: Corpus, workers: int) -> dict[tuple[str, str], ShardSummary]:
    """Read all shard indexes in `workers` processes; return one summary by source and split with samples."""
    paths = [shard.index for shard in corpus.shards if shard.samples]
    groups: dict[tuple[str, str], ShardSummary] = {}
    with open_executor("local", workers) as map_jobs, Progress("describe", total=len(paths)) as progress:
        for _, summary in map_jobs(read_summary, paths):
            groups = by_source_and_split((*groups.values(), summary))
            progress.add(summary.bytes)
    return groups


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(describe_corpus, positional=True)


if __name__ == "__main__":
    main()
