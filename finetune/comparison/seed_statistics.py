"""Statistics of a comparison of encoders: means over seeds, and differences by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

REFERENCE = "pretrained"  # what every other encoder is compared with


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one run.

    Attributes:
        task, title, encoder, label_fraction, seed: identify the run; `title` is that of the task.
        metrics: content of its metrics.json, or None.
        seconds: duration of its last process, without earlier ones that were interrupted; None when not known.
        error: why there are no metrics.
    """

    task: str
    title: str
    encoder: str
    label_fraction: float
    seed: int
    metrics: dict[str, Any] | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def score(self) -> float:
        """The task's headline score on the test scenes, 0 to 1; NaN where it is missing or not defined."""
        value = None if self.metrics is None else self.metrics["score"]["value"]
        return math.nan if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores of one encoder at one fraction of the labels.

    Attributes:
        values: float64 (seeds,), NaN where missing.
        mean: mean of the values that are not NaN; NaN without any.
        deviation: their standard deviation (n - 1); NaN for fewer than two.
    """

    values: np.ndarray
    mean: float
    deviation: float

    @property
    def count(self) -> int:
        """Number of values that are not NaN."""
        return int((~np.isnan(self.values)).sum())


def cell_of(values: Sequence[float]) -> Cell:
    """The cell of `values`, one per seed, NaN where missing."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    return Cell(
        values=array,
        mean=float(known.mean()) if len(known) else math.nan,
        deviation=float(known.std(ddof=1)) if len(known) > 1 else math.nan,
    )


class TaskComparison:
    """All runs of one task.

    Attributes:
        task, title: name and title of the task.
        score_name: name of its headline score.
        encoders, fractions, seeds: those of the comparison, fractions ascending.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.task, self.title = outcomes[0].task, outcomes[0].title
        self.encoders = list(dict.fromkeys(o.encoder for o in outcomes))
        self.fractions = sorted({o.label_fraction for o in outcomes})
        self.seeds = sorted({o.seed for o in outcomes})
        self._outcomes = {(o.encoder, o.label_fraction, o.seed): o for o in outcomes}
        self.score_name = next((o.metrics["score"]["name"] for o in outcomes if o.metrics), "score")

    def cell(self, encoder: str, fraction: float) -> Cell:
        """Scores of an encoder at a fraction of the labels, over seeds."""
        return cell_of([self._outcomes[encoder, fraction, seed].score for seed in self.seeds])

    def gain(self, other: str, fraction: float) -> Cell:
        """Scores of the reference minus those of another encoder with the same seed, and so with the same windows."""
        return cell_of(self.cell(REFERENCE, fraction).values - self.cell(other, fraction).values)

    def training(self, fraction: float) -> list[dict[str, Any]]:
        """Numbers of training windows, pixels and steps of each finished run at a fraction."""
        outcomes = [self._outcomes[encoder, fraction, seed] for encoder in self.encoders for seed in self.seeds]
        return [o.metrics["training"] for o in outcomes if o.metrics]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: one row per cell, and one per difference."""
        cells = [(encoder, fraction, self.cell(encoder, fraction)) for encoder in self.encoders for fraction in self.fractions]
        others = [encoder for encoder in self.encoders if encoder != REFERENCE and REFERENCE in self.encoders]
        gains = [(encoder, fraction, self.gain(encoder, fraction)) for encoder in others for fraction in self.fractions]
        return {
            "title": self.title,
            "score": self.score_name,
            "cells": [
                {"encoder": e, "label_fraction": f, "mean": c.mean, "standard_deviation": c.deviation, "seeds": c.count}
                for e, f, c in cells
            ],
            f"{REFERENCE}_minus": [
                {"encoder": e, "label_fraction": f, "mean": c.mean, "standard_error": standard_error(c), "seeds": c.count}
                for e, f, c in gains
            ],
        }


def standard_error(cell: Cell) -> float:
    """Standard error of the cell's mean; NaN for fewer than two values."""
    return cell.deviation / math.sqrt(cell.count) if cell.count > 1 else math.nan
