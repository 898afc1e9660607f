"""Why a run failed."""

from __future__ import annotations

import pytest

from finetune.comparison.processes import environment_of_runs, failure_reason


def test_the_reason_is_the_error_and_not_the_bar_after_it() -> None:
    assert failure_reason(2, b"1/4\rerror: no label\n 3/4\r") == "error: no label"
    assert failure_reason(1, b"Traceback:\n  x\ntorch.OutOfMemoryError: of memory\n4/4") == "torch.OutOfMemoryError: of memory"
    assert failure_reason(3, b"a\nb\n\n") == "b"
    assert failure_reason(3, b"") == "exit code 3"
    assert failure_reason(-9, b"x") == "killed by signal 9 (SIGKILL)"


def test_runs_share_the_cores_unless_their_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: range(8), raising=False)
    assert [environment_of_runs(jobs)["OMP_NUM_THREADS"] for jobs in (1, 3, 20)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert environment_of_runs(1)["OMP_NUM_THREADS"] == "1"
