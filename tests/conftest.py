"""Fixtures of several test files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

# Variables of a job, a launcher or a cluster's login node around the tests, which would tell the code under test of ranks, queues
# and hosts that are not those of the test.
_OF_A_CLUSTER = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SCANCEL_", "SQUEUE_", "OMPI_", "PMIX_", "PMI_", "DASK_", "PDSH_")
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "HOSTFILE", "LAUNCHER", "NUM_RANKS")

# Each starts two hosts and their daemons, which do not answer in time where two clusters share two cores.
_ON_CLUSTERS = ("test_shard_engines", "test_disturbed_hosts", "test_lost_node", "test_started_by_hand", "test_stopping_matrix")


def pytest_configure() -> None:
    """Let tests find the same environment on a cluster's login node, in a job and on a laptop."""
    for name in [*os.environ]:
        if name.startswith(_OF_A_CLUSTER) or name in _OF_A_RANK:
            del os.environ[name]


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Processes of pytest-xdist take whole files, whose tests share fixtures, and one of them takes all clusters in turn.

    The groups of `--dist loadgroup` are lost with pytest 9.2 and pytest-xdist 3.8.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clusters" if Path(file).stem in _ON_CLUSTERS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    return _ByFile(config, log)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs and maps can be compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
