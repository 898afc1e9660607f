"""Command: scenes -> corpus. Plan, write, verify, describe; start it again with the same arguments and it goes on.

python data_prep/shard.py --input scenes/ --output corpus/ [--workers N] [--chip_px.sentinel2 32]
"""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

from common.atomic_files import remove_leftovers, whole_file
from common.command_line import as_arguments, run_command
from common.executors import Executor, MapJobs, open_executor, submit_slurm
from common.json_files import json_bytes
from common.progress import PROGRESS, Progress
from data_prep.corpus.dataset import DATASET
from data_prep.corpus.description import REJECTED, describe, rejected_lines, summary_tables
from data_prep.corpus.sample_index_writer import write_tables
from data_prep.plan.plan import Plan, plan_table
from data_prep.plan.planning import PlanSettings, make_plan
from data_prep.plan.splits import split_blocks_of
from data_prep.shards.tar_format import FAILED
from data_prep.shards.writing import is_written, write_shard
from data_prep.verify import verify_shards

UNFINISHED = 1
_OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_MOST_NAMED = 5  # shards named in a message


def shard(
    input: Path,
    output: Path,
    workers: int = 1,
    sources: list[str] | str | None = None,
    chip_px: dict[str, int] | None = None,
    shard_mb: float = 256.0,
    min_frames: int = 16,
    sites: Path | None = None,
    label: dict[str, str] | None = None,
    split_block_km: float | None = None,
    split_shares: dict[str, float] | None = None,
    split_buffer_km: float = 0.0,
    split_seed: int = 0,
    plan_only: bool = False,
    engine: Executor = "local",
    scheduler: str | None = None,
    shards: str | None = None,
    retries: int = 3,
    max_failed_share: float = 0.01,
    retry_failed: bool = False,
) -> int:
    """Cut scenes into samples and write them as WebDataset shards with indexes, checksums and statistics.

    Args:
        input: folder with scenes (SCENE/scene.yaml each), or one scene.
        output: folder of the corpus; new, or one that the same arguments began.
        workers: processes that write at the same time; with --engine slurm, jobs of the array.
        sources: only these sources, as a list or separated by commas; default: all that the scenes hold.
        chip_px: side of a sample in pixels, by source (--chip_px.landsat 32); default: the sensors' own.
        shard_mb: size of a shard in megabytes (1e6 bytes), about.
        min_frames: samples with fewer dates in the year are rejected.
        sites: CSV or Parquet table of places where samples are cut (columns id, lon, lat, and if wanted year, source, split;
            draw_sites.py draws one); default: all windows of each scene.
        label: labels of the scenes that travel with the samples for fine-tuning, by source (--label.landsat crop_type); the
            label's pixels must be those of the source.
        split_block_km: split by place: side in kilometres of the blocks that go to one split as a whole; default: as the
            scenes say.
        split_shares: share of the blocks of each split (--split_shares.test 0.2); default: train 0.8, validation 0.1, test 0.1.
        split_buffer_km: leave out samples nearer than this to a block of another split; at most half a block.
        split_seed: another seed is another draw of the blocks.
        plan_only: write the plan, say what is in it, and stop; started without it, the command goes on from there.
        engine: local processes; a Dask cluster; or a SLURM array job and a last job that finishes, which are only submitted here.
        scheduler: address of a running Dask scheduler, or `slurm` for Dask workers that are SLURM jobs (set up as dask-jobqueue
            says); without it the dask engine starts local workers.
        shards: write only these, first-last counted from 0, and leave finishing to a run without; `array` takes the share of a
            job of a SLURM array.
        retries: how often what may pass by itself (a network, a mount) is tried again.
        max_failed_share: the corpus is not finished when more than this share of its samples could not be read.
        retry_failed: write shards again that hold samples which could not be read, after the archive was mended.
    """
    arguments = {**locals(), "engine": "local"}
    _check(workers, engine, scheduler, retries, max_failed_share)
    wanted = sources.split(",") if isinstance(sources, str) else sources
    settings = PlanSettings(
        sources=None if wanted is None else tuple(wanted),
        chip_px=chip_px or {},
        shard_mb=shard_mb,
        min_frames=min_frames,
        sites=sites,
        labels=label or {},
        split_blocks=split_blocks_of(split_block_km, split_shares, split_buffer_km, split_seed),
    )
    plan = make_plan(input, output, settings, workers)
    if plan_only:
        print(plan_table(plan))
        return 0
    numbers = range(plan.num_shards) if shards is None else _chosen(shards, plan.num_shards)
    if engine == "slurm":
        writing, finishing = {**arguments, "shards": "array"}, {**arguments, "retry_failed": False}
        array, last = submit_slurm(as_arguments(writing), as_arguments(finishing), tasks=min(workers, plan.num_shards))
        print(f"job {array} writes {plan.num_shards} shards, job {last} finishes; progress is in {output / PROGRESS}")
        return 0
    remove_leftovers(output)
    with open_executor(engine, workers, scheduler) as map_jobs:
        unwritten = write(plan, numbers, input, output, map_jobs, retries, retry_failed)
        if unwritten:
            print("\n".join(unwritten[:_MOST_NAMED]))
            print(f"{len(unwritten)} of {len(numbers)} shards are not written; start again with the same arguments")
            return UNFINISHED
        if shards is not None:
            return 0
        return finish(plan, output, map_jobs, max_failed_share)


