"""Areas of classes from a map and a reference sample, with standard errors (Olofsson et al. 2014, doi:10.1016/j.rse.2014.02.015).

Counting the pixels of a class gives a biased area, since a map errs more in one direction than in the other. Points with a known
class correct it. The sample must be a probability sample whose strata are the classes of the map: points drawn at random within
each class, any number in each. A simple random or a systematic sample over all of the map serves, too: its strata are then formed
afterwards. Points that were chosen by hand, or along roads, say nothing of areas, and no formula mends that.

With W_i the share of stratum i in the mapped area, n_ij the points of stratum i whose reference class is j, and n_i their sum,
the equations of the paper are

    p_ij = W_i n_ij / n_i                                                     (4)   area proportions
    O = sum_j p_jj,  U_i = p_ii / p_i.,  P_j = p_jj / p_.j                    (1-3) overall, user's and producer's accuracy
    V(O) = sum_i W_i^2 U_i (1 - U_i) / (n_i - 1)                              (5)
    V(U_i) = U_i (1 - U_i) / (n_i - 1)                                        (6)
    V(P_j) = [ N_j^2 (1 - P_j)^2 U_j (1 - U_j) / (n_j - 1)
               + P_j^2 sum_{i != j} N_i^2 n_ij/n_i (1 - n_ij/n_i) / (n_i - 1) ] / N_.j^2     (7)
    S(p_.j) = sqrt( sum_i (W_i p_ij - p_ij^2) / (n_i - 1) )                   (10)  standard error of the area proportion

Intervals are normal ones, estimate +- 1.96 standard errors. They are too narrow for a class with a handful of points, and for
accuracies near 100 % (tests/finetune/scoring/test_area_estimation.py has a simulation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.96  # half width of a 95 % interval in standard errors, as in the paper
FEWEST_POINTS = 2  # of a stratum: the variance within it needs two


@dataclass(frozen=True, kw_only=True, eq=False)
class AreaEstimates:
    """Areas and accuracies of the classes of a map. All arrays are float64 (classes,) unless they say otherwise.

    Attributes:
        names: the classes; the strata are the same, in the same order.
        mapped: area of each class in the map, in any unit, which is also that of the estimates.
        counts: int64 (strata, classes), points by class of the map and reference class.
        proportions: (strata, classes), estimated shares of the area.
        areas, area_errors: estimated areas, and their standard errors.
        users, users_errors: user's accuracy, the share of what is mapped as a class that is of it; NaN without a mapped area.
        producers, producers_errors: producer's accuracy, the share of a class that is mapped as such; NaN for a class that the
            reference sample does not hold.
        overall, overall_error: share of the area whose class is right.
    """

    names: tuple[str, ...]
    mapped: np.ndarray
    counts: np.ndarray
    proportions: np.ndarray
    areas: np.ndarray
    area_errors: np.ndarray
    users: np.ndarray
    users_errors: np.ndarray
    producers: np.ndarray
    producers_errors: np.ndarray
    overall: float
    overall_error: float


def estimate_areas(names: Sequence[str], mapped: np.ndarray, counts: np.ndarray) -> AreaEstimates:
    """Estimate areas and accuracies from mapped areas (classes,) and points (strata, classes); see `AreaEstimates`.

    Raises ValueError when a class with a mapped area has fewer than two points, or one without an area has any: its points cannot
    lie in the map.
    """
    mapped, counts = np.asarray(mapped, dtype=np.float64), np.asarray(counts, dtype=np.int64)
    assert mapped.shape == (len(names),), (mapped.shape, names)
    assert counts.shape == (len(names), len(names)), (counts.shape, names)
    points = counts.sum(axis=1)
    if lacking := strata_without_points(names, mapped, counts):
        raise ValueError(
            f"the reference sample has fewer than {FEWEST_POINTS} points in {', '.join(lacking)} of the map, whose share of it "
            "would be unknown: add points there, drawn at random, or state --unsampled leave_out, which leaves these areas out"
        )
    if (misplaced := (mapped == 0) & (points > 0)).any():
        raise ValueError(f"there are points in {', '.join(np.array(names)[misplaced])}, which the map does not hold")
    known = mapped > 0
    share = mapped / mapped.sum()  # W_i
    rates = np.divide(counts, points[:, None], out=np.zeros(counts.shape), where=known[:, None])  # n_ij / n_i
    within = rates * (1 - rates) / np.where(known, points - 1, 1)[:, None]  # variance of each rate
    proportions = share[:, None] * rates
    by_class = proportions.sum(axis=0)
    users = np.where(known, np.diag(rates), np.nan)
    producers = np.divide(np.diag(proportions), by_class, out=np.full(len(names), np.nan), where=by_class > 0)
    # Both sums of equation 7 have the variances of rates in them; those of the class itself are replaced.
    between = share[:, None] ** 2 * within
    own = np.diag(between)
    producers_variance = (1 - producers) ** 2 * own + producers**2 * (between.sum(axis=0) - own)
    return AreaEstimates(
        names=tuple(names),
        mapped=mapped,
        counts=counts,
        proportions=proportions,
        areas=mapped.sum() * by_class,
        area_errors=mapped.sum() * np.sqrt(between.sum(axis=0)),
        users=users,
        users_errors=np.where(known, np.sqrt(np.diag(within)), np.nan),
        producers=producers,
        producers_errors=np.sqrt(np.divide(producers_variance, by_class**2, out=np.full(len(names), np.nan), where=by_class > 0)),
        overall=float(np.trace(proportions)),
        overall_error=float(np.sqrt(own.sum())),
    )


def strata_without_points(names: Sequence[str], mapped: np.ndarray, counts: np.ndarray) -> list[str]:
    """The classes with a mapped area of which the sample has fewer than two points."""
    few = (np.asarray(mapped) > 0) & (np.asarray(counts).sum(axis=1) < FEWEST_POINTS)
    return [name for name, lacks in zip(names, few, strict=True) if lacks]
