"""The memory that processes may use."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")  # of version 2 (Linux kernel documentation, Control Group v2, memory.max)
_OWN_CGROUP = Path("/proc/self/cgroup")


def memory_limit() -> int:
    """Return the bytes that this process may use: those of the machine, or of the container or SLURM job that it runs in."""
    limits = [psutil.virtual_memory().total]
    try:
        own = next(line.partition("::")[2] for line in _OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "/"
    folder = _CGROUPS / own.strip("/")
    for place in (folder, *folder.parents):
        if place.is_relative_to(_CGROUPS) and (place / "memory.max").is_file():
            text = (place / "memory.max").read_text().strip()
            limits += [int(text)] if text.isdecimal() else []
    return min(limits)


def worker_share(workers: int) -> int:
    """Return half of the memory by the number of workers on this machine, in bytes."""
    return memory_limit() // 2 // workers
