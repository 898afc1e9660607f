"""Windows of a scene in batches for a model, and the blending of what a model predicts for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from finetune.data.frames import Normalization, model_frames
from finetune.data.image_stack import ImageStack
from finetune.data.scene_series import SceneSeries
from finetune.mapping.tiling import Block, Tiling

Progress = Callable[[int], object]  # called with the number of windows that were predicted
# Frames of each source, float32 (B, T, C, H, W) -> what is blended, float32 (B, channels, size, size).
Predict = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of windows for the model.

    Attributes:
        num_windows: number of windows that were read.
        origins: (row, col) of those windows that have a clear pixel. The others, which fill large parts of many scenes, have no
            data whatever the model would predict, so the model does not see them.
        data: frames of each source, float32 (B, T, C, H, W).
        clear: for each window, where the finest source was clear in any image of the season, bool (size, size).
    """

    num_windows: int
    origins: list[tuple[int, int]]
    data: dict[str, np.ndarray]
    clear: list[np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowReader:
    """Reads windows of a scene as a model gets them.

    Windows are given in cells. A cell is what the model predicts one value for: a pixel of the map, or a square of pixels.

    Attributes:
        series: the scene, open.
        sources: sources that the model reads.
        normalization: statistics of the bands of each source.
        batch_size: windows per batch.
        cell_px: side of a cell in pixels of the map.
    """

    series: SceneSeries
    sources: Sequence[str]
    normalization: Normalization
    batch_size: int
    cell_px: int = 1

    def batches(self, rows: list[int], cols: list[int], size: int) -> Iterator[Batch]:
        """The windows of `size` cells that begin at every pair of `rows` and `cols`, read and normalised."""
        side = size * self.cell_px
        pixel_rows, pixel_cols = ([at * self.cell_px for at in axis] for axis in (rows, cols))
        windows = self.series.windows(pixel_rows, pixel_cols, side)
        while part := list(islice(windows, self.batch_size)):
            yield self._batch(part, side)

    def _batch(self, windows: Sequence[tuple[int, int, dict[str, ImageStack]]], side: int) -> Batch:
        series, cell = self.series, self.cell_px
        of_finest = series.seasons[series.finest]
        with_data = [(row, col, stacks) for row, col, stacks in windows if stacks[series.finest].valid.any()]
        data = {}
        for source in self.sources if with_data else ():
            statistics, season = self.normalization[source], series.seasons[source]
            data[source] = np.stack([model_frames(stacks[source], season, statistics) for _, _, stacks in with_data])
        return Batch(
            num_windows=len(windows),
            origins=[(row // cell, col // cell) for row, col, _ in with_data],
            data=data,
            clear=[
                _any_of_cells(clear_pixels(stacks[series.finest], of_finest.days, of_finest.seen_days, side), cell)
                for _, _, stacks in with_data
            ],
        )


def blend(
    tiling: Tiling,
    block: Block,
    batches: Iterator[Batch],
    predict: Predict,
    channels: int,
    progress: Progress = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Blend what is predicted for windows over a block of a map: float32 (channels, height, width).

    Also where the finest source is ever clear, bool (height, width). `batches`: the windows that overlap the block. A thread
    reads the next batch while the model computes.
    """
    total = np.zeros((channels, block.height, block.width), dtype=np.float32)
    seen = np.zeros((block.height, block.width), dtype=bool)
    for batch in _read_ahead(batches):
        if batch.origins:
            predicted = predict(batch.data)
            for (row, col), values, clear in zip(batch.origins, predicted, batch.clear, strict=True):
                in_window, in_block, weight = tiling.overlap_with(row, col, block)
                total[:, *in_block] += values[:, *in_window] * weight
                seen[in_block] |= clear[in_window]
        progress(batch.num_windows)
    return total, seen


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; a thread reads the next one while the model computes."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def clear_pixels(stack: ImageStack, days: np.ndarray, seen_days: float, size: int) -> np.ndarray:
    """Where at least one image of the first `seen_days` of the season is clear, on the map's grid: bool (size, size).

    `days`: those of the images in the season, (T,).

    All images count, also those that no period has chosen: a place that was observed is not without data. Where no chosen image
    is clear the model sees zeros, and its class comes from the pixels around; `compositing: pixel` in the task lets it see more.
    """
    clear = np.any(stack.valid[days < seen_days], axis=0)
    rows = np.arange(size) * clear.shape[0] // size
    cols = np.arange(size) * clear.shape[1] // size
    return clear[np.ix_(rows, cols)]


def _any_of_cells(pixels: np.ndarray, cell_px: int) -> np.ndarray:
    """Where any pixel of a cell is True: bool (size, size) -> bool (size / cell_px, size / cell_px)."""
    if cell_px == 1:
        return pixels
    cells = len(pixels) // cell_px
    return np.asarray(pixels.reshape(cells, cell_px, cells, cell_px).any(axis=(1, 3)))
