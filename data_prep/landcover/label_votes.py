"""Which code has the largest share of each pixel."""

from __future__ import annotations

import numpy as np

SAME_SHARE = 1e-9  # shares that differ less are equal


class Votes:
    """Shares of codes in pixels, given code by code.

    Two codes with the same largest share leave a pixel without a winner: neither covers most of it.
    """

    def __init__(self, shape: tuple[int, int], nodata: int) -> None:
        self._nodata = nodata
        self._winner = np.full(shape, nodata, dtype=np.int32)
        self._best = np.zeros(shape)
        self._second = np.zeros(shape)

    def add(self, code: int, share: np.ndarray) -> None:
        """Add the shares (H, W) of a code, which was not added before."""
        wins = share > self._best
        self._second = np.maximum(self._second, np.where(wins, self._best, share))
        self._winner[wins] = code
        self._best = np.maximum(self._best, share)

    def winners(self, least: float = 0.0) -> np.ndarray:
        """The code with the largest share of each pixel, int32 (H, W); no data where it is below `least`, and for ties."""
        clear = (self._best > self._second + SAME_SHARE) & (self._best >= least - SAME_SHARE)
        return np.where(clear, self._winner, np.int32(self._nodata))
