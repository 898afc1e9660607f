"""Coarser pixels on a finer grid: bands of 20 m beside bands of 10 m, where each coarse pixel covers whole fine ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rasterio.crs import CRS

from common.grid import Grid

RESAMPLING = ("nearest", "bilinear")


def check_resampling(resampling: str, origin: str) -> None:
    """Raises ValueError for a method that is not known."""
    if resampling not in RESAMPLING:
        raise ValueError(f"{origin}: resampling is {resampling!r}; expected one of {', '.join(RESAMPLING)}")


def nesting_factor(coarse: Grid, fine: Grid, origin: str) -> int:
    """How many pixels of `fine` a pixel of `coarse` covers along each axis. Raises ValueError when they do not nest."""
    factor = max(1, round(abs(coarse.transform.determinant / fine.transform.determinant) ** 0.5))
    own, base = coarse.transform, fine.transform
    stretched = (base.a * factor, base.b * factor, base.c, base.d * factor, base.e * factor, base.f)
    tolerance = abs(base.determinant) ** 0.5 / 100
    fits = np.allclose(tuple(own)[:6], stretched, rtol=0, atol=tolerance) and same_crs(coarse.crs, fine.crs)
    surplus = coarse.height * factor - fine.height, coarse.width * factor - fine.width
    if not fits or not all(0 <= pixels < factor for pixels in surplus):
        raise ValueError(
            f"{origin}: its grid ({coarse.height} x {coarse.width}, {tuple(own)[:6]}, {coarse.crs[:60]}) does not nest in "
            f"that of the series ({fine.height} x {fine.width}, {tuple(base)[:6]}, {fine.crs[:60]}): CRS, upper left corner "
            "and extent must be equal and pixel sizes whole multiples"
        )
    return factor


def same_crs(one: str, other: str) -> bool:
    """Whether two texts mean one CRS: libraries write the same one in different words."""
    return one == other or CRS.from_user_input(one) == CRS.from_user_input(other)


def read_nested(
    read: Callable[[int, int, int, int], np.ndarray],
    coarse: Grid,
    factor: int,
    window: tuple[int, int, int, int],
    bilinear_nodata: int | None = None,
) -> np.ndarray:
    """A window (row, col, height, width) of the fine grid from what `read` gives for a window (..., h, w) of the coarse one.

    Nearest neighbour: each pixel is repeated `factor` times. With `bilinear_nodata`, the no-data number, each fine pixel is the
    mean of the four nearest coarse pixels weighted by distance and rounded to a whole number; no-data pixels have no weight,
    and where the coarse pixel that covers it is no data the fine one is. The same number comes out whatever the window.
    """
    row, col, height, width = window
    if factor == 1:
        return read(row, col, height, width)
    margin = 0 if bilinear_nodata is None else 1
    top, left = max(row // factor - margin, 0), max(col // factor - margin, 0)
    bottom = min(-(-(row + height) // factor) + margin, coarse.height)
    right = min(-(-(col + width) // factor) + margin, coarse.width)
    block = read(top, left, bottom - top, right - left)
    rows, cols = np.arange(row, row + height), np.arange(col, col + width)
    covering = block[..., (rows // factor - top)[:, None], cols // factor - left]
    if bilinear_nodata is None:
        return covering
    # Along each axis: the two coarse pixels whose centres enclose the fine one's, and the weight of the second.
    total, weights = np.zeros(covering.shape), np.zeros(covering.shape)
    for r, weight_r in _enclosing(rows, factor, top, bottom):
        for c, weight_c in _enclosing(cols, factor, left, right):
            values = block[..., r[:, None], c]
            weight = weight_r[:, None] * weight_c * (values != bilinear_nodata)
            total += weight * values
            weights += weight
    means = np.rint(total / np.where(weights, weights, 1)).astype(block.dtype)
    return np.where(covering == bilinear_nodata, covering, means)


def _enclosing(fine: np.ndarray, factor: int, first: int, end: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For fine pixels along an axis: the two neighbouring coarse pixels, counted from `first`, each with its weight."""
    position = (fine + 0.5) / factor - 0.5
    before = np.floor(position).astype(np.int64)
    second = position - before
    return [
        (np.clip(before, first, end - 1) - first, 1 - second),
        (np.clip(before + 1, first, end - 1) - first, second),
    ]
