"""The headline score of a task: one number by which its maps are compared."""

from __future__ import annotations

from typing import Any


def headline(result: dict[str, Any], target: str | None) -> tuple[str, float]:
    """Name and value of the headline score of a task: the F1 of its target class, or the mean F1 without a target."""
    if target is None:
        return "mean F1", result["mean_f1"]
    return f"{target.replace('_', ' ')} F1", result["classes"][target]["f1"]


def headline_interval(result: dict[str, Any], target: str | None) -> list[float] | None:
    """Interval [lower, upper] of the headline score; None if the result has no intervals."""
    intervals = result.get("intervals")
    if intervals is None:
        return None
    ends: list[float] = intervals["mean_f1"] if target is None else intervals["classes"][target]["f1"]
    return ends
