"""Writes a corpus from its plan: the missing shards, and then the files that describe the whole."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from common.atomic_files import remove_leftovers
from common.errors import InfrastructureError
from common.executors import MapJobs
from common.progress import PROGRESS, Progress
from common.storage import REQUESTS, AnyPath
from common.threads import in_threads
from data_prep.corpus.corpus_overview import overview_of_written_corpus
from data_prep.corpus.dataset import DATASET
from data_prep.corpus.dataset_json import write_dataset_json
from data_prep.corpus.rejected import REJECTED, write_rejected
from data_prep.corpus.sample_index_writer import write_sample_indexes
from data_prep.corpus.shard_checks import checked_contents
from data_prep.corpus.shard_contents import CorpusContents
from data_prep.plan.plan import Plan, cached_plan
from data_prep.shards.shard_index import has_written_index
from data_prep.shards.shard_writer import write_sweep
from data_prep.shards.tar_format import FAILED

# The output accepts no more files: no shard could be written.
_MOST_NAMED = 5  # shards named in a message
_MOST_IN_A_ROW = 5  # sweeps with failures of the infrastructure: the storage is away, and the others are not tried
_OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class ShardFailure:
    """Why a shard could not be written while others could.

    Attributes:
        name: of the shard.
        reason: one line.
        is_infrastructure: the storage or the network failed, so that starting again may succeed; else the archive is not as it
            was planned.
    """

    name: str
    reason: str
    is_infrastructure: bool


# Writes some shards of one sweep, given by their numbers; yields each number and the bytes of its tar as soon as it is written.
WriteShards: TypeAlias = Callable[[tuple[int, ...]], Iterator[tuple[int, int]]]


def write_missing_shards(
    plan: Plan,
    numbers: Sequence[int],
    archive: AnyPath,
    map_jobs: MapJobs,
    most_bytes: int,
    retries: int = 3,
    retry_failed: bool = False,
) -> list[ShardFailure]:
    """Write those shards `numbers` of a corpus that do not exist yet; return those that could not be written.

    `most_bytes`: of decoded images that a worker holds. `retries`: of transient errors. `retry_failed`: also write again the
    shards with samples that could not be read. Raises InfrastructureError when the output accepts no more files.
    """
    output = plan.folder
    if retry_failed:
        for number in numbers:
            if (output / f"{plan.names[number]}{FAILED}").exists():
                (output / f"{plan.names[number]}.json").unlink(missing_ok=True)
    write = partial(write_sweep, archive.resolve(), output.resolve(), most_bytes, retries)
    return write_shards(plan, numbers, write, map_jobs)


def write_shards(plan: Plan, numbers: Sequence[int], write: WriteShards, map_jobs: MapJobs) -> list[ShardFailure]:
    """Write those shards `numbers` of the plan that do not exist yet by `write`; return those that could not be written.

    `write` runs in workers. Raises InfrastructureError when the output accepts no more files.
    """
    output = plan.folder
    written_before = in_threads(lambda number: has_written_index(output, plan.names[number], plan.hash), numbers, REQUESTS)
    missing = [number for number, is_written in zip(numbers, written_before, strict=True) if not is_written]
    if missing:
        (output / DATASET).unlink(missing_ok=True)  # while shards are missing, the corpus is not a finished one
    unwritten: list[ShardFailure] = []
    untried = dict.fromkeys(missing)
    in_a_row = 0  # sweeps that ended with a failure of the infrastructure
    with Progress("write", total=len(numbers), done=len(numbers) - len(missing), log=output / PROGRESS) as progress:
        for _, written in map_jobs(partial(_try_to_write, write, output.resolve()), plan.sweeps(missing)):
            for number, result in written.items():
                del untried[number]
                if isinstance(result, ShardFailure):
                    unwritten.append(result)
                else:
                    progress.add(result)
            away = [result for result in written.values() if isinstance(result, ShardFailure) and result.is_infrastructure]
            in_a_row = in_a_row + 1 if away else 0
            if in_a_row == _MOST_IN_A_ROW:
                break
    reason = f"not tried, after {_MOST_IN_A_ROW} sweeps with failures of the infrastructure in a row"
    return unwritten + [ShardFailure(name=plan.names[number], reason=reason, is_infrastructure=True) for number in untried]


def unwritten_report(unwritten: Sequence[ShardFailure], total: int) -> str:
    """Return what a command prints when some of `total` shards could not be written."""
    lines = [f"{failure.name}: {failure.reason}" for failure in unwritten[:_MOST_NAMED]]
    return "\n".join([*lines, f"{len(unwritten)} of {total} shards are not written; start again with the same arguments"])


def _try_to_write(write: WriteShards, output: AnyPath, numbers: tuple[int, ...]) -> dict[int, int | ShardFailure]:
    """Return the bytes of each shard of a sweep, or why it cannot be written while others can."""
    found: dict[int, int | ShardFailure] = {}
    try:
        for number, size in write(numbers):
            found[number] = size
    except (ValueError, OSError) as error:
        left = tuple(number for number in numbers if number not in found)
        if len(left) == 1 or isinstance(error, OSError):
            found[left[0]] = failed = _failure(error, output, left[0])
            if isinstance(failed, ShardFailure):
                reason = f"not tried, after {failed.name}, which is read in the same sweep"
                names = cached_plan(output).names
                found |= {n: ShardFailure(name=names[n], reason=reason, is_infrastructure=True) for n in left[1:]}
            else:
                found |= _try_to_write(write, output, left[1:]) if left[1:] else {}
        else:  # a part of the archive is not as it was planned: the other shards of the sweep may be without it
            for number in left:
                found |= _try_to_write(write, output, (number,))
    return found


def _failure(error: ValueError | OSError, output: AnyPath, number: int) -> int | ShardFailure:
    """Return why a shard could not be written, or its bytes where another job has written it.

    Raises InfrastructureError when the output accepts no more files.
    """
    plan = cached_plan(output)
    name = plan.names[number]
    failure = ShardFailure(name=name, reason=" ".join(str(error).split()), is_infrastructure=isinstance(error, OSError))
    if isinstance(error, OSError):
        if isinstance(error, FileNotFoundError) and has_written_index(output, name, plan.hash):
            # Another job wrote the same shard, finished the corpus and removed the unfinished file of this one.
            return (output / f"{name}.tar").stat().st_size
        is_in_output = isinstance(output, Path) and bool(error.filename) and Path(str(error.filename)).is_relative_to(output)
        if is_in_output or error.errno in _OUTPUT_ERRNOS:
            message = f"{output} takes no more: {error.strerror}; what is finished stays: mend it and start again"
            raise InfrastructureError(message) from error
    return failure


def finish_corpus(plan: Plan, map_jobs: MapJobs, max_failed_share: float) -> bool:
    """Finish a corpus whose shards are written: check all of them, write the files that describe it, and print an overview.

    Returns False when more than `max_failed_share` of the samples could not be read; then dataset.json is not written.

    Raises ValueError when a shard is damaged, or when every sample was rejected.
    """
    with checked_contents(plan, map_jobs) as contents:
        return _finish(plan, contents, max_failed_share)


def _finish(plan: Plan, contents: CorpusContents, max_failed_share: float) -> bool:
    remove_leftovers(plan.folder, everything=True)
    write_rejected(plan, contents)
    print(overview_of_written_corpus(plan, contents.groups))
    samples, failed = (sum(getattr(group, name) for group in contents.groups.values()) for name in ("samples", "failed"))
    if failed > max_failed_share * (samples + failed):
        print(
            f"{failed} of {samples + failed} samples could not be read, more than --max_failed_share {max_failed_share}; "
            f"{REJECTED} says why, SHARD{FAILED} where: mend the archive and start again with --retry_failed true, or allow more"
        )
        return False
    if not samples:
        raise ValueError(f"every sample was rejected; the reasons are in {plan.folder / REJECTED}")
    write_dataset_json(plan, contents, write_sample_indexes(plan.folder, contents))
    print(f"{plan.folder / DATASET} describes the corpus")
    return True
