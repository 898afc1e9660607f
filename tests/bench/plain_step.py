"""One optimizer step of pretraining without DeepSpeed, for benchmarks that compare what is learned."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.config import OptimizerConfig
from pretrain.schedule import scheduled_learning_rate


def plain_step(
    loss: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, steps: int
) -> None:
    """Step `step` of `steps` down the gradient of `loss`: scheduled rate, clipped gradient."""
    for group in optimizer.param_groups:
        group["lr"] = scheduled_learning_rate(config, step, steps)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clipping)
    optimizer.step()
