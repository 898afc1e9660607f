"""The suite passes in a job of a cluster as on a laptop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IN_A_JOB = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "1"}


@pytest.mark.slow
def test_variables_of_a_job_around_the_tests_do_not_reach_them() -> None:
    """In a job of an array, `--shards array` would be right where the test expects an error."""
    test = "tests/data_prep/test_shard_failures.py::test_wrong_parts[array]"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | IN_A_JOB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
