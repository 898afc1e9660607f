"""Ways in which a cluster interrupts a run of shard.py."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from common.progress import PROGRESS

ROOT = Path(__file__).parents[2]
SHARD = [sys.executable, str(ROOT / "data_prep" / "shard.py")]
Wait = Callable[[subprocess.Popen[bytes]], None]  # waits until the moment of the disturbance, or until the run ends


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of all files by name, without the log of progress."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != PROGRESS}


def start(arguments: Sequence[str], file_limit: int | None = None) -> subprocess.Popen[bytes]:
    """Start shard.py in a process group of its own; no file may grow beyond `file_limit` bytes."""
    limit = None if file_limit is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_limit, file_limit))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*SHARD, *arguments], start_new_session=True, preexec_fn=limit, **quiet)  # type: ignore[call-overload, no-any-return]


def kill_all(arguments: Sequence[str], wait: Wait) -> int:
    """Kill the run and its workers with SIGKILL, as when a node is lost."""
    process = start(arguments)
    wait(process)
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def kill_parent(arguments: Sequence[str], wait: Wait) -> int:
    """Kill the run alone with SIGKILL; its workers must end as well."""
    process = start(arguments)
    wait(process)
    process.kill()
    code = process.wait()
    _wait_for_group(process.pid)
    return code


def terminate(arguments: Sequence[str], wait: Wait) -> int:
    """Send SIGTERM, as SLURM does first."""
    process = start(arguments)
    wait(process)
    process.terminate()
    code = process.wait()
    _wait_for_group(process.pid)
    return code


def kill_worker(arguments: Sequence[str], wait: Wait) -> int:
    """Kill one worker with SIGKILL, as the kernel does when memory is short; the run continues with other workers."""
    process = start([*arguments, "--workers", "2"])
    wait(process)
    try:
        workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        if workers:
            workers[0].kill()
    except psutil.NoSuchProcess:
        pass  # the run had ended
    return process.wait()


def lose_scheduler(arguments: Sequence[str], wait: Wait) -> int:
    """Kill the Dask scheduler while its worker writes."""
    with dask_cluster(Path(arguments[arguments.index("--output") + 1]).parent) as (address, scheduler):
        process = start([*arguments, "--engine", "dask", "--scheduler", address])
        wait(process)
        scheduler.kill()
        return process.wait()


def lose_dask_worker(arguments: Sequence[str], wait: Wait) -> int:
    """Kill a Dask worker; its nanny starts another one, and the run continues."""
    with dask_cluster(Path(arguments[arguments.index("--output") + 1]).parent) as (address, _):
        process = start([*arguments, "--engine", "dask", "--scheduler", address])
        wait(process)
        for child in psutil.Process(os.getpid()).children(recursive=True):
            parent = child.parent()
            if "spawn_main" in " ".join(child.cmdline()) and parent is not None and "dask_worker" in " ".join(parent.cmdline()):
                child.kill()
        return process.wait()


@contextmanager
def dask_cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a Dask scheduler and a worker in processes of their own; yield the address and the scheduler's process."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    module = [sys.executable, "-m"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen([*module, "distributed.cli.dask_scheduler", *options], **quiet)
    worker = None
    try:
        while not (file.exists() and file.read_text().endswith("}")):
            time.sleep(0.02)
        address = json.loads(file.read_text())["address"]
        options = [address, "--no-dashboard", "--nthreads", "1", "--death-timeout", "60"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen([*module, "distributed.cli.dask_worker", *options], env=environment, **quiet)
        yield address, scheduler
    finally:
        scheduler.kill()
        scheduler.wait()
        if worker is not None:
            worker.wait(timeout=90)  # ends by itself without a scheduler


def _wait_for_group(group: int) -> None:
    """Wait until no process of the group is left."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise TimeoutError("workers outlive their parent")


DISTURBANCES: dict[str, Callable[[Sequence[str], Wait], int]] = {
    "kill -9 of run and workers": kill_all,
    "kill -9 of the run": kill_parent,
    "SIGTERM": terminate,
    "kill -9 of a worker": kill_worker,
    "Dask scheduler goes away": lose_scheduler,
    "Dask worker dies": lose_dask_worker,
}
