"""Pretraining in which the gradient of some steps is not finite, though the losses are.

Started like pretraining: `python -m tests.support.spoiled_gradients ARGUMENTS`. The environment variable
SPOILED_STEPS is JSON: by step (from 0) the number, `inf` or `nan`, that the last rank gets as its gradient.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch

from common import ranks
from pretrain import train

STEPS = "SPOILED_STEPS"


class _Spoiled(torch.autograd.Function):
    """Zero, with `number` for the gradient of each input."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, number: float) -> torch.Tensor:
        ctx.gradient = torch.full_like(values, number)
        return values.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return ctx.gradient, None


def spoil_gradients(by_step: dict[int, float]) -> None:
    """Let the training loop of this process have these gradients."""
    forward_backward, land_cover_loss, now = train.forward_backward, train.land_cover_loss, {"step": -1}

    def noting_the_step(run: Any, batch: Any, step: int, *more: Any) -> Any:
        now["step"] = step
        return forward_backward(run, batch, step, *more)

    def spoiled_loss(predicted: dict[str, torch.Tensor], *more: Any) -> tuple[torch.Tensor, ...]:
        total, *others = land_cover_loss(predicted, *more)
        rank, world_size = ranks.rank_and_world_size()
        if now["step"] in by_step and rank == world_size - 1:
            total = total + _Spoiled.apply(predicted["fractions"], by_step[now["step"]])
        return total, *others

    train.forward_backward, train.land_cover_loss = noting_the_step, spoiled_loss


if __name__ == "__main__":
    spoil_gradients({int(step): float(number) for step, number in json.loads(os.environ[STEPS]).items()})
    train.main()
