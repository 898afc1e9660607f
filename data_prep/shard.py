"""Command: make a corpus of shards from scenes: plan, write, verify, describe. Start it again with the same arguments to resume.

python data_prep/shard.py --input scenes/ --output corpus/ [--workers N] [--chip_px.sentinel2 32]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from common.atomic_files import remove_leftovers
from common.command_line import as_arguments, run_command
from common.errors import while_running
from common.executors import Executor, MapJobs, open_executor, submit_slurm
from common.exit_codes import FAILED, INFRASTRUCTURE
from common.memory import worker_share
from common.progress import PROGRESS
from common.storage import AnyPath, check_writable
from data_prep.corpus.corpus_writer import finish_corpus, unwritten_report, write_missing_shards
from data_prep.plan.build import frozen_plan, make_plan
from data_prep.plan.plan import PLAN, Plan
from data_prep.plan.plan_overview import plan_overview, unreadable_overview
from data_prep.plan.settings import PlanSettings
from data_prep.plan.splits import SplitConfig

_MOST_BYTES = 4_000_000_000  # by default, of decoded images: a block of 1024 x 1024 px of a year of Sentinel-2 has 2
RENAMED = {f"split_{name}": f"split.{name}" for name in ("block_km", "shares", "buffer_km", "seed")}


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Cut scenes into samples and write them as WebDataset shards with indexes, checksums and statistics.

    Attributes:
        input: folder or URL with scenes (SCENE/scene.yaml each), or one scene.
        output: folder of the corpus, or its URL in an object store: a new one, or one that the same arguments began.
        workers: processes that write at the same time; with --engine slurm, jobs of the array.
        sources: only these sources, as a list or separated by commas; default: all that the scenes have.
        chip_px: side of a sample in pixels, by source (--chip_px.landsat 32); default: the sensors' own.
        shard_mb: largest mean size of a shard in megabytes (1e6 bytes).
        min_frames: samples with fewer dates in the year are rejected.
        sites: CSV or Parquet table of sites where samples are cut (columns id, lon, lat, and optionally year, source, split;
            draw_sites.py draws one); default: all windows that tile each scene.
        label: labels of the scenes that the samples hold for fine-tuning, by source (--label.landsat crop_type); the label must
            have the pixel grid of the source.
        land_cover_maps: the samples hold the land-cover map on their pixels, which the objective `map` of pretraining needs. A
            corpus that was begun without maps stays without; add_maps.py adds them.
        split: split by place instead of by scene.
        plan_only: write the plan, print an overview and stop; without it, the same command resumes from there.
        engine: local processes, a Dask cluster, or a SLURM array job with a last job that finishes; the command only submits
            SLURM jobs.
        scheduler: address of a running Dask scheduler, or `slurm` for Dask workers that are SLURM jobs (configured as
            dask-jobqueue documents); without it, the dask engine starts local workers.
        shards: write only these shards, first-last counted from 0, and leave finishing to a run without this option; `array`
            takes the part of one job of a SLURM array.
        memory_gb: decoded images that a worker may hold (1e9 bytes); where chunks of the archive need more, they are decoded
            more than once. Default: half of the memory by workers, at most 4.
        retries: how often work is tried again after a transient error, such as that of a network file system; requests to URLs
            have limits of their own (common/retries.py).
        max_failed_share: the corpus is not finished when more than this share of its samples could not be read.
        retry_failed: write the shards again that lack samples which could not be read, after the archive was mended.
    """

    input: AnyPath
    output: AnyPath
    workers: int = 1
    sources: list[str] | str | None = None
    chip_px: dict[str, int] | None = None
    shard_mb: float = 256.0
    min_frames: int = 16
    sites: AnyPath | None = None
    label: dict[str, str] | None = None
    land_cover_maps: bool = True
    split: SplitConfig = field(default_factory=SplitConfig)
    plan_only: bool = False
    engine: Executor = "local"
    scheduler: str | None = None
    shards: str | None = None
    memory_gb: float | None = None
    retries: int = 3
    max_failed_share: float = 0.01
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise ValueError(f"memory_gb must be above 0, got {self.memory_gb}")
        if self.scheduler is not None and self.engine != "dask":
            raise ValueError("--scheduler is of use only with --engine dask")
        if self.retries < 0 or not 0 <= self.max_failed_share <= 1:
            raise ValueError(
                f"retries must be at least 0 and max_failed_share from 0 to 1, got {self.retries} and {self.max_failed_share}"
            )

    def plan_settings(self) -> PlanSettings:
        """Return the part of the configuration that shapes the plan."""
        sources = self.sources.split(",") if isinstance(self.sources, str) else self.sources
        return PlanSettings(
            sources=None if sources is None else tuple(sources),
            chip_px=self.chip_px or {},
            shard_mb=self.shard_mb,
            min_frames=self.min_frames,
            sites=self.sites,
            labels=self.label or {},
            land_cover_maps=self.land_cover_maps,
            spatial_blocks=self.split.spatial_blocks(),
        )


