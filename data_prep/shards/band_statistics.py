"""Mean and standard deviation of each band over valid pixels, exact, and mergeable over samples, shards and machines.

Snow and missed clouds are so bright that a tenth of them triples the standard deviation of blue: what distinguishes crops then
lies within a fraction of a unit. `robust_normalization` therefore leaves them out, and limits what it normalises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from data_prep.archive.sensor import Sensor

SNOW = "statistics_of_snow"  # in a shard index, where the plan keeps snow apart

# Standard deviations from the mean at which normalised numbers are clipped; a sixteenth of any numbers at most lies beyond.
LIMIT = 4.0
# Least share of the pixels that is not white; where it is less, the numbers are no reflectance, or there is nothing but snow.
_LEAST_SHARE = 0.25
_CACHED_PIXELS = 1 << 14  # pixels of a band that are summed together, so that all bands in float64 stay in a core's cache
_EXACT_PIXELS = 1 << 20  # so many products of 16-bit numbers sum up in a float64 without rounding: 2^20 * 2^32 < 2^53


@dataclass(frozen=True)
class BandStatistics:
    """Number of valid pixels, sum of their digital numbers and sum of squares, each (C,), as integers of any size.

    `a + b` is the statistics of both sets of pixels together. Sums of integers are exact, so that neither the order of merging
    nor a mean that is large compared with the deviation costs precision, however many samples are merged.
    """

    count: tuple[int, ...]
    total: tuple[int, ...]
    squares: tuple[int, ...]

    @staticmethod
    def empty(bands: int) -> BandStatistics:
        """Return the statistics of no pixels, the neutral element of `+`."""
        return BandStatistics(*[(0,) * bands] * 3)

    @staticmethod
    def of_pixels(pixels: np.ndarray, valid: np.ndarray) -> BandStatistics:
        """Return the statistics of one sample: integers of up to 32 bits (T, C, H, W), valid bool (T, H, W).

        Raises ValueError for pixels of another type.
        """
        if not np.issubdtype(pixels.dtype, np.integer) or pixels.dtype.itemsize > 4:
            raise ValueError(f"pixels are {pixels.dtype}; statistics are over integers of at most 32 bits")
        frames, bands, height, width = pixels.shape
        total, squares = np.zeros((2, bands), dtype=object)  # objects, because Python's integers have no upper limit
        pixels, valid = pixels.reshape(frames, bands, height * width), valid.reshape(frames, 1, height * width)
        together = max(1, _CACHED_PIXELS // max(1, height * width))  # frames
        for first, start in product(range(0, frames, together), range(0, height * width, _EXACT_PIXELS)):
            part = slice(first, first + together), slice(None), slice(start, start + _EXACT_PIXELS)
            parts = _16_bit_parts(pixels[part] * valid[part].astype(pixels.dtype))
            for weight, numbers in parts:
                total += weight * _integers(numbers.sum(axis=(0, 2)))
            for (weight, numbers), (other_weight, others) in product(parts, parts):
                # einsum instead of a matrix product, for which BLAS would start threads at each of these short sums.
                squares += weight * other_weight * _integers(np.einsum("tcp,tcp->c", numbers, others))
        return BandStatistics((int(valid.sum()),) * bands, tuple(total.tolist()), tuple(squares.tolist()))

    def __add__(self, other: BandStatistics) -> BandStatistics:
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return BandStatistics(*(tuple(a + b for a, b in zip(mine, yours, strict=True)) for mine, yours in columns))

    def __sub__(self, other: BandStatistics) -> BandStatistics:
        """The statistics of the pixels of this one without those of `other`, which are among them."""
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return BandStatistics(*(tuple(a - b for a, b in zip(mine, yours, strict=True)) for mine, yours in columns))

    @property
    def mean(self) -> np.ndarray:
        """Mean digital number of each band, float64 (C,), 0 without valid pixels."""
        return np.array([total / max(1, count) for count, total in zip(self.count, self.total, strict=True)])

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each band over the pixels (divided by their number, not by one less), float64 (C,)."""
        columns = zip(self.count, self.total, self.squares, strict=True)
        return np.sqrt([(squares * count - total**2) / max(1, count**2) for count, total, squares in columns])

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain values for JSON; `statistics_from_dict` is the inverse."""
        return {name: list(values) for name, values in asdict(self).items()}


class ShardStatistics:
    """Band statistics of the valid pixels of a shard, and of those among them that are as bright as snow.

    Args:
        sensor: sensor of the shard's samples.
        keeps_snow_apart: False for plans of earlier versions, whose indexes hold no statistics of snow.
    """

    def __init__(self, sensor: Sensor, *, keeps_snow_apart: bool) -> None:
        self._sensor, self._keeps_snow_apart = sensor, keeps_snow_apart
        self._valid = self._snow = BandStatistics.empty(len(sensor.bands))

    def add(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        """Add a sample: pixels (T, C, H, W), valid bool (T, H, W)."""
        self._valid += BandStatistics.of_pixels(pixels, valid)
        if self._keeps_snow_apart:
            snow = valid & self._sensor.white(pixels)
            frames = snow.any(axis=(1, 2))  # most have none
            self._snow += BandStatistics.of_pixels(pixels[frames], snow[frames])

    def to_dict(self) -> dict[str, dict[str, list[int]]]:
        """Return the entries of the shard index."""
        snow = {SNOW: self._snow.to_dict()} if self._keeps_snow_apart else {}
        return {"statistics": self._valid.to_dict(), **snow}


def statistics_from_dict(values: Mapping[str, Sequence[int]]) -> BandStatistics:
    """Inverse of `BandStatistics.to_dict`."""
    return BandStatistics(**{name: tuple(column) for name, column in values.items()})


def robust_normalization(valid: BandStatistics, white: BandStatistics) -> dict[str, list[float]]:
    """How to normalise the bands: `mean` and `std` of the valid pixels that are not white, and the limits `low` and `high`.

    Numbers below `low` and above `high` count as these, so that snow is a little brighter than all else and not ten times.

    Args:
        valid: statistics of all valid pixels.
        white: statistics of those among them that are as bright as snow (`Sensor.white`).
    """
    rest = valid - white
    chosen = rest if is_enough(rest.count[0], valid.count[0]) else valid
    return with_limits(chosen.mean, chosen.std)


def is_enough(rest: int, valid: int) -> bool:
    """Whether the `rest` of `valid` pixels, which is not as bright as snow, is enough to stand for all."""
    return rest > 0 and rest >= _LEAST_SHARE * valid


def with_limits(mean: np.ndarray, std: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation (C,) as a normalisation with limits `LIMIT` standard deviations from the mean."""
    limits = {"low": mean - LIMIT * std, "high": mean + LIMIT * std}
    return {name: array.tolist() for name, array in {"mean": mean, "std": std, **limits}.items()}


def _integers(whole_numbers: np.ndarray) -> np.ndarray:
    return whole_numbers.astype(np.int64).astype(object)


def _16_bit_parts(numbers: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Split integers into a sum of weight * float64 array, each of at most 16 bits so that sums of products stay exact."""
    if numbers.dtype.itemsize <= 2:
        return [(1, numbers.astype(np.float64))]
    return [(1 << 16, (numbers >> 16).astype(np.float64)), (1, (numbers & 0xFFFF).astype(np.float64))]
