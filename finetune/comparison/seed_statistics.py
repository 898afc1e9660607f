"""Statistics of a comparison of encoders: means over seeds, and differences by seed with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from finetune.comparison.convergence import has_converged
from finetune.comparison.encoders import PRETRAINED_KINDS, encoder_kind
from finetune.comparison.scene_statistics import SceneCounts, interval_over_scenes, scene_counts

LEVEL = 0.95  # of the intervals


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

    @property
    def converged(self) -> bool | None:
        """Whether its training had converged; None where that is not known (see `finetune/comparison/convergence.py`)."""
        return None if self.metrics is None else has_converged(self.metrics.get("history", []))

    @property
    def scene_counts(self) -> SceneCounts | None:
        """Pixels of each test scene, if they are known."""
        return None if self.metrics is None else scene_counts(self.metrics)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores of one encoder at one fraction of the labels, or differences between two encoders.

    Attributes:
        values: float64 (seeds,), NaN where missing.
        mean: mean of the values that are not NaN; NaN without any.
        deviation: their standard deviation (n - 1); NaN for fewer than two.
        over_scenes: of a difference, its interval over test scenes; None where it is not known.
    """

    values: np.ndarray
    mean: float
    deviation: float
    over_scenes: tuple[float, float] | None = None

    @property
    def count(self) -> int:
        """Number of values that are not NaN."""
        return int((~np.isnan(self.values)).sum())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for fewer than two values."""
        return self.deviation / math.sqrt(self.count) if self.count > 1 else math.nan

    @property
    def over_seeds(self) -> tuple[float, float]:
        """Interval of the mean over seeds, by Student's t; NaN for fewer than two values."""
        if self.count < 2:
            return math.nan, math.nan
        half = float(student.ppf(0.5 + LEVEL / 2, self.count - 1)) * self.standard_error
        return self.mean - half, self.mean + half


def cell_of(values: Sequence[float], over_scenes: tuple[float, float] | None = None) -> Cell:
    """The cell of `values`, one per seed, NaN where missing."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    return Cell(
        values=array,
        mean=float(known.mean()) if len(known) else math.nan,
        deviation=float(known.std(ddof=1)) if len(known) > 1 else math.nan,
        over_scenes=over_scenes,
    )


class TaskComparison:
    """All runs of one task.

    Args:
        outcomes: the results of the runs.
        reference: the encoder that the others are compared with; by default the first one with a checkpoint, if there is one.

    Attributes:
        task, title: name and title of the task.
        score_name: name of its headline score.
        encoders, fractions, seeds: those of the comparison, fractions ascending.
        reference: the encoder that the others are compared with, or None.
    """

    def __init__(self, outcomes: Sequence[Outcome], reference: str | None = None) -> None:
        self.task, self.title = outcomes[0].task, outcomes[0].title
        self.encoders = list(dict.fromkeys(o.encoder for o in outcomes))
        self.fractions = sorted({o.label_fraction for o in outcomes})
        self.seeds = sorted({o.seed for o in outcomes})
        self._outcomes = {(o.encoder, o.label_fraction, o.seed): o for o in outcomes}
        self.score_name = next((o.metrics["score"]["name"] for o in outcomes if o.metrics), "score")
        pretrained = [encoder for encoder in self.encoders if encoder_kind(encoder) in PRETRAINED_KINDS]
        self.reference = reference or next(iter(pretrained), None)
        self._gains: dict[tuple[str, float], Cell] = {}

    @property
    def others(self) -> list[str]:
        """The encoders that the reference is compared with; empty without a reference."""
        return [encoder for encoder in self.encoders if self.reference in self.encoders and encoder != self.reference]

    def cell(self, encoder: str, fraction: float) -> Cell:
        """Scores of an encoder at a fraction of the labels, over seeds."""
        return cell_of([outcome.score for outcome in self._of_seeds(encoder, fraction)])

    def gain(self, other: str, fraction: float) -> Cell:
        """Scores of the reference minus those of another encoder with the same seed, and so with the same windows."""
        if (other, fraction) not in self._gains:
            assert self.reference is not None, "there are differences from a reference only"
            both = zip(self._of_seeds(self.reference, fraction), self._of_seeds(other, fraction), strict=True)
            pairs = [(one, two) for one, two in both]
            counts = [(one.scene_counts, two.scene_counts) for one, two in pairs if one.metrics and two.metrics]
            differences = [one.score - two.score for one, two in pairs]
            self._gains[other, fraction] = cell_of(differences, interval_over_scenes(counts, LEVEL))
        return self._gains[other, fraction]

    def convergence(self, encoder: str, fraction: float) -> tuple[int, int]:
        """How many trainings of an encoder had converged at a fraction of the labels, and of how many this is known."""
        known = [outcome.converged for outcome in self._of_seeds(encoder, fraction) if outcome.converged is not None]
        return sum(known), len(known)

    def training(self, fraction: float) -> list[dict[str, Any]]:
        """Numbers of training windows, pixels and steps of each finished run at a fraction."""
        outcomes = [outcome for encoder in self.encoders for outcome in self._of_seeds(encoder, fraction)]
        return [o.metrics["training"] for o in outcomes if o.metrics]

    @property
    def simulated(self) -> bool:
        """Whether a run says that scenes of its data are simulated; runs of earlier versions do not say."""
        return any(outcome.metrics.get("simulated") for outcome in self._outcomes.values() if outcome.metrics)

    @property
    def num_scenes(self) -> int:
        """Number of test scenes; 0 where it is not known."""
        counts = (outcome.scene_counts for outcome in self._outcomes.values())
        return next((len(each.scenes) for each in counts if each is not None), 0)

    def _of_seeds(self, encoder: str, fraction: float) -> list[Outcome]:
        return [self._outcomes[encoder, fraction, seed] for seed in self.seeds]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: one row per cell, and one per difference."""
        return {
            "title": self.title,
            "score": self.score_name,
            "test_scenes": self.num_scenes,
            "simulated": self.simulated,
            "reference": self.reference,
            "cells": [self._cell_row(encoder, fraction) for encoder in self.encoders for fraction in self.fractions],
            "reference_minus": [self._gain_row(encoder, fraction) for encoder in self.others for fraction in self.fractions],
        }

    def _cell_row(self, encoder: str, fraction: float) -> dict[str, Any]:
        cell, (converged, known) = self.cell(encoder, fraction), self.convergence(encoder, fraction)
        return {
            "encoder": encoder,
            "label_fraction": fraction,
            "mean": cell.mean,
            "standard_deviation": cell.deviation,
            "seeds": cell.count,
            "converged": converged,
            "convergence_known": known,
        }

    def _gain_row(self, encoder: str, fraction: float) -> dict[str, Any]:
        gain = self.gain(encoder, fraction)
        return {
            "encoder": encoder,
            "label_fraction": fraction,
            "mean": gain.mean,
            "standard_error": gain.standard_error,
            "seeds": gain.count,
            "interval_over_seeds": list(gain.over_seeds),
            "interval_over_scenes": None if gain.over_scenes is None else list(gain.over_scenes),
        }
