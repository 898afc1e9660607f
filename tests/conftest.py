"""Fixtures of several test files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the processes of pytest-xdist take whole files, whose tests share fixtures, and one of them all clusters in turn."""
    for item in items:
        group = "clusters" if item.path.stem in _ON_CLUSTERS else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs and maps can be compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
