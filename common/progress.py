"""Progress of a long command: a bar on a terminal, plain lines elsewhere, and a log of JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tqdm import tqdm

from common.storage import AnyPath

PROGRESS = "progress.jsonl"  # the log in a corpus; verify.py does not check it
_PLAIN_EVERY_S = 30.0
_LOG_EVERY_S = 1.0


class Progress:
    """Counts finished units and their bytes, and shows the rate and the time left; use it in a `with`.

    Args:
        what: name of the stage (`write`, `verify`).
        total: number of units.
        done: number of units that were finished before.
        unit: name of a unit.
        log: file on this machine to which JSON lines are appended, at most one per second and one at the end (there is none at a
            URL, where nothing can be appended):
            time (Unix, s), stage, done, total, bytes, elapsed_s, bytes_s (bytes per second), left_s.
        stream: where the bar or the plain lines are written; default: stderr.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, unit: str = "shard", log: AnyPath | None = None, stream: IO[str] | None = None
    ) -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self._log = log if isinstance(log, Path) else None
        self._stream = stream or sys.stderr
        self._before = done
        self._bytes = 0
        self._begin = self._logged = self._printed = time.monotonic()
        on_terminal = self._stream.isatty()
        self._bar = tqdm(desc=what, unit=unit, total=total, initial=done, file=self._stream) if on_terminal else None

    def add(self, size: int = 0, units: int = 1) -> None:
        """Count `units` more finished units of `size` bytes together."""
        self.done += units
        self._bytes += size
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._bytes / 1e6 / max(now - self._begin, 1e-9):.0f} MB/s", refresh=False)
            self._bar.update(units)
        elif now - self._printed >= _PLAIN_EVERY_S:
            self._printed = now
            self._print()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            self._write_log()

    def _rates(self) -> tuple[float, float, float | None]:
        """Return seconds since the start, bytes per second, and seconds left (None until a unit is finished)."""
        elapsed = max(time.monotonic() - self._begin, 1e-9)
        finished = self.done - self._before
        return elapsed, self._bytes / elapsed, (self.total - self.done) * elapsed / finished if finished else None

    def _print(self) -> None:
        elapsed, speed, left = self._rates()
        rest = f", {tqdm.format_interval(left)} left" if left and self.done < self.total else ""
        print(
            f"{self.what}: {self.done} of {self.total} {self.unit}s, {speed / 1e6:.0f} MB/s, "
            f"{tqdm.format_interval(elapsed)} gone{rest}",
            file=self._stream,
            flush=True,
        )

    def _write_log(self) -> None:
        if self._log is None:
            return
        elapsed, speed, left = self._rates()
        row = {"time": round(time.time(), 3), "stage": self.what, "done": self.done, "total": self.total, "bytes": self._bytes}
        row |= {"elapsed_s": round(elapsed, 3), "bytes_s": round(speed), "left_s": None if left is None else round(left, 1)}
        line = json.dumps(row) + "\n"
        # One write in append mode, so that lines of several jobs that share the corpus never mix.
        file = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._print()
        if kind is None:  # after an error such as a full disk, writing the log would fail, too
            self._write_log()
