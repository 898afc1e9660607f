"""Executors: local processes, Dask and SLURM, each of which maps a function over jobs such as shard numbers or scenes.

An executor keeps no record of finished jobs: the output folder does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from common.errors import InfrastructureError
from common.stop_signals import signals_held_back

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")
Executor = Literal["local", "dask", "slurm"]

SLURM = "slurm"  # given instead of a scheduler's address: Dask starts its workers as SLURM jobs
_MOST_DEATHS = 3  # deaths of local workers in a row without a finished job
_ALLOWED_FAILURES = 10  # deaths of workers after which Dask gives a job up; queues end workers all the time
_LIFETIME_SHARE = 0.9  # share of the walltime after which a Dask worker ends between two jobs, before SLURM ends it within one
_SBATCH = Path(__file__).parents[1] / "launch" / "shard.sbatch"


class MapJobs(Protocol):
    """A function that runs jobs and yields pairs of job and result in the order in which jobs finish."""

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]: ...


@contextmanager
def open_executor(executor: Executor, workers: int, scheduler: str | None = None) -> Iterator[MapJobs]:
    """Yield the function that runs jobs in local processes or on a Dask cluster; the cluster ends with the `with`.

    `scheduler` is the address of a running Dask scheduler, or `slurm` for Dask workers that are SLURM jobs, configured as
    dask-jobqueue documents; without it Dask starts `workers` local processes. Raises OSError when no scheduler answers.
    """
    if executor == "local":
        yield partial(map_local, workers=workers)
        return
    from distributed import Client, LocalCluster  # imported here because it takes a second

    with ExitStack() as stack:
        if scheduler is None:
            _start_resource_tracker()
            with signals_held_back():  # as for the workers of a pool
                cluster: Any = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            stack.callback(_close, cluster)
        elif scheduler == SLURM:
            cluster = stack.enter_context(slurm_cluster(workers))
        else:
            cluster = scheduler
        try:
            client = stack.enter_context(Client(cluster))
        except OSError as error:
            raise OSError(f"no Dask scheduler at {scheduler}: {error}") from error
        yield partial(_map_dask, client)


def _close(cluster: Any) -> None:
    """Close a local Dask cluster. Dask cannot join a worker that is being restarted and asserts; this is harmless."""
    with suppress(AssertionError):
        cluster.close()


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
    _start_resource_tracker()
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


def _start_resource_tracker() -> None:
    """Start multiprocessing's own process, which ignores other stop signals, so that a closed terminal does not end it either."""
    with signals_held_back([signal.SIGHUP]):
        resource_tracker.ensure_running()


def _end_with_parent(parent_lives: Connection) -> None:
    """End this worker when its parent closes the other end of the pipe, or is killed; it would wait for jobs for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent_lives, parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _map_dask(client: Any, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
    """Run jobs on a Dask cluster. A job whose worker dies goes to another worker; an error of the job itself is raised."""
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    address = client.scheduler.address
    futures = dict(zip(client.map(function, jobs, pure=False), jobs, strict=True))
    try:
        for future in as_completed(futures):
            job = futures.pop(future)
            yield job, future.result()
    except (FutureCancelledError, CommClosedError) as error:  # CommClosedError: while a result was being sent
        raise InfrastructureError(f"the Dask scheduler at {address} went away; what is finished stays: start again") from error
    except KilledWorker as error:
        raise InfrastructureError(f"workers keep dying (out of memory?): {error}; what is finished stays: start again") from error


def slurm_cluster(workers: int) -> Any:
    """Start a Dask cluster of `workers` SLURM jobs, each replaced when it ends.

    Queue, walltime and memory come from dask-jobqueue's settings. Raises ValueError when dask-jobqueue is not installed or not
    configured.
    """
    import dask

    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ValueError('Dask on SLURM needs dask-jobqueue: python -m pip install ".[slurm]"') from error
    walltime = _slurm_seconds(str(dask.config.get("jobqueue.slurm.walltime")))
    lifetime, stagger = walltime * _LIFETIME_SHARE, walltime * (1 - _LIFETIME_SHARE) / 2
    options = [*(dask.config.get("jobqueue.slurm.worker-extra-args", None) or [])]
    options += ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]
    try:
        with dask.config.set({"distributed.scheduler.allowed-failures": _ALLOWED_FAILURES}):  # only for this scheduler
            cluster = SLURMCluster(worker_extra_args=options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"dask-jobqueue: {error}; configure jobqueue.slurm (cores, memory, walltime, queue)") from error
    cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)  # unlike `scale`, replaces a job that ended
    return cluster


def _slurm_seconds(walltime: str) -> int:
    """Convert SLURM's `minutes`, `[hours:]minutes:seconds` or `days-hours[:minutes[:seconds]]` to seconds."""
    days, _, clock = walltime.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = (0, *parts)[-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def submit_slurm(writing: Sequence[str], finishing: Sequence[str], tasks: int) -> tuple[str, str]:
    """Run SLURM as executor without Dask: submit an array of `tasks` jobs and a job that starts after them; return both ids.

    Both run `launch/shard.sbatch`. `writing` and `finishing` are the arguments of the array and of the last job. Options of
    `sbatch` itself come from its environment (SBATCH_PARTITION, SBATCH_ACCOUNT, ...). Raises OSError when `sbatch` is missing
    or fails.
    """

    environment = {**os.environ, "AGRIFM_PROJECT": str(_SBATCH.parents[1])}  # SLURM runs a copy of the script in another folder

    def submit(option: str, arguments: Sequence[str]) -> str:
        command = ["sbatch", "--parsable", option, str(_SBATCH), *arguments]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise OSError("--engine slurm submits jobs with `sbatch`, which is not on this machine") from error
        if done.returncode != 0:
            raise OSError(f"sbatch ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip().split(";")[0]

    array = submit(f"--array=0-{tasks - 1}", writing)
    return array, submit(f"--dependency=afterany:{array}", finishing)
