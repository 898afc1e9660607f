"""A job that kills its worker; in a module of its own, since every new worker imports it anew."""

from __future__ import annotations

import os
from pathlib import Path


def square_or_die(flags: Path, number: int) -> int:
    """The square; every third number kills its worker when it is first tried, and leaves a flag that it did."""
    if number % 3 == 0 and not (flags / str(number)).exists():
        (flags / str(number)).touch()
        os._exit(1)
    return number * number
