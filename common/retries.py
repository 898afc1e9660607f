"""Trying work again after transient errors, and the limits of time that hold for every access to a storage at a URL.

One policy for all commands. A request waits `CONNECT_S` for a connection and `READ_S` for the next bytes of an answer. After a
transient error it is tried again up to `RETRIES` times with half a minute of waiting together, but no new try begins later than
`PATIENCE_S` after the first. So constant answers of 500 end the work after half a minute, and a server that never answers ends it
after two minutes. The same command then resumes from what is finished.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from common.errors import is_transient

Result = TypeVar("Result")

CONNECT_S, READ_S = 10.0, 60.0
RETRIES = 6
PATIENCE_S = 100.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_SILENCE_S = 10.0  # work that is tried again for longer says so, once in this time


class Tries:
    """The tries of one piece of work.

    Args:
        retries: largest number of new tries after the first one.
        patience_s: no new try begins later than this after the first one.
        doing: what is tried, for a line on stderr while it keeps failing; nothing is printed without it.

    Attributes:
        failed: number of tries that failed.
    """

    _last_notice = -math.inf  # shared by all work of this process

    def __init__(self, retries: int, patience_s: float = math.inf, doing: str = "") -> None:
        self.failed = 0
        self._retries, self._patience, self._doing = retries, patience_s, doing
        self._begin = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first try began."""
        return time.monotonic() - self._begin

    def wait_after(self, error: Exception) -> float:
        """Return the seconds to wait after `error` before the next try: 0.5, then twice as long each time, at most a minute.

        Raises the error itself when it is not transient, or when there is no next try.
        """
        self.failed += 1
        if self.failed > self._retries or self.elapsed_s > self._patience or not is_transient(error):
            raise error
        now = time.monotonic()
        if self._doing and self.elapsed_s > _SILENCE_S and now - Tries._last_notice > _SILENCE_S:
            Tries._last_notice = now
            cause = one_line(error)
            print(f"{self._doing}: no success for {self.elapsed_s:.0f} s, trying again: {cause}", file=sys.stderr, flush=True)
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (self.failed - 1))


def retried(work: Callable[[], Result], retries: int | Tries = RETRIES) -> Result:
    """Return the result of `work`; after a transient error try again, up to `retries` times. Raises the last error."""
    tries = Tries(retries) if isinstance(retries, int) else retries
    while True:
        try:
            return work()
        except Exception as error:
            time.sleep(tries.wait_after(error))


async def retried_async(work: Callable[[], Awaitable[Result]], tries: Tries) -> Result:
    """Return the result of `work` as `retried` does, in an event loop."""
    while True:
        try:
            return await work()
        except Exception as error:
            await asyncio.sleep(tries.wait_after(error))


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, without its number; its class where it has no text, as time-outs have none."""
    text = without_queries(re.sub(r"^\[Errno \d+\] ", "", str(error)))
    return " ".join(text.split()) or type(error).__name__


def without_queries(text: str) -> str:
    """Return a text with `?...` for the query of each URL in it: that of a signed URL gives anybody access."""
    return re.sub(r"""(://[^\s?'"]+)\?[^\s'")\]>,]+""", r"\1?...", text)
