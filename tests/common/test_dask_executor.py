"""A Dask cluster without workers, and addresses where no scheduler is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from distributed import LocalCluster

from common import dask_executor
from common.errors import InfrastructureError
from common.executors import open_executor
from common.exit_codes import INFRASTRUCTURE, USER_ERROR, exit_code
from common.sbatch import sbatch_error
from tests.support.pretraining import free_port


def test_a_scheduler_without_workers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in {"_FIRST_WORDS_S": 0.5, "_WORDS_EVERY_S": 1.0, "MOST_WAIT_S": 2.0, "_LOOK_EVERY_S": 0.1}.items():
        monkeypatch.setattr(dask_executor, name, seconds)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        none = f"workers: the Dask scheduler at {address} has none"
        with (
            pytest.raises(InfrastructureError, match=f"waited 2 s for {none}.*start again"),
            open_executor("dask", workers=1, scheduler=address) as map_jobs,
        ):
            list(map_jobs(abs, [-1]))
    assert capsys.readouterr().err == f"waiting for {none} (`dask worker {address}` starts one)\n" * 2


def test_workers_that_come_late_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "MOST_WAIT_S", 60.0)
    with (
        LocalCluster(n_workers=0, dashboard_address=None, processes=False) as cluster,
        open_executor("dask", workers=1, scheduler=cluster.scheduler_address) as map_jobs,
    ):
        results = map_jobs(abs, [-1])
        cluster.scale(1)
        assert list(results) == [(-1, 1)]


def test_an_address_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_CONNECT_S", 1)
    address, begin = f"tcp://127.0.0.1:{free_port()}", time.monotonic()
    with (
        pytest.raises(OSError, match=f"no Dask scheduler at {address}") as caught,
        open_executor("dask", workers=1, scheduler=address),
    ):
        pass
    assert exit_code(caught.value) == INFRASTRUCTURE
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("sbatch: error: invalid partition specified: nowhere", USER_ERROR),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", USER_ERROR),
        ("", USER_ERROR),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", INFRASTRUCTURE),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", INFRASTRUCTURE),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", INFRASTRUCTURE),
    ],
)
def test_what_sbatch_says(said: str, expected: int) -> None:
    error = sbatch_error(said)
    assert exit_code(error) == expected
    assert (said or "nothing") in str(error)


def test_dask_workers_as_slurm_jobs_without_sbatch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dask
    import dask_jobqueue  # noqa: F401  (before `set`, which would take its defaults away again)

    monkeypatch.setenv("PATH", str(tmp_path))
    settings = {"jobqueue.slurm.cores": 1, "jobqueue.slurm.memory": "1GB"}
    with (
        dask.config.set(settings),
        pytest.raises(ValueError, match="`sbatch`, which is not on this machine"),
        open_executor("dask", workers=1, scheduler="slurm") as map_jobs,
    ):
        list(map_jobs(abs, [-1]))
