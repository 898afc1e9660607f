"""Trying work again after transient errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from common.errors import is_transient

Result = TypeVar("Result")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0


def retried(work: Callable[[], Result], retries: int) -> Result:
    """Return the result of `work`; after a transient error try again, up to `retries` times.

    Waits 0.5 s before the first new try and twice as long before each further one, at most a minute. Raises the last error.
    """
    for attempt in range(retries):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))
    return work()
