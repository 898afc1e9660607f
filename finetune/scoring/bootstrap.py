"""Bootstrap intervals of scores over scenes (Efron 1979, "Bootstrap methods: another look at the jackknife").

Pixels of one scene are alike, so they are not independent samples. Therefore whole scenes are drawn with replacement, as many as
there are. Their counts are summed, and the score is computed from the sum. Percentiles of many such scores are the ends of the
interval. It says how the score would vary with other scenes like these, not with another training run. With few scenes it is too
narrow: of intervals that should contain the true mean of normal values in 95 of 100 cases, those from 3 scenes contain it in 75,
from 5 in 83, from 10 in 90, from 20 in 93.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# A score that is defined in only one of n scenes is NaN in (1 - 1/n)^n of the draws, which is 25 to 37 %; one that is defined in
# two scenes is NaN in at most 14 %. This limit lies between: below it, at least two scenes define the score.
DRAWN_AT_ONCE = 4_000_000  # scenes of all draws that are added up together
MOST_UNDEFINED = 0.2


def interval(
    per_scene: Sequence[ArrayLike] | np.ndarray,
    statistic: Callable[[np.ndarray], ArrayLike],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray | None:
    """Percentile interval of a statistic of sums over scenes, float64 (2, *shape of the statistic): lower and upper end.

    Args:
        per_scene: counts of each scene (scenes, ...) that add up over scenes, for instance confusion matrices.
        statistic: the counts summed over the drawn scenes (...) -> a number or an array of numbers.
        level: share of the draws within the interval.
        resamples: number of draws.
        seed: seed of the draws; the same seed gives the same interval.

    Draws in which the statistic is NaN (because the drawn scenes lack a class) are left out. If more than a fifth are NaN, only
    one scene defines the statistic, and both ends are NaN. With only one scene the result is None, since one scene says nothing
    about others. Raises ValueError without scenes, and for a level or number of draws out of range.
    """
    counts = np.asarray(per_scene)
    if counts.ndim == 0 or not len(counts):
        raise ValueError("an interval over scenes needs the counts of at least one scene, got none")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level is {level} and resamples {resamples}; expected a share between 0 and 1, and at least 1 draw")
    scenes = len(counts)
    if scenes == 1:
        return None
    sums = sums_of_draws(counts, resamples, seed)
    return percentiles(np.array([statistic(total) for total in sums], dtype=np.float64), level)


def sums_of_draws(counts: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Sums over the scenes of each draw: counts (scenes, ...) -> (resamples, ...), int64 of whole numbers, else float64.

    The memory that this takes does not grow with the number of draws.
    """
    scenes, flat = len(counts), np.reshape(counts, (len(counts), -1)).astype(np.float64)  # exact, and added up much faster
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, flat.shape[1]))
    at_once = max(1, DRAWN_AT_ONCE // scenes)
    for first in range(0, resamples, at_once):
        number = min(at_once, resamples - first)
        drawn = rng.integers(0, scenes, (number, scenes))
        times = np.bincount((drawn + scenes * np.arange(number)[:, None]).ravel(), minlength=number * scenes)
        sums[first : first + number] = times.reshape(number, scenes) @ flat
    whole = np.issubdtype(np.asarray(counts).dtype, np.integer)
    return sums.astype(np.int64 if whole else np.float64).reshape(resamples, *np.shape(counts)[1:])


def percentiles(values: np.ndarray, level: float) -> np.ndarray:
    """Ends of the interval that holds a share `level` of the draws, float64 (2, ...), from their values, float64 (draws, ...).

    NaN values are left out; if more than `MOST_UNDEFINED` of them are NaN, both ends are NaN.
    """
    ends = np.full((2, *values.shape[1:]), np.nan)
    enough = np.isnan(values).mean(axis=0) <= MOST_UNDEFINED
    ends[:, enough] = np.nanpercentile(values[:, enough], (50 * (1 - level), 50 * (1 + level)), axis=0)
    return ends


def with_intervals(
    per_scene: Sequence[ArrayLike] | np.ndarray,
    scores: Callable[[np.ndarray], dict[str, Any]],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of the sum over all scenes and, under "intervals", the interval [lower, upper] of each score.

    `scores` makes a nested dictionary from summed counts. Its floats are scores and get intervals; other values (counts, lists)
    do not. "intervals" is nested in the same way; with one scene it is None. "bootstrap" holds the number of scenes and draws,
    the level and the seed. The other arguments, and the errors raised, are those of `interval`.

        with_intervals(matrices, lambda total: metrics.scores(total, ["other", "rice"]))["intervals"]["classes"]["rice"]["f1"]
    """
    counts = np.asarray(per_scene)
    ends = interval(counts, lambda total: _values(scores(total)), level, resamples, seed)
    result = scores(counts.sum(axis=0))
    intervals: dict[str, Any] | None = None
    if ends is not None:
        intervals = {}
        for (keys, _), low, high in zip(_floats(result), *ends.tolist(), strict=True):
            holder = intervals
            for key in keys[:-1]:
                holder = holder.setdefault(key, {})
            holder[keys[-1]] = [low, high]
    settings = {"scenes": len(counts), "level": level, "resamples": resamples, "seed": seed}
    return result | {"intervals": intervals, "bootstrap": settings}


def _floats(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], float]]:
    """Every float in a nested dictionary, with the path of keys that leads to it."""
    found: list[tuple[tuple[str, ...], float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _floats(value, (*path, key))
        elif isinstance(value, float):
            found.append(((*path, key), value))
    return found


def _values(values: Mapping[str, Any]) -> list[float]:
    """The floats of `_floats` alone, which is faster; a score is computed thousands of times."""
    found: list[float] = []
    for value in values.values():
        if isinstance(value, float):
            found.append(value)
        elif isinstance(value, dict):
            found += _values(value)
    return found
