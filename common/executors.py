"""Executors: local processes, Dask and SLURM, each of which maps a function over jobs such as shard numbers or scenes.

An executor keeps no record of finished jobs: the output folder does.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Literal, Protocol, TypeVar

from common.dask_executor import dask_executor
from common.errors import InfrastructureError
from common.stop_signals import signals_held_back, start_resource_tracker

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")
Executor = Literal["local", "dask", "slurm"]

_MOST_DEATHS = 3  # deaths of local workers in a row without a finished job


class MapJobs(Protocol):
    """A function that runs jobs and yields pairs of job and result in the order in which jobs finish."""

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]: ...


@contextmanager
def open_executor(executor: Executor, workers: int, scheduler: str | None = None) -> Iterator[MapJobs]:
    """Yield the function that runs jobs in local processes or on a Dask cluster; the cluster ends with the `with`.

    `scheduler` is the address of a running Dask scheduler, or `slurm` for Dask workers that are SLURM jobs, configured as
    dask-jobqueue documents; without it Dask starts `workers` local processes. Raises OSError when no scheduler answers,
    and InfrastructureError when there are no workers for `MOST_WAIT_S`.
    """
    if executor == "local":
        yield partial(map_local, workers=workers)
        return
    with dask_executor(workers, scheduler) as map_jobs:
        yield map_jobs


def in_this_process(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
    """Run jobs in this process; yield pairs of job and result in order."""
    return ((job, function(job)) for job in jobs)


def map_local(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Run jobs in spawned processes; yield pairs of job and result in the order in which jobs finish.

    Spawned, because handles of GDAL, HDF5 and fsspec do not survive a fork. With one worker, jobs run in this process. When a
    worker dies, its pool ends and a new pool takes the remaining jobs. Raises OSError when workers keep dying.
    """
    if workers == 1 or len(jobs) < 2:
        yield from in_this_process(function, jobs)
        return
    remaining = dict(enumerate(jobs))
    deaths = 0
    while remaining:
        try:
            for number, result in _map_pool(function, dict(remaining), workers):
                deaths = 0
                yield remaining.pop(number), result
        except BrokenProcessPool as error:
            deaths += 1
            if deaths == _MOST_DEATHS:
                raise InfrastructureError(
                    f"a worker process died (out of memory?), {deaths} times without finishing anything; "
                    "what is finished stays: start again with fewer workers"
                ) from error


def _map_pool(function: Callable[[Job], Result], jobs: Mapping[int, Job], workers: int) -> Iterator[tuple[int, Result]]:
    """Yield pairs of a job's number and its result. Raises BrokenProcessPool when a worker dies."""
    context = multiprocessing.get_context("spawn")
    parent_lives, life_line = context.Pipe(duplex=False)
    initializer = partial(_end_with_parent, parent_lives)
    start_resource_tracker()
    with life_line, ExitStack() as stack:
        with signals_held_back():  # workers start here; this process tells them when to stop
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=initializer))
            futures = {pool.submit(function, job): number for number, job in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except Exception:
            raise  # of a job: workers finish theirs
        except BaseException:
            life_line.close()  # asked to stop, or the results are of no use any more: workers end at once
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent(parent_lives: Connection) -> None:
    """End this worker when its parent closes the other end of the pipe, or is killed; it would wait for jobs for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent_lives, parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
