"""Initial weights of the encoder's linear layers."""

from __future__ import annotations

import torch
from torch import nn


def init_by_fan_in(weight: torch.Tensor) -> None:
    """Fill a weight (outputs, inputs, ...) with a normal distribution of variance 1 / inputs, cut off at two deviations.

    Activations keep their size at any width (LeCun et al., 1998). A fixed deviation of 0.02, as in the published code, fits some
    2,500 inputs: the branches of narrow encoders begin so small that they learn late.
    """
    deviation = weight[0].numel() ** -0.5
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
