"""Linear layers after a LayerNorm or a GELU that keep the small input and compute the cheap one again for the gradient.

PyTorch would keep both sides of the norm and of the GELU: six of the sixteen numbers per token and channel that a block
keeps. Computing them again costs two passes over memory and no matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def norm_linear(tokens: torch.Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> torch.Tensor:
    """`linear(norm(tokens))`: (..., C) -> (..., out)."""
    if torch.is_autocast_enabled(tokens.device.type):  # autocast gives each its own precision, which we would have to repeat
        return linear(norm(tokens))
    return _NormLinear.apply(tokens, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)


def gelu_linear(hidden: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    """`linear(gelu(hidden))`: (..., C) -> (..., out)."""
    if torch.is_autocast_enabled(hidden.device.type):
        return linear(F.gelu(hidden))
    return _GeluLinear.apply(hidden, linear.weight, linear.bias)


def _linear_gradients(
    grad: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, has_bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of a linear layer with respect to its input, weight and bias."""
    flat = grad.flatten(0, -2)
    return grad @ weight, flat.t() @ inputs.flatten(0, -2), flat.sum(0) if has_bias else None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens, norm_weight, norm_bias, eps, weight, bias) -> torch.Tensor:  # type: ignore[no-untyped-def]
        normed, mean, rstd = torch.native_layer_norm(tokens, tokens.shape[-1:], norm_weight, norm_bias, eps)
        ctx.save_for_backward(tokens, mean, rstd, norm_weight, norm_bias, weight)
        ctx.eps, ctx.has_bias = eps, bias is not None
        return F.linear(normed, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, mean, rstd, norm_weight, norm_bias, weight = ctx.saved_tensors
        shape = tokens.shape[-1:]
        normed = torch.native_layer_norm(tokens, shape, norm_weight, norm_bias, ctx.eps)[0]
        grad_normed, grad_weight, grad_bias = _linear_gradients(grad, normed, weight, ctx.has_bias)
        grads = torch.ops.aten.native_layer_norm_backward(
            grad_normed, tokens, shape, mean, rstd, norm_weight, norm_bias, [True, True, True]
        )
        return (*grads, None, grad_weight, grad_bias)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden, weight, bias) -> torch.Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        grad_active, grad_weight, grad_bias = _linear_gradients(grad, F.gelu(hidden), weight, has_bias=True)
        return torch.ops.aten.gelu_backward(grad_active, hidden), grad_weight, grad_bias
