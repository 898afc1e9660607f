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


def pytest_configure() -> None:
    """Let tests find the same environment on a cluster's login node, in a job and on a laptop."""
    for name in [*os.environ]:
        if name.startswith(_OF_A_CLUSTER) or name in _OF_A_RANK:
            del os.environ[name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs and maps can be compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
