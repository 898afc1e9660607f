"""How far a long command is: a bar on a terminal, plain lines elsewhere, and JSON lines for whoever watches."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tqdm import tqdm

PROGRESS = "progress.jsonl"  # in the corpus; a log, not part of what is proven
_PLAIN_EVERY_S = 30.0
_LOG_EVERY_S = 1.0


class Progress:
    """Counts finished units and their bytes; shows rate and time left. Use it in a `with`.

    Args:
        what: the stage (`write`, `verify`).
        total, done: units in all, and those that were finished before.
        unit: name of a unit.
        log: file to append JSON lines to, at most one a second and one at the end:
            time (Unix, s), stage, done, total, bytes, elapsed_s, bytes_s, left_s.
        stream: where people look; default stderr.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, unit: str = "shard", log: Path | None = None, stream: IO[str] | None = None
    ) -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self._log = log
        self._stream = stream or sys.stderr
        self._before = done
        self._bytes = 0
        self._begin = self._logged = self._said = time.monotonic()
        on_terminal = self._stream.isatty()
        self._bar = tqdm(desc=what, unit=unit, total=total, initial=done, file=self._stream) if on_terminal else None

    def add(self, size: int = 0, units: int = 1) -> None:
        """`units` more are finished, of `size` bytes together."""
        self.done += units
        self._bytes += size
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._bytes / 1e6 / max(now - self._begin, 1e-9):.0f} MB/s", refresh=False)
            self._bar.update(units)
        elif now - self._said >= _PLAIN_EVERY_S:
            self._said = now
            self._say()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            self._write_log()

    def _rates(self) -> tuple[float, float, float | None]:
        """Seconds since the start, bytes a second, seconds left (None before anything is finished)."""
        elapsed = max(time.monotonic() - self._begin, 1e-9)
        finished = self.done - self._before
        return elapsed, self._bytes / elapsed, (self.total - self.done) * elapsed / finished if finished else None

    def _say(self) -> None:
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
        # One write in append mode: the lines of several jobs that share the corpus do not tear each other.
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
            self._say()
        if kind is None:  # a full disk is not said twice
            self._write_log()
