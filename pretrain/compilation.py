"""torch.compile after a comparison: an encoder is compiled only when this keeps loss and gradient the same."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from common.seeding import seed_everything
from pretrain.objective.losses import LossWeights, land_cover_loss
from pretrain.objective.model import LandCoverModel, Prediction

# Relative differences of loss and gradient norm that rounding in another order explains; measured on CPUs, with a margin.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

# Source; pixels (B, T, C, H, W) as normalised without and with compiled code; targets.
Example = tuple[str, tuple[torch.Tensor, torch.Tensor], Prediction]


def compile_compared(model: LandCoverModel, dtype: torch.dtype, seed: int, examples: Iterable[Example]) -> list[str]:
    """Compile the encoder's blocks, if each of the examples gives the same loss and gradient norm with and without.

    The comparison uses copies in the precision of training and as in training, with equal draws of stochastic depth. Training
    uses the compiled code of the comparison, if the examples have the shapes of its batches.
    Returns one line per example with the differences. Raises ValueError when they are too large: such a model would train
    differently.
    """
    eager = copy.deepcopy(model).to(dtype).train()
    compiled = copy.deepcopy(eager)
    compiled.encoder.compile_blocks()
    lines = []
    for source, pixels, target in examples:
        pairs = zip((eager, compiled), pixels, strict=True)
        expected, found = (_loss_and_gradient_norm(m, seed, source, seen.to(dtype), target) for m, seen in pairs)
        differences = [abs(f - e) / max(abs(e), 1e-12) for e, f in zip(expected, found, strict=True)]
        line = f"{source}: compiled and eager loss differ by {differences[0]:.1e}, gradient norm by {differences[1]:.1e}"
        if not max(differences) < TOLERANCE[dtype]:  # NaN fails, too
            raise ValueError(f"{line}, more than {TOLERANCE[dtype]:g} of {dtype}; train without --compile")
        lines.append(line)
    model.encoder.compile_blocks()
    return lines


def _loss_and_gradient_norm(
    model: LandCoverModel, seed: int, source: str, pixels: torch.Tensor, target: Prediction
) -> tuple[float, float]:
    seed_everything(seed)  # for stochastic depth
    loss, *_ = land_cover_loss(model(pixels, source), target, None, LossWeights())
    gradients = torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True
    )  # those of other sources' embeddings are None
    squares = [g.float().square().sum() for g in gradients if g is not None]
    return loss.item(), torch.stack(squares).sum().sqrt().item()
