"""The token-wise parts of a block: they keep their small input, and compute cheap results again for the gradient.

PyTorch would keep input and output of each norm and of the GELU, six of the sixteen numbers per token and channel of a block.
Computing them again costs two passes over memory and no matrix product. On CPUs these passes process a few rows at a time, which
stay in the cache between two operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Bytes that an operation writes at a time, so that the next one finds them in the cache; a GPU computes all rows at once.
# Measured with tests/bench/bench_encoder.py on CPUs with 1 MB of L2 cache per core.
CPU_WORKING_SET = 4 << 20


def norm_linear(tokens: torch.Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> torch.Tensor:
    """`linear(norm(tokens))`: (..., C) -> (..., out)."""
    if _must_call_layers(tokens, linear):
        return linear(norm(tokens))
    return _NormLinear.apply(tokens, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)


def norm_mlp(tokens: torch.Tensor, norm: nn.LayerNorm, fc1: nn.Linear, fc2: nn.Linear) -> torch.Tensor:
    """`fc2(gelu(fc1(norm(tokens))))`: (..., C) -> (..., C)."""
    if _must_call_layers(tokens, fc1, fc2):
        return fc2(F.gelu(fc1(norm(tokens))))
    return _NormMlp.apply(tokens, norm.weight, norm.bias, norm.eps, fc1.weight, fc1.bias, fc2.weight, fc2.bias)


def _must_call_layers(tokens: torch.Tensor, *linears: nn.Module) -> bool:
    """Whether the layers must be called, because their weights alone do not determine the result.

    Autocast chooses the precision of each layer, and a layer that replaces a linear one (LoRA in fine-tuning) computes more than
    the product with its `weight`.
    """
    return torch.is_autocast_enabled(tokens.device.type) or any(type(linear) is not nn.Linear for linear in linears)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens, norm_weight, norm_bias, eps, weight, bias) -> torch.Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(tokens, norm_weight, norm_bias, weight)
        ctx.eps, ctx.has_bias = eps, bias is not None
        return F.linear(F.layer_norm(tokens, tokens.shape[-1:], norm_weight, norm_bias, eps), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, norm_weight, norm_bias, weight = ctx.saved_tensors
        shape = tokens.shape[-1:]
        normed, mean, rstd = torch.native_layer_norm(tokens, shape, norm_weight, norm_bias, ctx.eps)
        flat = grad.flatten(0, -2)
        grads = torch.ops.aten.native_layer_norm_backward(
            grad @ weight, tokens, shape, mean, rstd, norm_weight, norm_bias, [True, True, True]
        )
        return (
            *grads,
            None,
            flat.t() @ normed.flatten(0, -2),
            flat.sum(0) if ctx.has_bias else None,
        )


class _NormMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2) -> torch.Tensor:  # type: ignore[no-untyped-def]
        flat = tokens.reshape(-1, tokens.shape[-1])
        hidden = flat.new_empty(len(flat), len(weight1))
        out = torch.empty_like(flat)
        for rows in _rows(hidden):
            normed = F.layer_norm(flat[rows], flat.shape[-1:], norm_weight, norm_bias, eps)
            torch.addmm(bias1, normed, weight1.t(), out=hidden[rows])
            torch.addmm(bias2, F.gelu(hidden[rows]), weight2.t(), out=out[rows])
        ctx.save_for_backward(tokens, hidden, norm_weight, norm_bias, weight1, weight2)
        ctx.eps = eps
        return out.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, hidden, norm_weight, norm_bias, weight1, weight2 = ctx.saved_tensors
        flat, flat_grad = tokens.reshape(-1, tokens.shape[-1]), grad.reshape(-1, grad.shape[-1])
        grad_tokens = torch.empty_like(flat)
        sums: list[torch.Tensor] = []
        for rows in _rows(hidden):
            normed, mean, rstd = torch.native_layer_norm(flat[rows], flat.shape[-1:], norm_weight, norm_bias, ctx.eps)
            upstream = flat_grad[rows]
            grad_hidden = torch.ops.aten.gelu_backward(upstream @ weight2, hidden[rows])
            of_rows, grad_norm_weight, grad_norm_bias = torch.ops.aten.native_layer_norm_backward(
                grad_hidden @ weight1, flat[rows], flat.shape[-1:], mean, rstd, norm_weight, norm_bias, [True, True, True]
            )
            if len(of_rows) == len(flat):
                grad_tokens = of_rows  # without a copy
            else:
                grad_tokens[rows] = of_rows
            sums = _added(
                sums,
                grad_norm_weight,
                grad_norm_bias,
                grad_hidden.t() @ normed,
                grad_hidden.sum(0),
                upstream.t() @ F.gelu(hidden[rows]),
                upstream.sum(0),
            )
        of_norm_weight, of_norm_bias, *of_weights = (total.to(grad.dtype) for total in sums)
        return grad_tokens.view_as(tokens), of_norm_weight, of_norm_bias, None, *of_weights


def _rows(hidden: torch.Tensor) -> Iterator[slice]:
    """Slices of as many rows of a matrix as fit into the cache."""
    step = len(hidden)
    if hidden.device.type == "cpu":
        step = max(1, CPU_WORKING_SET // (hidden.shape[1] * hidden.element_size()))
    for start in range(0, len(hidden), step):
        yield slice(start, start + step)


def _added(totals: list[torch.Tensor], *parts: torch.Tensor) -> list[torch.Tensor]:
    """Sums over slices of rows; with more than one slice in float32, as bfloat16 would lose small terms."""
    return [total.float() + part for total, part in zip(totals, parts, strict=True)] if totals else list(parts)
