"""Executors: local workers and Dask, with workers that die."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from common.dask_executor import slurm_seconds
from common.executors import map_local, open_executor
from tests.support.mortal import square_or_die

ROOT = Path(__file__).parents[2]


def test_dask_workers_as_slurm_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an `sbatch` that starts the job's script here, at once, and a `scancel` that does nothing."""
    commands = tmp_path / "bin"
    commands.mkdir()
    start = f'cp "$1" {tmp_path}/job.sh\nbash {tmp_path}/job.sh > {tmp_path}/job.log 2>&1 &\n'
    (commands / "sbatch").write_text(f'#!/usr/bin/env bash\n{start}echo "Submitted batch job $!"\n')
    (commands / "scancel").write_text("#!/usr/bin/env bash\n")
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "flags").mkdir()
    settings_ = {"cores": 1, "memory": "1GB", "walltime": "0:40:00", "death-timeout": "30", "log-directory": str(tmp_path)}
    import dask
    import dask_jobqueue  # noqa: F401  (before `set`, which would take its defaults away again)

    with (
        dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings_.items()}),
        open_executor("dask", workers=1, scheduler="slurm") as map_jobs,
    ):
        jobs = list(map_jobs(partial(square_or_die, tmp_path / "flags"), [0, 1, 2]))
    assert sorted(jobs) == [(0, 0), (1, 1), (2, 4)]
    assert dask.config.get("distributed.scheduler.allowed-failures") < 10, "the setting is for this cluster only"
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH -t 0:40:00" in script
    assert "--lifetime 2160s --lifetime-stagger 120s" in script, "the worker ends before SLURM ends its job"


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("90", 5400), ("1:30", 90), ("02:00:00", 7200), ("1-12", 129_600), ("1-0:30", 88_200), ("1-00:00:10", 86_410)],
)
def test_walltimes_of_slurm(walltime: str, seconds: int) -> None:
    assert slurm_seconds(walltime) == seconds


def test_a_worker_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    jobs = list(range(8))
    for engine in ("local", "dask"):
        flags = tmp_path / engine
        flags.mkdir()
        with open_executor(engine, workers=2) as map_jobs:  # type: ignore[arg-type]
            assert sorted(map_jobs(partial(square_or_die, flags), jobs)) == [(number, number**2) for number in jobs]
        assert len(list(flags.iterdir())) == 3


def test_a_job_that_kills_every_worker_ends_the_run() -> None:
    with open_executor("dask", workers=2) as map_jobs, pytest.raises(OSError, match="workers keep dying"):
        list(map_jobs(os._exit, [1]))


def test_map_local_keeps_equal_jobs_apart() -> None:
    assert list(map_local(abs, [-1, -1, 2], workers=2)).count((-1, 1)) == 2


def test_a_dead_worker_is_said_in_a_line() -> None:
    with pytest.raises(OSError, match="a worker process died"):
        list(map_local(os._exit, [3, 4], workers=2))


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "sleep.py"
    script.write_text(
        "import time\nfrom common.executors import map_local\n"
        "if __name__ == '__main__':\n    list(map_local(time.sleep, [60, 60], workers=2))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    parent, workers = psutil.Process(process.pid), []
    deadline = time.monotonic() + 60
    while len(workers) < 3 and time.monotonic() < deadline:  # two workers and the resource tracker
        workers = parent.children()
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert len(workers) == 3
    assert not alive
