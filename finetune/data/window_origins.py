"""The rows or columns at which windows begin."""

from __future__ import annotations


def origins(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along an axis so that they cover 0..length; the last one may extend beyond the end."""
    return list(range(0, max(length - size + stride, 1), stride))


def origins_within(length: int, size: int, stride: int, step: int) -> list[int]:
    """As `origins`, but the last window moves back, by a multiple of `step`, to extend beyond the end as little as possible."""
    last = max(0, -(-(length - size) // step) * step)
    return [min(origin, last) for origin in origins(length, size, stride)]
