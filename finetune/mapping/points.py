"""Prediction of points: series of single pixels, for scores and for tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from finetune.data.frames import model_frames
from finetune.data.season import seen_until
from finetune.data.tables.point_windows import PointWindows
from finetune.mapping.blocks import predict_windows
from finetune.mapping.cog import NO_DATA

POINTS_PER_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class PredictedPoints:
    """What a model predicts of some points.

    Attributes:
        classes: class indices uint8 (n,), `NO_DATA` where the model saw no clear observation.
        probabilities: of each class, float32 (n, classes), NaN where there is no class.
    """

    classes: np.ndarray
    probabilities: np.ndarray


def predict_points(
    model: nn.Module, windows: PointWindows, device: torch.device, batch_size: int = POINTS_PER_BATCH
) -> Iterator[PredictedPoints]:
    """Predict all points of `windows`, whose normalisation is set, in their order, `batch_size` at a time.

    The model reads what it reads in evaluation: the clearest image of each period.
    """
    assert windows.normalization is not None, "set windows.normalization before you predict"
    model.eval()
    task = windows.task
    for start in range(0, len(windows), batch_size):
        found = [windows.window(index) for index in range(start, min(start + batch_size, len(windows)))]
        data = {}
        for source in task.sources:
            statistics = windows.normalization[source]
            seasons = [seen_until(window.seasons, windows.seen_days)[source] for window in found]
            frames = (model_frames(one.stacks[source], season, statistics) for one, season in zip(found, seasons, strict=True))
            data[source] = np.stack(list(frames))
        probabilities = predict_windows(model, data, task.window_px, device)[:, :, 0, 0]
        seen = np.array([windows.is_seen(window) for window in found])
        yield PredictedPoints(
            classes=np.where(seen, probabilities.argmax(axis=1), NO_DATA).astype(np.uint8),
            probabilities=np.where(seen[:, None], probabilities, np.nan).astype(np.float32),
        )