def _check(workers: int, engine: Executor, scheduler: str | None, retries: int, max_failed_share: float) -> None:
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if scheduler is not None and engine != "dask":
        raise ValueError("--scheduler is of use only with --engine dask")
    if retries < 0 or not 0 <= max_failed_share <= 1:
        raise ValueError(f"retries must be at least 0 and max_failed_share from 0 to 1, got {retries} and {max_failed_share}")


def _chosen(shards: str, count: int) -> range:
    """`first-last`, or `array`: an equal part for each job of a SLURM array, by its variables."""
    if shards == "array":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
        try:
            task, first_task, step, tasks = (int(os.environ[name]) for name in names)
        except KeyError as error:
            raise ValueError(f"--shards array is for jobs of a SLURM array, but {error} is not set; give first-last") from error
        place = (task - first_task) // step
        return range(place * count // tasks, (place + 1) * count // tasks)
    first, _, last = shards.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or not int(first) <= int(last or first) < count:
        raise ValueError(f"--shards is {shards!r}; expected first-last within 0-{count - 1}, or `array`")
    return range(int(first), int(last or first) + 1)


def write(
    plan: Plan, numbers: range, archive: Path, output: Path, map_jobs: MapJobs, retries: int, retry_failed: bool
) -> list[str]:
    """Write those of the shards `numbers` that are not there; returns why which could not be written.

    Raises OSError when the output takes no files: then no other shard can be written, either.
    """
    if retry_failed:
        for number in numbers:
            if (output / f"{plan.names[number]}{FAILED}").exists():
                (output / f"{plan.names[number]}.json").unlink(missing_ok=True)
    todo = [number for number in numbers if not is_written(plan, plan.names[number], output)]
    if todo:
        (output / DATASET).unlink(missing_ok=True)  # a corpus whose shards are written anew is not a finished one
    unwritten = []
    with Progress("write", total=len(numbers), done=len(numbers) - len(todo), log=output / PROGRESS) as progress:
        for number, (size, error) in map_jobs(partial(_attempt, archive.resolve(), output.resolve(), retries), todo):
            if error:
                unwritten.append(f"{plan.names[number]}: {error}")
            else:
                progress.add(size)
    return unwritten


def _attempt(archive: Path, output: Path, retries: int, number: int) -> tuple[int, str]:
    """Bytes of the shard and "", or 0 and why this one cannot be written while others can."""
    try:
        return write_shard(archive, output, number, retries), ""
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        of_output = error.filename is not None and Path(str(error.filename)).is_relative_to(output)
        if of_output or error.errno in _OUTPUT_ERRNOS:
            message = f"{output} takes no more: {error.strerror}; what is finished stays: mend it and start again"
            raise OSError(error.errno, message) from error
        reason = str(error)
    return 0, " ".join(reason.split())


def finish(plan: Plan, output: Path, map_jobs: MapJobs, max_failed_share: float) -> int:
    """Verify all shards, then write where their samples lie and what they are; returns the exit code.

    Raises ValueError when a shard is damaged, or when nothing was written.
    """
    verified = verify_shards(output, plan, map_jobs, log=output / PROGRESS)
    faults = [fault for shard in verified for fault in shard.faults]
    if faults:
        damaged = sorted({fault.file.split(".")[0] for fault in faults})
        raise ValueError(f"{len(faults)} faults, first {faults[0]}; remove {', '.join(damaged[:3])}.* and start again")
    summaries = [shard.summary for shard in verified if shard.summary is not None]
    remove_leftovers(output, everything=True)
    with whole_file(output / REJECTED) as temporary, temporary.open("wb") as file:
        file.writelines(rejected_lines(plan, output, summaries))
    print(summary_tables(plan, summaries))
    samples, failed = sum(summary.samples for summary in summaries), sum(summary.failed for summary in summaries)
    if failed > max_failed_share * (samples + failed):
        print(
            f"{failed} of {samples + failed} samples could not be read, more than --max_failed_share {max_failed_share}; "
            f"{REJECTED} says why, SHARD{FAILED} where: mend the archive and start again with --retry_failed true, or allow more"
        )
        return UNFINISHED
    if not samples:
        raise ValueError(f"every sample was rejected; the reasons are in {output / REJECTED}")
    tables = write_tables(output, summaries, map_jobs, log=output / PROGRESS)
    with whole_file(output / DATASET) as temporary:
        temporary.write_bytes(json_bytes(describe(plan, output, summaries, tables)))
    print(f"{output / DATASET} describes the corpus")
    return 0


if __name__ == "__main__":
    run_command(shard)
