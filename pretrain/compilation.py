"""torch.compile behind a comparison: a compiled encoder trains only when it gives the loss and the gradient that it should."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from pretrain.objective import FractionsModel, fractions_loss

# Relative differences of loss and gradient norm that rounding in another order explains, found on CPU and left with room.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

Example = tuple[str, torch.Tensor, torch.Tensor]  # source, pixels (B, T, C, H, W) normalised, fractions (B, classes)


def compile_compared(model: FractionsModel, dtype: torch.dtype, examples: Iterable[Example]) -> list[str]:
    """Compile the encoder's blocks after each of the examples gave the same loss with and without, and the same gradient.

    The comparison is on a copy in the precision of training, without stochastic depth; what it compiled is used again.
    Returns one line an example that says how equal. Raises ValueError where they differ: such a model would train another way.
    """
    eager = copy.deepcopy(model).to(dtype).eval()
    compiled = copy.deepcopy(eager)
    compiled.encoder.compile_blocks()
    lines = []
    for source, pixels, target in examples:
        expected, found = (_loss_and_gradient_norm(m, source, pixels.to(dtype), target) for m in (eager, compiled))
        differences = [abs(f - e) / max(abs(e), 1e-12) for e, f in zip(expected, found, strict=True)]
        line = f"{source}: compiled and eager loss differ by {differences[0]:.1e}, gradient norm by {differences[1]:.1e}"
        if not max(differences) < TOLERANCE[dtype]:  # NaN fails, too
            raise ValueError(f"{line}, more than {TOLERANCE[dtype]:g} of {dtype}; train without --compile")
        lines.append(line)
    model.encoder.compile_blocks()
    return lines


def _loss_and_gradient_norm(
    model: FractionsModel, source: str, pixels: torch.Tensor, target: torch.Tensor
) -> tuple[float, float]:
    loss, *_ = fractions_loss(model(pixels, source), target, None, 0.0)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)  # other sources' embeddings have none
    squares = [g.float().square().sum() for g in gradients if g is not None]
    return loss.item(), torch.stack(squares).sum().sqrt().item()
