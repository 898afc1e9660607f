"""Prints what a step with a loss that is not finite has changed, as JSON: lists by precision and loss.

`python -m tests.support.spoiled_losses zero1` on any number of ranks, for a file of launch/. One of two engines that are alike
takes a step more between two others: the loss of the last rank is not finite in it, but its gradient is.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch

from common import ranks
from pretrain import engine
from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.model import build_encoder
from pretrain.objective.model import LandCoverModel
from tests.support.pretraining import ENCODER, ROOT


def changes(zero: str, precision: str, spoiled: float, device: torch.device) -> list[str]:
    """Names of the tensors that differ, and the norm of the gradient that the step should not have."""
    states, norms = [], []
    for losses in ((0.0, spoiled, 0.0), (0.0, 0.0)):
        optimizer = OptimizerConfig(gradient_clipping=0.1)
        config = PretrainConfig(
            data="", output=Path(), zero=ROOT / f"launch/{zero}.json", precision=precision, optimizer=optimizer
        )
        torch.manual_seed(1)
        model = LandCoverModel(build_encoder(replace(ENCODER, sources={"modis": 7})), 4)
        wrapped = engine.wrap(model, config, 1, device)
        pixels = torch.randn(2, 8, 7, 12, 12, dtype=wrapped.module.head.weight.dtype)
        for added in losses:
            rank, world_size = ranks.rank_and_world_size()
            loss = wrapped(pixels, "modis")["fractions"][:, 0].sum() + (added if rank == world_size - 1 else 0.0)
            engine.backward(wrapped, loss)
            wrapped.step()
            norms.append(float(wrapped.get_global_grad_norm()))
        weights, moments = engine.gather_state(wrapped)
        states.append(weights | moments)
    different = [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])]
    return different + ([] if [math.isfinite(norm) for norm in norms] == [True, False, True, True, True] else [str(norms)])


if __name__ == "__main__":
    rank_device = engine.start_ranks()
    found = {
        f"{precision} {spoiled}": changes(sys.argv[1], precision, spoiled, rank_device)
        for precision in ("fp32", "bf16")
        for spoiled in (math.inf, math.nan)
    }
    if ranks.rank_and_world_size()[0] == 0:
        print(json.dumps(found), flush=True)
