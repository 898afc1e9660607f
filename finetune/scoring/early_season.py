"""Early-season scores: how good a map is if the series ends at a date, and from which date on it is good enough.

The series is cut at each of a task's `cut_dates`: later images do not exist, and their periods are zeros, like any period without
an image. The caller decides what is scored, for instance a model on windows:

    def score(days):
        with windows.ended_after(days):
            return evaluate(model, windows, batch_size, device, loss)

    write_season(score_season(score, task, year=2022), output)  # early_season.json, .md (a table) and .png (a plot)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.task import Task


@dataclass(frozen=True, kw_only=True)
class SeasonScores:
    """Scores of a map by the last date seen.

    Attributes:
        task: the task of the map.
        dates: (N,) datetime64[D], ascending; the last one is the last day of the season.
        scores: (N,) `metrics.scores` at each date.
    """

    task: Task
    dates: np.ndarray
    scores: Sequence[Mapping[str, Any]]

    @property
    def headline(self) -> str:
        """Name of the headline curve in `f1`: the task's target class, or `mean`."""
        return self.task.target or "mean"

    @property
    def f1(self) -> dict[str, np.ndarray]:
        """F1 of each class, and their `mean`, at each date: float64 (N,), NaN where it is not defined."""
        curves = {"mean": self.curve("mean_f1")}
        for c in self.task.classes:
            curves[c.name] = _as_array(found["classes"][c.name]["f1"] for found in self.scores)
        return curves

    def curve(self, score: str) -> np.ndarray:
        """A score over all classes at each date: float64 (N,), NaN where it is not defined."""
        return _as_array(found[score] for found in self.scores)

    def early_enough(self) -> dict[str, np.datetime64 | None]:
        """For each curve of `f1` the first date from which on F1 stays at `season_share` of the last date's F1 or above."""
        return {name: earliest(self.dates, values, self.task.season_share) for name, values in self.f1.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task.name,
            "share": self.task.season_share,
            "headline": self.headline,
            "early_enough": {name: None if d is None else str(d) for name, d in self.early_enough().items()},
            "dates": [{"last_date": str(d), **found} for d, found in zip(self.dates, self.scores, strict=True)],
        }


def _as_array(values: Iterable[float | None]) -> np.ndarray:
    """Scores as float64 (N,), NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def earliest(dates: np.ndarray, values: np.ndarray, share: float) -> np.datetime64 | None:
    """The first of `dates` (N,) from which on all `values` (N,) are at least `share` of the last value.

    A value that is not defined (NaN) counts as too low. None if the last value is 0 or not defined, because then the model has
    learned nothing that an earlier date could reach.
    """
    if not len(values) or not values[-1] > 0:
        return None
    too_low = np.flatnonzero(~(values >= share * values[-1]))
    found: np.datetime64 = dates[too_low[-1] + 1 if len(too_low) else 0]
    return found


def score_season(score: Callable[[int], Mapping[str, Any]], task: Task, year: int) -> SeasonScores:
    """Score a map at each of the task's cut dates, and over the whole season.

    Args:
        score: number of days of the season that have passed -> `metrics.scores` of the map. It takes days and not a date, because
            scenes of other years are cut after the same number of days.
        task: the task; `cut_dates` are its dates.
        year: the year in which the season ends.

    Raises ValueError if the task has no cut dates.
    """
    if not task.cut_dates:
        raise ValueError(
            f"task {task.name} has no cut_dates; give the last dates at which it is to be scored, as cut_dates: "
            '["06-01", "07-01"]; see finetune/tasks/early_season.yaml'
        )
    first, _ = task.season_of(year)
    days = task.days_seen(year)
    dates = first + (np.array(days) - 1).astype("timedelta64[D]")
    return SeasonScores(task=task, dates=dates, scores=[score(n) for n in days])
