"""Resampling of nested grids: bands of 20 m onto the grid of bands of 10 m, where each coarse pixel covers whole fine pixels."""

from __future__ import annotations

import numpy as np

from common.grid import Grid
from common.north_up import ReadWindow

RESAMPLING = ("nearest", "bilinear")


def check_resampling(resampling: str, origin: str) -> None:
    """Raises ValueError for an unknown method."""
    if resampling not in RESAMPLING:
        raise ValueError(f"{origin}: resampling is {resampling!r}; expected one of {', '.join(RESAMPLING)}")


def read_nested(
    read: ReadWindow,
    coarse: Grid,
    factor: int,
    window: tuple[int, int, int, int],
    bilinear_nodata: int | None = None,
) -> np.ndarray:
    """Read a window (row, col, height, width) of the fine grid, resampled from the coarse grid: (..., height, width).

    By default with nearest neighbours: each coarse pixel is repeated `factor` times along each axis. With `bilinear_nodata` (the
    no-data number) bilinear: each fine pixel is the mean of the four nearest coarse pixels, weighted by distance and rounded to
    a whole number. No-data pixels have no weight, and a fine pixel is no data where the coarse pixel that covers it is. A pixel
    has the same value in all windows.

    `read` reads a window (row, col, height, width) of the coarse grid.
    """
    row, col, height, width = window
    if factor == 1:
        return read(row, col, height, width)
    margin = 0 if bilinear_nodata is None else 1
    top, left = max(row // factor - margin, 0), max(col // factor - margin, 0)
    bottom = min(-(-(row + height) // factor) + margin, coarse.height)
    right = min(-(-(col + width) // factor) + margin, coarse.width)
    pixels = read(top, left, bottom - top, right - left)
    fine = pixels.repeat(factor, axis=-1).repeat(factor, axis=-2)  # several times as fast as indices
    covering = fine[..., row - top * factor :, col - left * factor :][..., :height, :width]
    if bilinear_nodata is None:
        return covering
    rows, cols = np.arange(row, row + height), np.arange(col, col + width)
    # Along each axis: the two coarse pixels whose centres enclose that of the fine pixel, each with its weight.
    total, weights = np.zeros(covering.shape), np.zeros(covering.shape)
    for r, weight_r in _enclosing(rows, factor, top, bottom):
        for c, weight_c in _enclosing(cols, factor, left, right):
            values = pixels[..., r[:, None], c]
            weight = weight_r[:, None] * weight_c * (values != bilinear_nodata)
            total += weight * values
            weights += weight
    means = np.rint(total / np.where(weights, weights, 1)).astype(pixels.dtype)
    return np.where(covering == bilinear_nodata, covering, means)


def _enclosing(fine: np.ndarray, factor: int, first: int, end: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For fine pixels along an axis: the two nearest coarse pixels, as indices from `first`, each with its weight."""
    position = (fine + 0.5) / factor - 0.5
    before = np.floor(position).astype(np.int64)
    second = position - before
    return [
        (np.clip(before, first, end - 1) - first, 1 - second),
        (np.clip(before + 1, first, end - 1) - first, second),
    ]
