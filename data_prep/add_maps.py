"""Command: add land-cover maps to a corpus that was written without, as a new corpus. Start it again to resume.

python data_prep/add_maps.py --input scenes/ --corpus former/ --output corpus/ [--workers N]
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NoReturn

from common.atomic_files import remove_leftovers
from common.command_line import run_command
from common.errors import while_running
from common.executors import open_executor
from common.exit_codes import FAILED, INFRASTRUCTURE
from common.storage import AnyPath, check_writable
from data_prep.corpus.corpus_writer import finish_corpus, unwritten_report, write_shards
from data_prep.corpus.map_addition import plan_with_maps
from data_prep.shards.map_adder import add_maps_to_shards


def add_maps(
    input: AnyPath,
    corpus: AnyPath,
    output: AnyPath,
    workers: int = 1,
    engine: Literal["local", "dask"] = "local",
    scheduler: str | None = None,
    retries: int = 3,
) -> int:
    """Write a corpus anew with the land-cover map of each sample, without decoding pixels again.

    Args:
        input: folder or URL with the scenes that the corpus was made from, unchanged; of land cover from maps and labels only
            these are read.
        corpus: finished corpus without maps, a folder or a URL; it stays as it is.
        output: folder of the new corpus, or its URL in an object store: a new one, or one that the same arguments began.
        workers: processes that write at the same time.
        engine: local processes or a Dask cluster.
        scheduler: address of a running Dask scheduler, or `slurm`, as for shard.py.
        retries: how often work is tried again after a transient error, such as a network failure.
    """
    if workers < 1 or retries < 0:
        raise ValueError(f"workers must be at least 1 and retries at least 0, got {workers} and {retries}")
    if scheduler is not None and engine != "dask":
        raise ValueError("--scheduler is of use only with --engine dask")
    check_writable(output)
    plan, former_hash = plan_with_maps(corpus, output)
    remove_leftovers(output)
    write = partial(add_maps_to_shards, input.resolve(), corpus.resolve(), former_hash, output.resolve(), retries)
    with open_executor(engine, workers, scheduler) as map_jobs, while_running(f"writing {output}"):
        unwritten = write_shards(plan, range(plan.num_shards), write, map_jobs)
        if unwritten:
            print(unwritten_report(unwritten, plan.num_shards))
            return INFRASTRUCTURE if any(failure.is_infrastructure for failure in unwritten) else FAILED
        finish_corpus(plan, map_jobs, max_failed_share=1.0)  # the share was accepted when the former corpus was finished
    return 0


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(add_maps)


if __name__ == "__main__":
    main()
