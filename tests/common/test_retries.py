"""Waits between retries."""

from __future__ import annotations

import time

import pytest

from common.retries import retried


def test_waits_double_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def work() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        retried(work, 9)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    waits.clear()
    with pytest.raises(ZeroDivisionError):
        retried(lambda: 1 / 0, 9)
    assert waits == []
