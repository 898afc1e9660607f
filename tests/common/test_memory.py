"""The limit of memory, with control groups made by the tests."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from common import memory


def test_the_smallest_limit_of_all_control_groups_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "groups" / "slurm" / "job"
    job.mkdir(parents=True)
    (tmp_path / "own").write_text("12:cpu:/x\n0::/slurm/job\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    machine = psutil.virtual_memory().total
    assert memory.memory_limit() == machine
    (job / "memory.max").write_text("max\n")
    assert memory.memory_limit() == machine
    (job.parent / "memory.max").write_text("4000000\n")
    assert memory.memory_limit() == 4_000_000
    (job / "memory.max").write_text("8000000\n")
    assert memory.memory_limit() == 4_000_000
    assert memory.worker_share(4) == 500_000
    (tmp_path / "own").unlink()
    assert memory.memory_limit() == machine
