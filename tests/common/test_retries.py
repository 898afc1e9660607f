"""Waits between retries."""

from __future__ import annotations

import time

import pytest

from common.retries import RETRIES, Tries, one_line, retried, without_queries


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


class Clock:
    """Time that passes only in `sleep` and in work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.pass_by)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("work_s", "tries", "total_s"), [(0, 7, 31.5), (10, 7, 101.5), (60, 2, 120.5), (120, 1, 120)])
def test_no_new_try_begins_after_the_patience(work_s: float, tries: int, total_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def work() -> None:
        clock.pass_by(work_s)
        raise TimeoutError

    of_work = Tries(RETRIES, patience_s=100.0)
    with pytest.raises(TimeoutError):
        retried(work, of_work)
    assert (of_work.failed, clock.now - 1000) == (tries, total_s)


def test_long_work_says_that_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(Tries, "_last_notice", 0.0)
    outcomes = iter([ConnectionResetError(104, "gone\nfor now"), *[TimeoutError()] * 3, None])

    def work() -> None:
        clock.pass_by(8)
        error = next(outcomes)
        if error is not None:
            raise error

    retried(work, Tries(9, doing="s3://bucket/a: reading"))
    assert capsys.readouterr().err.splitlines() == [
        "s3://bucket/a: reading: no success for 16 s, trying again: TimeoutError",
        "s3://bucket/a: reading: no success for 36 s, trying again: TimeoutError",
    ]


def test_an_error_in_one_line() -> None:
    assert one_line(ConnectionResetError(104, "gone\nfor now")) == "gone for now"
    assert one_line(TimeoutError()) == "TimeoutError"


def test_queries_of_urls_are_not_shown() -> None:
    """A signed URL in an error would give anybody access to the file."""
    said = one_line(OSError("403, message='no', url='https://a.org/b.tif?sig=secret&x=1' and s3://c/d?e=f"))
    assert said == "403, message='no', url='https://a.org/b.tif?...' and s3://c/d?..."
    assert without_queries("is it there? https://a.org/b.tif, or not?") == "is it there? https://a.org/b.tif, or not?"
