"""Builds a corpus from its plan: writes the missing shards, checks all of them, and writes the files that describe the whole."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.atomic_files import whole_file
from common.executors import MapJobs
from common.json_files import json_bytes
from common.progress import PROGRESS, Progress
from data_prep.corpus.corpus_checks import verify_shards
from data_prep.corpus.dataset import DATASET
from data_prep.corpus.dataset_json import dataset_json
from data_prep.corpus.rejected import REJECTED, rejected_lines
from data_prep.corpus.sample_index_writer import write_sample_indexes
from data_prep.corpus.summary import ShardSummary
from data_prep.plan.plan import Plan
from data_prep.shards.shard_writer import is_written, write_shard
from data_prep.shards.tar_format import FAILED

# The output accepts no more files: no shard could be written.
_OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def write_missing_shards(
    plan: Plan, numbers: Sequence[int], archive: Path, map_jobs: MapJobs, retries: int = 3, retry_failed: bool = False
) -> list[str]:
    """Write those of the shards `numbers` that do not exist yet; return one line for each shard that could not be written.

    `retries`: of transient errors. `retry_failed`: also write again the shards with samples that could not be read. Raises
    OSError when the output accepts no more files.
    """
    output = plan.folder
    if retry_failed:
        for number in numbers:
            if (output / f"{plan.names[number]}{FAILED}").exists():
                (output / f"{plan.names[number]}.json").unlink(missing_ok=True)
    missing = [number for number in numbers if not is_written(plan, plan.names[number], output)]
    if missing:
        (output / DATASET).unlink(missing_ok=True)  # while shards are missing, the corpus is not a finished one
    unwritten = []
    with Progress("write", total=len(numbers), done=len(numbers) - len(missing), log=output / PROGRESS) as progress:
        for number, (size, error) in map_jobs(partial(_try_to_write, archive.resolve(), output.resolve(), retries), missing):
            if error:
                unwritten.append(f"{plan.names[number]}: {error}")
            else:
                progress.add(size)
    return unwritten


def _try_to_write(archive: Path, output: Path, retries: int, number: int) -> tuple[int, str]:
    """Return the bytes of the shard and "", or 0 and why this shard cannot be written while others can."""
    try:
        return write_shard(archive, output, number, retries), ""
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        is_in_output = error.filename is not None and Path(str(error.filename)).is_relative_to(output)
        if is_in_output or error.errno in _OUTPUT_ERRNOS:
            message = f"{output} takes no more: {error.strerror}; what is finished stays: mend it and start again"
            raise OSError(error.errno, message) from error
        reason = str(error)
    return 0, " ".join(reason.split())


def verified_summaries(plan: Plan, map_jobs: MapJobs) -> list[ShardSummary]:
    """Read and check all shards; return their summaries in the order of the plan. Raises ValueError when a shard has faults."""
    verified = verify_shards(plan.folder, plan, map_jobs, log=plan.folder / PROGRESS)
    faults = [fault for shard in verified for fault in shard.faults]
    if faults:
        damaged = sorted({fault.file.split(".")[0] for fault in faults})
        raise ValueError(f"{len(faults)} faults, first {faults[0]}; remove {', '.join(damaged[:3])}.* and start again")
    return [shard.summary for shard in verified if shard.summary is not None]


def write_rejected(plan: Plan, summaries: Sequence[ShardSummary]) -> None:
    """Write rejected.jsonl. `summaries`: of all shards in the order of the plan."""
    with whole_file(plan.folder / REJECTED) as temporary, temporary.open("wb") as file:
        file.writelines(rejected_lines(plan, plan.folder, summaries))


def write_dataset(plan: Plan, summaries: Sequence[ShardSummary], map_jobs: MapJobs) -> None:
    """Write the sample indexes and then dataset.json, which finishes the corpus. `summaries`: see `write_rejected`."""
    sample_indexes = write_sample_indexes(plan.folder, summaries, map_jobs, log=plan.folder / PROGRESS)
    with whole_file(plan.folder / DATASET) as temporary:
        temporary.write_bytes(json_bytes(dataset_json(plan, plan.folder, summaries, sample_indexes)))
