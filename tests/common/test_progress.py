"""Progress as plain lines, as JSON lines and as a bar."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import time
from pathlib import Path

import pytest

from common.progress import PROGRESS, Progress


def test_progress_in_plain_lines_and_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream, log = io.StringIO(), tmp_path / PROGRESS
    with Progress("write", total=10, done=4, log=log, stream=stream) as progress:
        for _ in range(6):
            clock[0] += 20
            progress.add(size=40_000_000)
    assert stream.getvalue().splitlines() == [
        "write: 6 of 10 shards, 2 MB/s, 00:40 gone, 01:20 left",
        "write: 8 of 10 shards, 2 MB/s, 01:20 gone, 00:40 left",
        "write: 10 of 10 shards, 2 MB/s, 02:00 gone",
        "write: 10 of 10 shards, 2 MB/s, 02:00 gone",
    ]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["done"] for row in rows] == [5, 6, 7, 8, 9, 10, 10]
    assert rows[1] == {
        "time": rows[1]["time"],
        "stage": "write",
        "done": 6,
        "total": 10,
        "bytes": 80_000_000,
        "elapsed_s": 40.0,
        "bytes_s": 2_000_000,
        "left_s": 80.0,
    }


def test_progress_on_a_terminal_is_a_bar() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, Progress("write", total=3, stream=terminal) as progress:
        progress.add(size=1_000_000)
    shown = os.read(master, 10_000).decode()
    os.close(master)
    assert re.search(r"write: +0%\|.*\| 0/3", shown)
