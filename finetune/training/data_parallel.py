"""Data parallelism (torch DDP): each rank computes its slice of every batch, and all ranks learn the same.

Everything that is drawn at random for a window follows from (seed, epoch, step, position in the batch), and losses and batch
normalisation are those of the whole batch. So any number of ranks learns the same, except for the dropout of the temporal CNN.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import ranks
from common.seeding import seed_everything
from finetune.model.crop_mapper import CropMapper
from finetune.training.reading import WindowBatch
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


def seed_step(batch: WindowBatch, model: nn.Module) -> None:
    """Seed the random numbers that `model` draws in the step on `batch`, from the seeds of the batch."""
    assert batch.draw.seeds is not None
    if isinstance(model, CropMapper):  # all ranks draw the stochastic depth of the whole batch
        seed_everything(*batch.draw.seeds)
    else:  # the dropout of the temporal CNN is drawn for a slice: each rank needs random numbers of its own
        seed_everything(*batch.draw.seeds, ranks.rank_and_world_size()[0])


def batch_part(batch: WindowBatch) -> BatchPart:
    """Which windows of the whole batch this rank has."""
    return BatchPart(batch.draw.first, batch.draw.size)
