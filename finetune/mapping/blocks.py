"""Prediction of one block of a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from finetune.data.scene_series import SceneSeries
from finetune.mapping.cog import NO_DATA, quantized
from finetune.mapping.tiling import Block, Tiling
from finetune.mapping.windows import Progress, WindowReader, blend
from finetune.model.recipe import Recipe


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
        task, size = self.recipe.task, self.tiling.window
        reader = WindowReader(
            series=self.series, sources=task.sources, normalization=self.recipe.normalization, batch_size=self.batch_size
        )
        batches = reader.batches(*self.tiling.windows_on(block), size)
        predict = partial(predict_windows, self.model, size=size, device=self.device)
        return blend(self.tiling, block, batches, predict, len(task.classes), progress)


@torch.no_grad()
def predict_windows(model: nn.Module, data: Mapping[str, np.ndarray], size: int, device: torch.device) -> np.ndarray:
    """Class probabilities float32 (B, classes, size, size) from the frames of each source, float32 (B, T, C, H, W)."""
    inputs = {source: torch.from_numpy(images).to(device) for source, images in data.items()}
    probabilities: np.ndarray = model(inputs, (size, size)).softmax(dim=1).cpu().numpy()
    return probabilities
