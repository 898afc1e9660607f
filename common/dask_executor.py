"""Dask as executor: local workers, a running scheduler, or workers that are SLURM jobs.

While a cluster has no workers, the command says what it waits for, and ends when the wait is hopeless. What Dask logs about the
end of its own parts says nothing to a user and is not shown; errors of jobs are raised here.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from common.errors import InfrastructureError
from common.sbatch import sbatch_error
from common.stop_signals import signals_held_back, start_resource_tracker

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")

SLURM = "slurm"  # given instead of a scheduler's address: Dask starts its workers as SLURM jobs
_ALLOWED_FAILURES = 10  # deaths of workers after which Dask gives a job up; queues end workers all the time
_LIFETIME_SHARE = 0.9  # share of the walltime after which a Dask worker ends between two jobs, before SLURM ends it within one
_CONNECT_S = 10  # after which an address where no scheduler answers is given up
_FIRST_WORDS_S = 5.0  # without a worker, before the command says what it waits for
_WORDS_EVERY_S = 60.0
MOST_WAIT_S = 300.0  # without a worker, before the command ends; jobs that are pending in SLURM's queue are waited for
_LOOK_EVERY_S = 2.0
_POLL_S = 0.05
_SUBMIT_AGAIN, _SUBMIT_EVERY_S = 6, 10.0  # how often sbatch is tried again when SLURM did not answer
# What local workers log to the terminal. A job's error and the end of the scheduler are reported by this process.
_WORKER_LOGGING = {"distributed.worker": "critical", "distributed.worker.memory": "warning"}


@contextmanager
def dask_executor(workers: int, scheduler: str | None) -> Iterator[Callable[..., Iterator[tuple[Any, Any]]]]:
    """Yield the function that runs jobs on a Dask cluster; see `open_executor`."""
    import dask
    from distributed import Client, LocalCluster  # imported here because it takes a second

    slurm = None
    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Couldn't detect a suitable IP address")  # without the internet
        if scheduler is None:
            start_resource_tracker()
            logged = {"distributed.nanny.pre-spawn-environ.DASK_LOGGING": str(_WORKER_LOGGING)}
            stack.enter_context(dask.config.set(logged))
            with signals_held_back():  # as for the workers of a pool
                cluster: Any = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            stack.callback(_close, cluster)
        elif scheduler == SLURM:
            slurm = _SlurmWorkers(workers)
            stack.callback(_close, slurm.cluster)
            cluster = slurm.cluster
        else:
            cluster = scheduler
        try:
            client = Client(cluster, timeout=_CONNECT_S)
        except OSError as error:
            raise OSError(f"no Dask scheduler at {scheduler}: {error}") from error
        stack.callback(client.close)
        stack.callback(logging.disable)  # first at the end: Dask warns of each connection and job that ends with the cluster
        yield partial(_map_dask, client, slurm)


def _close(cluster: Any) -> None:
    """Close a Dask cluster. Dask cannot join a worker that is being started and asserts; this is harmless."""
    with suppress(AssertionError):
        cluster.close()


def _map_dask(
    client: Any, slurm: _SlurmWorkers | None, function: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[tuple[Job, Result]]:
    """Run jobs on a Dask cluster. A job whose worker dies goes to another worker; an error of the job itself is raised."""
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    address = client.scheduler.address
    try:
        wait = _WaitForWorkers(client, slurm)
        futures = dict(zip(client.map(function, jobs, pure=False), jobs, strict=True))
        completed = as_completed(futures)
        while not completed.is_empty():
            if not completed.has_ready():
                wait.look()
                time.sleep(_POLL_S)
                continue
            future = next(completed)
            job = futures.pop(future)
            yield job, future.result()
    except (FutureCancelledError, CommClosedError) as error:  # CommClosedError: while a result was being sent
        raise InfrastructureError(f"the Dask scheduler at {address} went away; what is finished stays: start again") from error
    except KilledWorker as error:
        raise InfrastructureError(f"workers keep dying (out of memory?): {error}; what is finished stays: start again") from error


class _WaitForWorkers:
    """Says what a run waits for while a Dask cluster has no workers.

    Args:
        client: of the cluster.
        slurm: starts the workers, if they are SLURM jobs.
    """

    def __init__(self, client: Any, slurm: _SlurmWorkers | None) -> None:
        self._client, self._slurm = client, slurm
        self._had_workers = bool(client.nthreads())
        self._since = self._looked = time.monotonic()  # a worker was there, or jobs were pending in SLURM's queue
        self._next_words = self._since + _FIRST_WORDS_S

    def look(self) -> None:
        """Look for workers, and print what the run waits for.

        Raises ValueError when SLURM refuses the workers' jobs, InfrastructureError when there was no worker for `MOST_WAIT_S`.
        """
        if self._slurm is not None and self._slurm.refusal is not None:
            raise self._slurm.refusal
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        try:
            if self._client.nthreads():
                self._had_workers, self._since, self._next_words = True, now, now + _FIRST_WORDS_S
                return
        except OSError:  # the scheduler is gone: soon all jobs are cancelled
            return
        if now < self._next_words:
            return
        self._next_words = now + _WORDS_EVERY_S
        address = self._client.scheduler.address
        logs = "; their logs say why" if self._had_workers or self._slurm else ""
        if self._slurm is None:
            lost = "has lost all of its workers" if self._had_workers else "has none"
            waits_for = f"workers: the Dask scheduler at {address} {lost} (`dask worker {address}` starts one)"
        else:
            jobs = self._slurm.jobs()
            if "PENDING" in jobs:
                self._since = now
            waits_for = f"Dask workers, which are SLURM jobs and connect to {address}: {jobs or 'none is in the queue'}"
        if now - self._since >= MOST_WAIT_S:
            raise InfrastructureError(f"waited {MOST_WAIT_S:.0f} s for {waits_for}{logs}; what is finished stays: start again")
        print(f"waiting for {waits_for}", file=sys.stderr, flush=True)


class _SlurmWorkers:
    """A Dask cluster of SLURM jobs, each replaced when it ends.

    Queue, walltime and memory come from dask-jobqueue's settings. Raises ValueError when dask-jobqueue is not installed or not
    configured.

    Args:
        workers: number of jobs.

    Attributes:
        cluster: of dask-jobqueue.
        refusal: why `sbatch` does not accept the jobs; None as long as it does.
    """

    def __init__(self, workers: int) -> None:
        import dask
        from distributed.deploy.spec import ProcessInterface

        try:
            from dask_jobqueue import SLURMCluster
            from dask_jobqueue.slurm import SLURMJob
        except ImportError as error:
            raise ValueError('Dask on SLURM needs dask-jobqueue: python -m pip install ".[slurm]"') from error
        self.refusal: Exception | None = None
        slurm = self

        class Submitted(SLURMJob):
            """A job whose refusal ends the run; dask-jobqueue would log a traceback, and wait."""

            async def start(self) -> None:
                try:
                    await super().start()
                except (ValueError, OSError) as error:
                    slurm.refusal = error
                    await ProcessInterface.start(self)  # so that the cluster can close it

            async def _submit_job(self, script_filename: str) -> str:
                for last in (*[False] * _SUBMIT_AGAIN, True):
                    try:
                        return str(await super()._submit_job(script_filename))
                    except FileNotFoundError as error:
                        raise ValueError("--scheduler slurm submits jobs with `sbatch`, which is not on this machine") from error
                    except RuntimeError as error:
                        refusal = sbatch_error(str(error).rpartition("stderr:")[2])
                        if last or not isinstance(refusal, InfrastructureError):
                            raise refusal from error
                    await asyncio.sleep(_SUBMIT_EVERY_S)
                raise AssertionError

        walltime = slurm_seconds(str(dask.config.get("jobqueue.slurm.walltime")))
        lifetime, stagger = walltime * _LIFETIME_SHARE, walltime * (1 - _LIFETIME_SHARE) / 2
        options = [*(dask.config.get("jobqueue.slurm.worker-extra-args", None) or [])]
        options += ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]
        try:
            with dask.config.set({"distributed.scheduler.allowed-failures": _ALLOWED_FAILURES}):  # only for this scheduler
                self.cluster = SLURMCluster(worker_extra_args=options, job_cls=Submitted)  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise ValueError(f"dask-jobqueue: {error}; configure jobqueue.slurm (cores, memory, walltime, queue)") from error
        self.cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)  # unlike `scale`, replaces a job that ended

    def jobs(self) -> str:
        """State and reason of each job that SLURM still has: `5 PENDING (Priority), 6 RUNNING (None)`."""
        ids = ",".join(str(job.job_id) for job in [*self.cluster.workers.values()] if job.job_id)
        command = ["squeue", "--noheader", f"--jobs={ids}", "--format=%i %T (%r)"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return ", ".join(done.stdout.split("\n")[:-1])


def slurm_seconds(walltime: str) -> int:
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
