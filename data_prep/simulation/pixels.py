"""Which objects fill each pixel of a sensor, and by how much."""

from __future__ import annotations

import numpy as np

from data_prep.simulation.landscape_raster import Raster
from data_prep.simulation.objects import Objects


class Pixels:
    """Square pixels made of whole cells of a raster, with the share of each object in each pixel (a sparse matrix, row by row).

    Attributes:
        shape: (H, W) in pixels.
    """

    def __init__(self, raster: Raster, objects: Objects, cells_per_pixel: int) -> None:
        n = cells_per_pixel
        height, width = raster.key.shape[0] // n, raster.key.shape[1] // n
        self.shape = height, width

        def grouped(a: np.ndarray) -> np.ndarray:
            cut = a[: height * n, : width * n]
            return cut.reshape(height, n, width, n).swapaxes(1, 2).reshape(height * width, n * n)

        index = np.searchsorted(objects.key, raster.key.ravel()).reshape(raster.key.shape)
        pair = grouped(index).astype(np.int64) + np.arange(height * width)[:, None] * len(objects)
        pairs, inverse, counts = np.unique(pair, return_inverse=True, return_counts=True)
        inverse = inverse.ravel()
        cells = n * n
        self._object = (pairs % len(objects)).astype(np.intp)
        pixel = pairs // len(objects)
        self._start = np.searchsorted(pixel, np.arange(height * width))
        self._weights = np.stack(
            [
                counts / cells,
                np.bincount(inverse, weights=grouped(raster.vigour).ravel()) / cells,
                np.bincount(inverse, weights=grouped(raster.brightness).ravel()) / cells,
            ],
            axis=1,
        ).astype(np.float32)

    def render(self, spectra: np.ndarray) -> np.ndarray:
        """Spectra of the objects with derivatives, float32 (3, N, bands) -> reflectance of the pixels, float32 (H, W, bands)."""
        parts = self._weights[:, :1] * spectra[0][self._object]
        parts += self._weights[:, 1:2] * spectra[1][self._object]
        parts += self._weights[:, 2:3] * spectra[2][self._object]
        return np.add.reduceat(parts, self._start, axis=0).reshape(*self.shape, -1)

    def majority(self, values: np.ndarray) -> np.ndarray:
        """The value that fills most of each pixel: `values` of the objects (N,) -> (H, W) of the same dtype."""
        codes, of_object = np.unique(values, return_inverse=True)
        area = np.zeros((self.shape[0] * self.shape[1], len(codes)), dtype=np.float32)
        pixel = np.repeat(np.arange(len(self._start)), np.diff(self._start, append=len(self._object)))
        np.add.at(area, (pixel, of_object[self._object]), self._weights[:, 0])
        return codes[area.argmax(axis=1)].reshape(self.shape)

    def share(self, chosen: np.ndarray) -> np.ndarray:
        """Share of the area of each pixel that the chosen objects, bool (N,), fill: float32 (H, W)."""
        return np.add.reduceat(self._weights[:, 0] * chosen[self._object], self._start).reshape(self.shape)

    def largest(self) -> np.ndarray:
        """Index of the object that fills most of each pixel: int64 (H, W)."""
        order = np.lexsort((-self._weights[:, 0], np.repeat(np.arange(len(self._start)), self._lengths())))
        return self._object[order[self._start]].reshape(self.shape)

    def _lengths(self) -> np.ndarray:
        return np.diff(self._start, append=len(self._object))
