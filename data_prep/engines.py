"""Engines map a function over jobs (shard numbers, scenes) and know nothing else: what is done stands in the output folder."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import TypeVar

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


def map_local(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Pairs of job and result as they come, from spawned processes: handles of GDAL, HDF5 and fsspec survive no fork."""
    if workers == 1 or len(jobs) < 2:
        yield from ((job, function(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = {pool.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died (out of memory?); what is finished stays: start again with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Workers of a killed parent would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def map_dask(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, scheduler: str | None, retries: int = 3
) -> Iterator[tuple[Job, Result]]:
    """The same on a Dask cluster at the address `scheduler`, or on one of `workers` processes that lives as long as the call.

    A job whose worker dies goes to another one, `retries` times.
    """
    from distributed import Client, LocalCluster, as_completed  # takes a second to import; only this engine needs it

    with ExitStack() as stack:
        cluster = scheduler or stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
        client = stack.enter_context(Client(cluster))
        futures = dict(zip(client.map(function, jobs, pure=False, retries=retries), jobs, strict=True))
        for future in as_completed(futures):
            yield futures[future], future.result()
