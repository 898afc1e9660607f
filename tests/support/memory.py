"""The peak memory of a process, for tests and benchmarks that run one to measure it."""

from __future__ import annotations

from pathlib import Path


def peak_kilobytes() -> int:
    """Largest resident memory of this process so far.

    Linux only. Not `ru_maxrss`: a process inherits that of the one that started it, so beside a large test run it
    says nothing.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
