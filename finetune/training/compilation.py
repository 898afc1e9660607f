"""torch.compile after a comparison, as in pretraining: an encoder is compiled only when this keeps loss and gradient the same."""

from __future__ import annotations

import copy

import torch

from common.seeding import seed_everything
from finetune.model.crop_mapper import CropMapper
from finetune.training.losses import MapLoss
from finetune.training.precision import Precision, autocast
from finetune.training.reading import WindowBatch
from pretrain.compilation import TOLERANCE


def compile_compared(model: CropMapper, loss_of: MapLoss, batch: WindowBatch, precision: Precision, seed: int) -> str:
    """Compile the blocks of the model's encoder, if a batch gives the same loss and gradient norm with and without.

    The comparison uses copies, as in training, with equal draws of stochastic depth. Returns a line with the differences. Raises
    ValueError when they are too large: such a model would train differently.
    """
    eager = copy.deepcopy(model).train()
    compiled = copy.deepcopy(eager)
    compiled.encoder.compile_blocks()
    expected, found = (_loss_and_gradient_norm(each, loss_of, batch, precision, seed) for each in (eager, compiled))
    differences = [abs(f - e) / max(abs(e), 1e-12) for e, f in zip(expected, found, strict=True)]
    line = f"compiled and eager loss differ by {differences[0]:.1e}, gradient norm by {differences[1]:.1e}"
    largest = TOLERANCE[torch.bfloat16 if precision == "bf16" else torch.float32]
    if not max(differences) < largest:  # NaN fails, too
        raise ValueError(f"{line}, more than {largest:g} of {precision}; train without --training.compile")
    model.encoder.compile_blocks()
    return line


def _loss_and_gradient_norm(
    model: CropMapper, loss_of: MapLoss, batch: WindowBatch, precision: Precision, seed: int
) -> tuple[float, float]:
    seed_everything(seed)  # for stochastic depth
    with autocast(batch.label.device, precision):
        class_scores = model(batch.data, (batch.label.shape[-2], batch.label.shape[-1]))
    loss = loss_of(class_scores.float(), batch.label)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)  # those of other sources' embeddings are None
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return loss.item(), torch.stack(squares).sum().sqrt().item()
