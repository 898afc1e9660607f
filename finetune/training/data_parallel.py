"""Data parallelism (torch DDP): each rank computes its slice of every batch, and all ranks learn the same.

Everything that is drawn at random for a window follows from (seed, epoch, step, position in the batch), and losses and batch
normalisation are those of the whole batch. So any number of ranks learns the same, except for the dropout of the temporal CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import ranks
from common.seeding import seed_everything
from finetune.data.window_dataset import LabelledWindows
from finetune.model.crop_mapper import CropMapper
from finetune.training.schedule import Schedule
from pretrain.model import BatchPart


def check_batches_fill_ranks(windows: int, schedule: Schedule, world_size: int) -> None:
    """Raises ValueError unless every batch of `windows` training windows has at least one for each of `world_size` ranks."""
    smallest = min(map(len, schedule.batches(0, windows, np.random.default_rng(0))))
    if smallest < world_size:
        raise ValueError(
            f"{world_size} ranks share batches of {smallest} windows ({windows} for training, --training.batch_size "
            f"{schedule.batch_size}), and each needs at least one; start fewer ranks or give a larger --training.batch_size"
        )


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over ranks (all-reduce); every rank holds all of it."""
    # Patch embeddings of sources that the task does not read get no gradient, and DDP would wait for it.
    is_unused = isinstance(model, CropMapper) and set(model.encoder.config.sources) != set(model.sources)
    devices = [device] if device.type == "cuda" else None
    # Buffers are equal without a broadcast: every rank has the batch statistics of the whole batch.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=is_unused)


def rank_slice(training: LabelledWindows, indices: np.ndarray, seeds: Sequence[int], model: nn.Module) -> dict[str, Any]:
    """This rank's slice of the batch `indices`, with random dates and augmentation; seeds the random numbers of `model`.

    All random numbers follow from `seeds` and the window's position in the batch, so neither the number of ranks nor an
    interruption changes them.

    Returns {"data": {source: float32 (B, T, C, H, W)}, "label": int64 (B, H, W), "file_name": B names, "part": BatchPart}.
    """
    rank, world_size = ranks.rank_and_world_size()
    slices = np.array_split(np.arange(len(indices)), world_size)
    generators = np.random.default_rng(list(seeds)).spawn(len(indices))
    windows = [training.batch([int(indices[position])], generators[position]) for position in slices[rank]]
    if isinstance(model, CropMapper):  # all ranks draw the stochastic depth of the whole batch
        seed_everything(*seeds)
    else:  # the dropout of the temporal CNN is drawn for a slice: each rank needs random numbers of its own
        seed_everything(*seeds, rank)
    return {
        "data": {source: torch.cat([window["data"][source] for window in windows]) for source in windows[0]["data"]},
        "label": torch.cat([window["label"] for window in windows]),
        "file_name": [name for window in windows for name in window["file_name"]],
        "part": BatchPart(int(slices[rank][0]), len(indices)),
    }
