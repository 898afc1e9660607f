"""The peak memory of a process, for tests and benchmarks that run one to measure it."""

from __future__ import annotations

from pathlib import Path


def peak_kilobytes() -> int:
    """Return the largest resident memory of this process so far, on Linux.

    `ru_maxrss` would be wrong: a process inherits it from its parent, such as a large test run.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
