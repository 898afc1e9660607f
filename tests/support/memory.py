"""The peak memory of a process, for tests and benchmarks that run one to measure it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def peak_kilobytes() -> int:
    """Return the largest resident memory of this process so far, on Linux.

    `ru_maxrss` would be wrong: a process inherits it from its parent, such as a large test run.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def in_own_process(work: Callable[[], Result]) -> Result:
    """Do work in a fresh process, so that its peak is that of this work."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()
