"""Mean and standard deviation of each band over valid pixels: streaming, and mergeable over samples, shards and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class BandStatistics:
    """Moments of each band: `count` int64 (C,), `mean` float64 (C,), `m2` float64 (C,), the sum of squared deviations.

    In digital numbers. `a + b` is the statistics of both sets of pixels together.
    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979, eq. 2.1.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @staticmethod
    def empty(bands: int) -> BandStatistics:
        """Statistics of no pixels: the neutral element of `+`."""
        return BandStatistics(np.zeros(bands, np.int64), np.zeros(bands), np.zeros(bands))

    @staticmethod
    def of_pixels(pixels: np.ndarray, valid: np.ndarray) -> BandStatistics:
        """Statistics of one sample: integers (T, C, H, W), valid bool (T, H, W); two passes in float64, a band at a time."""
        bands = pixels.shape[1]
        count = int(valid.sum())
        if count == 0:
            return BandStatistics.empty(bands)
        mean, m2 = np.empty(bands), np.empty(bands)
        for band in range(bands):
            values = pixels[:, band][valid].astype(np.float64)
            mean[band] = values.mean()
            m2[band] = np.square(values - mean[band]).sum()
        return BandStatistics(np.full(bands, count), mean, m2)

    def __add__(self, other: BandStatistics) -> BandStatistics:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return BandStatistics(count, self.mean + delta * share, self.m2 + other.m2 + delta**2 * self.count * share)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the pixels themselves (not of a population they were drawn from), float64 (C,)."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1))

    def is_close(self, other: BandStatistics) -> bool:
        """Equal but for the rounding of sums in another order."""
        return np.array_equal(self.count, other.count) and all(
            np.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in ((self.mean, other.mean), (self.m2, other.m2))
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain values for JSON; `statistics_from_dict` is the inverse."""
        return {"count": self.count.tolist(), "mean": self.mean.tolist(), "m2": self.m2.tolist()}


def statistics_from_dict(values: Mapping[str, Sequence[float]]) -> BandStatistics:
    """Inverse of `BandStatistics.to_dict`."""
    return BandStatistics(np.array(values["count"], np.int64), np.array(values["mean"], float), np.array(values["m2"], float))
