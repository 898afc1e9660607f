"""Durations as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A number of seconds in a fitting unit: `22 s`, `3.1 min`, `5.0 h`, `2.3 d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
