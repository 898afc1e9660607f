"""Which weights decay, in pretraining and in fine-tuning."""

from __future__ import annotations

from torch import nn


def has_weight_decay(name: str, weight: nn.Parameter) -> bool:
    """Whether AdamW's weight decay pulls the weight `name` to zero: it does so for matrices and kernels of convolutions.

    Norms and biases, which have one dimension, and the tables of relative position biases have none: zero is no better value
    for them than any other.
    """
    return weight.ndim > 1 and not name.endswith("relative_position_bias_table")
