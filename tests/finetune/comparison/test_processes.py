"""Why a run failed."""

from __future__ import annotations

from finetune.comparison.processes import failure_reason


def test_the_reason_is_the_error_and_not_the_bar_after_it() -> None:
    assert failure_reason(2, b"1/4\rerror: no label\n 3/4\r") == "error: no label"
    assert failure_reason(1, b"Traceback:\n  x\ntorch.OutOfMemoryError: of memory\n4/4") == "torch.OutOfMemoryError: of memory"
    assert failure_reason(3, b"a\nb\n\n") == "b"
    assert failure_reason(3, b"") == "exit code 3"
    assert failure_reason(-9, b"x") == "killed by signal 9 (SIGKILL)"
