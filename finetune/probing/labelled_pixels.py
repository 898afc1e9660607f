"""Embeddings of labelled pixels, and maps by a probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from affine import Affine

from common.grid import Grid
from finetune.data.scene_series import SceneSeries
from finetune.data.scene_windows import SceneWindows
from finetune.embedding.reading import EmbeddingMap
from finetune.mapping.cog import NO_DATA
from finetune.probing.classifiers import Pixels
from finetune.task import IGNORE
from finetune.training.forest import MOST_PIXELS

ROWS_AT_A_TIME = 256

Maps = Mapping[tuple[str, int], EmbeddingMap]  # by scene and year


def pixels_of_windows(windows: SceneWindows, maps: Maps, seed: int) -> Pixels:
    """Embeddings of the labelled pixels of all windows, at most `MOST_PIXELS`, drawn by `seed`.

    Pixels without an embedding are left out. Raises ValueError when there is none with one.
    """
    labelled = sum(int((label != IGNORE).sum()) for label in windows.labels)
    share, rng = min(1.0, MOST_PIXELS / max(labelled, 1)), np.random.default_rng(seed)
    embeddings, classes = [], []
    for (scene, row, col), label in zip(windows.windows, windows.labels, strict=True):
        series = windows.series[scene]
        chosen = (label != IGNORE) & (rng.random(label.shape) < share)
        found = maps[series.scene.name, series.year].at_pixels(_part(series.grid, row, col, *label.shape))
        chosen &= ~np.isnan(found[0])
        embeddings.append(found[:, chosen].T)
        classes.append(label[chosen].astype(np.int64))
    pixels = Pixels(embeddings=np.concatenate(embeddings), classes=np.concatenate(classes))
    if not len(pixels):
        raise ValueError("no labelled pixel has an embedding: was any of them clear in the season?")
    return pixels


def map_scene(
    series: SceneSeries, label: np.ndarray, found: EmbeddingMap, predict: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Classes uint8 (H, W) of the labelled pixels of a scene; `NO_DATA` where there is no label or no embedding.

    `predict`: class indices (P,) of embeddings (P, D).
    """
    classes = np.full(label.shape, NO_DATA, dtype=np.uint8)
    for row in range(0, label.shape[0], ROWS_AT_A_TIME):
        inside = label[row : row + ROWS_AT_A_TIME]
        values = found.at_pixels(_part(series.grid, row, 0, *inside.shape))
        chosen = (inside != IGNORE) & ~np.isnan(values[0])
        classes[row : row + ROWS_AT_A_TIME][chosen] = predict(values[:, chosen].T)
    return classes


def _part(grid: Grid, row: int, col: int, height: int, width: int) -> Grid:
    """The grid of a window, which may extend beyond `grid`."""
    return Grid(crs=grid.crs, transform=grid.transform @ Affine.translation(col, row), height=height, width=width)
