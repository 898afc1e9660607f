"""Prediction of one block of a map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn

from finetune.data.frames import model_frames
from finetune.data.image_stack import ImageStack
from finetune.data.scene_series import SceneSeries
from finetune.mapping.cog import NO_DATA, quantized
from finetune.mapping.tiling import Block, Tiling
from finetune.model.recipe import Recipe

Progress = Callable[[int], object]  # called with the number of windows that were predicted


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockPredictor:
    """Predicts the blocks of a map.

    Attributes:
        model: the model, in evaluation mode and in the memory of `device`.
        recipe: the recipe that `load_model` gives with the model.
        series: the scene, open.
        tiling: blocks and windows of the map.
        device: the device that computes.
        batch_size: windows per batch.
        probabilities: whether blocks also hold probabilities.
    """

    model: nn.Module
    recipe: Recipe
    series: SceneSeries
    tiling: Tiling
    device: torch.device
    batch_size: int
    probabilities: bool

    def predict(self, block: Block, progress: Progress = lambda _: None) -> dict[str, np.ndarray]:
        """A block as it is stored: `classes` uint8 (height, width), `NO_DATA` where no image of the finest source is clear.

        If wanted, also `probabilities` uint8 (classes, height, width), scaled by `quantized`.
        """
        blended, seen = self.blend(block, progress)
        result = {"classes": np.where(seen, blended.argmax(axis=0), NO_DATA).astype(np.uint8)}
        if self.probabilities:
            result["probabilities"] = np.where(seen, quantized(blended), NO_DATA).astype(np.uint8)
        return result

    def blend(self, block: Block, progress: Progress = lambda _: None) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities float32 (classes, height, width), and where the finest source is ever clear, bool (...)."""
        total = np.zeros((len(self.recipe.task.classes), block.height, block.width), dtype=np.float32)
        seen = np.zeros((block.height, block.width), dtype=bool)
        for batch in _read_ahead(self._batches(block)):
            if batch.origins:
                predicted = predict_windows(self.model, batch.data, self.tiling.window, self.device)
                for (row, col), probability, clear in zip(batch.origins, predicted, batch.clear, strict=True):
                    in_window, in_block, weight = self.tiling.overlap_with(row, col, block)
                    total[:, *in_block] += probability[:, *in_window] * weight
                    seen[in_block] |= clear[in_window]
            progress(batch.num_windows)
        return total, seen

    def _batches(self, block: Block) -> Iterator[Batch]:
        """The windows that overlap a block, read and normalised."""
        series, size = self.series, self.tiling.window
        rows, cols = self.tiling.windows_on(block)
        windows = series.windows(rows, cols, size)
        while part := list(islice(windows, self.batch_size)):
            with_data = [(row, col, stacks) for row, col, stacks in part if stacks[series.finest].valid.any()]
            data = {}
            for source in self.recipe.task.sources if with_data else ():
                statistics, season = self.recipe.normalization[source], series.seasons[source]
                data[source] = np.stack([model_frames(stacks[source], season, statistics) for _, _, stacks in with_data])
            yield Batch(
                num_windows=len(part),
                origins=[(row, col) for row, col, _ in with_data],
                data=data,
                clear=[_clear_pixels(stacks[series.finest], series, size) for _, _, stacks in with_data],
            )


@torch.no_grad()
def predict_windows(model: nn.Module, data: Mapping[str, np.ndarray], size: int, device: torch.device) -> np.ndarray:
    """Class probabilities float32 (B, classes, size, size) from the frames of each source, float32 (B, T, C, H, W)."""
    inputs = {source: torch.from_numpy(images).to(device) for source, images in data.items()}
    probabilities: np.ndarray = model(inputs, (size, size)).softmax(dim=1).cpu().numpy()
    return probabilities


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


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; a thread reads the next one while the model computes."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _clear_pixels(stack: ImageStack, series: SceneSeries, size: int) -> np.ndarray:
    """Where at least one image of the season is clear, on the map's grid: bool (size, size).

    All images count, also those that no period has chosen: a place that was observed is not without data. Where no chosen image
    is clear the model sees zeros, and its class comes from the pixels around; `compositing: pixel` in the task lets it see more.
    """
    season = series.seasons[series.finest]
    clear = np.any(stack.valid[season.days < season.seen_days], axis=0)
    rows = np.arange(size) * clear.shape[0] // size
    cols = np.arange(size) * clear.shape[1] // size
    return clear[np.ix_(rows, cols)]
