"""A job that kills its worker, in a module of its own because every new worker imports it."""

from __future__ import annotations

import os
from pathlib import Path


def square_or_die(flags: Path, number: int) -> int:
    """Return the square; every third number kills its worker at the first try, and leaves a flag in `flags`."""
    if number % 3 == 0 and not (flags / str(number)).exists():
        (flags / str(number)).touch()
        os._exit(1)
    return number * number
