"""Scores of a model over labelled windows, computed by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from common import ranks
from finetune.data.batches import BatchDraw
from finetune.data.window_dataset import LabelledWindows
from finetune.scoring.metrics import confusion, scores_for_choosing
from finetune.task import IGNORE
from finetune.training.losses import MapLoss
from finetune.training.precision import Precision, autocast
from finetune.training.reading import BatchReading, WindowBatch


@torch.no_grad()
def score_windows(
    model: nn.Module,
    windows: LabelledWindows,
    batch_size: int,
    device: torch.device,
    loss_of: MapLoss,
    before_batches: Callable[[], None] = lambda: None,
    read: Callable[[Iterable[BatchDraw]], Generator[WindowBatch, None, None]] | None = None,
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """`scoring.metrics.scores` over all `windows`, and `loss`: the mean over batches, weighted by their labelled pixels.

    Each rank computes every n-th batch, and all ranks return the scores of all batches. Puts the model in evaluation mode.
    `before_batches` is called by all ranks together, before each of them computes a batch. `read` gives the batches of draws of
    `windows`; by default they are read in this process.
    """
    rank, world_size = ranks.rank_and_world_size()
    model.eval()
    names = [c.name for c in windows.task.classes]
    matrix = np.zeros((len(names), len(names)), np.int64)
    losses: list[tuple[int, float, int]] = []  # (first window, loss, labelled pixels) of each batch
    starts = range(rank * batch_size, len(windows), world_size * batch_size)

    def draws() -> Iterator[BatchDraw]:
        for start in starts:
            indices = tuple(range(start, min(start + batch_size, len(windows))))
            yield BatchDraw(indices=indices, first=0, size=len(indices))

    read = read or partial(BatchReading(0, device).batches, windows, augmented=False)
    with closing(read(draws())) as batches:
        for first in range(0, len(windows), world_size * batch_size):
            before_batches()
            start = first + rank * batch_size
            if start >= len(windows):
                break  # the last round has fewer batches than ranks
            batch = next(batches)
            label = batch.label
            with autocast(device, precision):
                class_scores = model(batch.data, (label.shape[-2], label.shape[-1])).float()
            labelled, predicted = (maps.flatten(0, 1).cpu().numpy() for maps in (label, class_scores.argmax(dim=1)))
            matrix += confusion(labelled, predicted, len(names))
            losses.append((start, loss_of(class_scores, label).item(), int((label != IGNORE).sum())))
    matrices, of_ranks = zip(*ranks.gather((matrix, losses)), strict=True)
    _, values, pixels = zip(*sorted(batch for of_rank in of_ranks for batch in of_rank), strict=True)
    found = scores_for_choosing(sum(matrices), names)
    return found | {"loss": float(np.average(values, weights=pixels))}
