"""The images of one source over one window of the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ImageStack:
    """All images of one source, in one season, over one window.

    Attributes:
        pixels: (N, C, H, W), the stored numbers of N images.
        valid: (N, H, W) bool, True where the observation is clear; False where the window extends beyond the source's grid.
    """

    pixels: np.ndarray
    valid: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.valid.shape[1], self.valid.shape[2]


def empty_stack(bands: int, dtype: np.dtype | str, height: int, width: int) -> ImageStack:
    """The stack of a missing source. It has no images, so all its frames are zeros, the means of the bands."""
    pixels = np.zeros((0, bands, height, width), dtype=dtype)
    return ImageStack(pixels=pixels, valid=np.zeros((0, height, width), dtype=bool))
