"""A node of a real SLURM job crashes: the job is queued again by itself, and goes on where it was."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.launching import wait_for
from tests.support.stopped_runs import by_slurm


@pytest.mark.slow
def test_a_job_goes_on_after_a_node_has_crashed(tmp_path: Path) -> None:
    with ExitStack() as engines:
        run = by_slurm(tmp_path, engines)
        run.start(in_terminal=False)
        run.loses_a_host()
        assert run.ends() == "again", run.log
        reached = run.step
        run.cluster.hosts.restart("n2")
        run.cluster.start_node("n2")
        wait_for(lambda: run.step > reached, 400)  # SLURM itself waits for two minutes first
        assert [run.rank(number)["first"] for number in (0, 1)] == [10, 10]