def shard(config: ShardConfig) -> int:
    """Make or resume the corpus; return the exit code."""
    check_writable(config.output)
    with _executor(config) as map_jobs:
        if config.shards is not None and (config.output / PLAN).is_file():
            plan = frozen_plan(config.input, config.output, config.plan_settings())
        else:
            plan = make_plan(config.input, config.output, config.plan_settings(), map_jobs)
        if config.land_cover_maps and not plan.has_maps:
            print(
                f"{config.output} was begun without land-cover maps and stays without; data_prep/add_maps.py adds them afterwards"
            )
        try:
            return _write(config, plan, map_jobs)
        finally:  # last, so that nobody overlooks it
            if unreadable := unreadable_overview(plan):
                print(f"\n{unreadable}")


def _executor(config: ShardConfig) -> AbstractContextManager[MapJobs]:
    """The executor of planning and writing; SLURM's jobs only write, so this machine plans, with no more processes than cores."""
    if config.engine == "slurm":
        return open_executor("local", min(config.workers, os.cpu_count() or 1))
    return open_executor(config.engine, config.workers, config.scheduler)


def _write(config: ShardConfig, plan: Plan, map_jobs: MapJobs) -> int:
    """Write the shards of a plan and finish the corpus, as far as the configuration wants it; return the exit code."""
    if config.plan_only:
        print(plan_overview(plan))
        return 0
    numbers = range(plan.num_shards) if config.shards is None else _chosen_shards(config.shards, plan)
    if config.engine == "slurm":
        _submit(config, plan)
        return 0
    remove_leftovers(config.output)
    with while_running(f"writing {config.output}"):
        most_bytes = int(1e9 * config.memory_gb) if config.memory_gb else min(worker_share(config.workers), _MOST_BYTES)
        unwritten = write_missing_shards(plan, numbers, config.input, map_jobs, most_bytes, config.retries, config.retry_failed)
        if unwritten:
            print(unwritten_report(unwritten, len(numbers)))
            return INFRASTRUCTURE if any(failure.is_infrastructure for failure in unwritten) else FAILED
        finished = config.shards is not None or finish_corpus(plan, map_jobs, config.max_failed_share)
        return 0 if finished else FAILED


def _submit(config: ShardConfig, plan: Plan) -> None:
    """Submit the SLURM jobs that write and finish the corpus."""
    writing = replace(config, engine="local", shards="array")
    finishing = replace(config, engine="local", retry_failed=False)
    tasks = min(config.workers, len(plan.sweeps(range(plan.num_shards))))
    array, last = submit_slurm(as_arguments(vars(writing)), as_arguments(vars(finishing)), tasks)
    progress = config.output / PROGRESS if isinstance(config.output, Path) else "the output of the jobs"
    print(f"job {array} writes {plan.num_shards} shards, job {last} finishes; progress is in {progress}")


def _chosen_shards(shards: str, plan: Plan) -> Sequence[int]:
    """Return the numbers `first-last`, or for `array` the part of a job of a SLURM array by SLURM's variables.

    Jobs take turns with sweeps, so that each gets as much of every source.
    """
    count = plan.num_shards
    if shards == "array":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
        try:
            task, first_task, step, tasks = (int(os.environ[name]) for name in names)
        except KeyError as error:
            raise ValueError(f"--shards array is for jobs of a SLURM array, but {error} is not set; give first-last") from error
        sweeps = plan.sweeps(range(count))[(task - first_task) // step :: tasks]
        return sorted(number for sweep in sweeps for number in sweep)
    first, _, last = shards.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or not int(first) <= int(last or first) < count:
        raise ValueError(f"--shards is {shards!r}; expected first-last within 0-{count - 1}, or `array`")
    return range(int(first), int(last or first) + 1)


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(shard, config_class=ShardConfig, renamed=RENAMED)


if __name__ == "__main__":
    main()
