"""Prints the norm of a gradient that the bf16 engine adds up over micro-batches, and the one that it must have, as JSON.

`python -m tests.support.added_gradients` on any number of ranks, for each ZeRO stage. All micro-batches hold the same pixels, and
their losses differ by factors, powers of two: each gradient is that of the first times such a factor, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pretrain import engine
from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.model import build_encoder
from pretrain.objective.model import LandCoverModel
from tests.support.pretraining import ENCODER, ROOT

FACTORS = [32.0] + [1 / 32] * 31


def gradient_norm(stage: int, factors: Sequence[float], device: torch.device) -> float:
    """Norm of the mean gradient of micro-batches with these factors."""
    optimizer = OptimizerConfig(gradient_clipping=0.0)
    config = PretrainConfig(data="", output=Path(), zero=ROOT / f"launch/zero{stage}.json", precision="bf16", optimizer=optimizer)
    torch.manual_seed(1)
    model = LandCoverModel(build_encoder(replace(ENCODER, sources={"modis": 7})), 4)
    wrapped = engine.wrap(model, config, len(factors), device)
    pixels = torch.randn(2, 8, 7, 12, 12, dtype=torch.bfloat16)
    for factor in factors:
        wrapped.backward(factor * wrapped(pixels, "modis")["fractions"][:, 0].sum())
        wrapped.step()
    return float(wrapped.get_global_grad_norm())


if __name__ == "__main__":
    rank_device = engine.start_ranks()
    norms = {}
    for each in (1, 2, 3):
        of_one, of_all = (gradient_norm(each, factors, rank_device) for factors in ([1.0], FACTORS))
        norms[each] = of_all, of_one * sum(FACTORS) / len(FACTORS)
    print(json.dumps(norms), flush=True)
