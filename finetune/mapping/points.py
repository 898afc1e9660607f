"""Prediction of points: series of single pixels, for scores and for tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from finetune.data.tables.point_frames import PointFrames
from finetune.mapping.blocks import predict_windows
from finetune.mapping.cog import NO_DATA

POINTS_PER_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class PredictedPoints:
    """What a model predicts of points.

    Attributes:
        classes: class indices uint8 (n,), `NO_DATA` where the model saw no clear observation.
        probabilities: of each class, float32 (n, classes), NaN where there is no class.
    """

    classes: np.ndarray
    probabilities: np.ndarray


def predict_points(
    model: nn.Module,
    frames: PointFrames,
    device: torch.device,
    batch_size: int = POINTS_PER_BATCH,
    seen_days: float = math.inf,
) -> PredictedPoints:
    """Predict points, `batch_size` at a time.

    The model reads what it reads in evaluation: the clearest image of each period, of the first `seen_days` days of the season.
    """
    model.eval()
    classes, probabilities = [], []
    for start in range(0, len(frames), batch_size):
        data, seen = frames.read(slice(start, start + batch_size), seen_days)
        found = predict_windows(model, data, frames.task.window_px, device)[:, :, 0, 0]
        classes.append(np.where(seen, found.argmax(axis=1), NO_DATA).astype(np.uint8))
        probabilities.append(np.where(seen[:, None], found, np.nan).astype(np.float32))
    return PredictedPoints(classes=np.concatenate(classes), probabilities=np.concatenate(probabilities))
