"""The landscape on a fine raster of square cells: kind of land, object, and variation within objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.landscape import Landscape
from data_prep.simulation.randomness import SmoothNoise

STRIP = 192  # rows of fine cells that are computed together


@dataclass(frozen=True, kw_only=True)
class Raster:
    """The landscape on square cells.

    Attributes:
        kind: uint8 (H, W), kind of land.
        key: uint64 (H, W), key of the object.
        vigour, brightness: float32 (H, W), variation within objects.
        cell_m: side of a cell in metres.
        x, y: coordinates in metres of the centres of columns (W,) and rows (H,).
    """

    kind: np.ndarray
    key: np.ndarray
    vigour: np.ndarray
    brightness: np.ndarray
    cell_m: float
    x: np.ndarray
    y: np.ndarray


def rasterise(
    landscape: Landscape, x0: float, y0: float, cell_m: float, cells: int, texture: tuple[SmoothNoise, SmoothNoise]
) -> Raster:
    """Rasterise the landscape on `cells` x `cells` square cells of `cell_m` metres, from (x0, y0) to the east and south."""
    x = x0 + cell_m * (np.arange(cells) + 0.5)
    y = y0 + cell_m * (np.arange(cells) + 0.5)
    kind, key = np.empty((cells, cells), np.uint8), np.empty((cells, cells), np.uint64)
    vigour, brightness = np.empty((cells, cells), np.float32), np.empty((cells, cells), np.float32)
    for top in range(0, cells, STRIP):
        rows = slice(top, min(top + STRIP, cells))
        xs, ys = (a.ravel() for a in np.meshgrid(x, y[rows]))
        shape = (-1, cells)
        kind[rows], key[rows] = (a.reshape(shape) for a in landscape.at(xs, ys))
        vigour[rows] = texture[0](xs, ys).reshape(shape)
        brightness[rows] = texture[1](xs, ys).reshape(shape)
    return Raster(kind=kind, key=key, vigour=vigour, brightness=brightness, cell_m=cell_m, x=x, y=y)
