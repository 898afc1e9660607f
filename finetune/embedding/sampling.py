"""The sample of cells from which the components of embeddings are computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from common.errors import while_running
from finetune.data.window_origins import origins_within
from finetune.embedding.scene_blocks import SceneCells, features_of_window

CELLS_OF_A_WINDOW = 64  # neighbouring cells are alike; more where a scene has fewer windows than are wanted of it


def sample_features(scenes: Sequence[SceneCells], windows: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Features float32 (N, F) of cells of random windows, and how many windows each scene gave.

    Each scene gives the same number of windows, or all that it has where they are fewer, drawn from those without overlap. A
    window gives `CELLS_OF_A_WINDOW` random cells that were seen, and more where there are few windows; windows without any are
    replaced by others.

    Raises ValueError when no scene has a cell that was seen.
    """
    of_each = -(-windows // len(scenes))
    found: list[np.ndarray] = []
    counts = []
    with tqdm(total=of_each * len(scenes), desc="sampling", unit="window") as bar:
        for number, cells in enumerate(scenes):
            rng = np.random.default_rng([seed, number])
            with cells.series, while_running(f"sampling {cells.series.scene.name}"):
                taken = _sample_scene(cells, of_each, rng, bar)
            found += taken
            counts.append(len(taken))
    if not found:
        raise ValueError("no scene has a clear pixel in the season: there is nothing to compute components from")
    return np.concatenate(found), counts


def _sample_scene(cells: SceneCells, most: int, rng: np.random.Generator, bar: tqdm) -> list[np.ndarray]:
    """Features float32 (n, F) of cells of up to `most` windows of a scene."""
    window, step = cells.geometry.window, cells.geometry.step_px // cells.geometry.cell_px
    rows, cols = (origins_within(side, window, window, step) for side in cells.grid.shape)
    there = len(rows) * len(cols)
    of_a_window = -(-CELLS_OF_A_WINDOW * most // min(most, there))
    found: list[np.ndarray] = []
    for place in rng.permutation(there):
        if len(found) == most:
            break
        features = features_of_window(cells, rows[place // len(cols)], cols[place % len(cols)])
        if features is None:
            continue
        values, seen = features
        at = np.flatnonzero(seen)
        chosen = rng.choice(at, min(of_a_window, len(at)), replace=False)
        found.append(values.reshape(len(values), -1)[:, chosen].T)
        bar.update()
    return found
