"""Attention inside shifted 3-D windows with a relative position bias (Video Swin, Liu et al., 2022).

Shape suffixes: B batch, L tokens of a map, C channels, A attention heads, H = C / A channels of a head, K windows of one
group, N real tokens of a window, M keys of a window: N, and one more that stands for the padding if there is any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from pretrain.model.attention.layout import Size, WindowLayout, window_layout
from pretrain.model.recompute import norm_linear

# Bytes of attention scores that are worked on at a time, so that they stay in the cache between the four passes over them.
# Measured with tests/bench/bench_encoder.py on CPUs of 1 MB of L2 a core.
SCORE_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows of a feature map. `window` is what the bias table is laid out for."""

    def __init__(self, dim: int, num_heads: int, window: Size):
        super().__init__()
        table_rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: torch.Tensor, norm: nn.LayerNorm, layout: WindowLayout) -> torch.Tensor:
        """Attention over `norm(tokens)`: (B, L, C) -> (B, L, C), L the tokens of the map that `layout` cuts."""
        qkv = norm_linear(tokens, norm, self.qkv)
        biases = [bias.to(qkv.dtype) for bias in self._biases(layout)]
        # The published code pads with zeros after the norm and before the projection, so padding projects to the bias.
        padding = self.qkv.bias.to(qkv.dtype)
        return self.proj(attend(qkv, padding, biases, list(layout.size), list(layout.window), layout.shifted))

    def _biases(self, layout: WindowLayout) -> Iterator[torch.Tensor]:
        """What is added to the scores in the windows of each group: float32 (A, N, M)."""
        pairs = (self.relative_position_bias_table[layout.bias_rows] + layout.mask).t().contiguous()  # (A, R)
        for group in layout.groups:
            tokens, padding = group.index.shape[1], group.num_padding
            real, padded, pairs = pairs.split([tokens**2, tokens * padding, pairs.shape[1] - tokens * (tokens + padding)], dim=1)
            bias = real.view(-1, tokens, tokens)
            if padding:
                bias = torch.cat([bias, padded.view(-1, tokens, padding).logsumexp(-1, keepdim=True)], dim=-1)
            yield bias


# Registered operators, so that torch.compile keeps them as they are and meets no break in its graph.
@torch.library.custom_op("agrifm::attend", mutates_args=())
def attend(
    qkv: torch.Tensor, padding: torch.Tensor, biases: Sequence[torch.Tensor], size: list[int], window: list[int], shifted: bool
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(H) + bias) V within each window.

    Args:
        qkv: (B, L, 3C), queries, keys and values of the map's tokens, each with heads outer.
        padding: (3C,), those of a padding token.
        biases: (A, N, M) for each group of `window_layout(size, window, shifted)`.
        size, window, shifted: of that layout.

    Returns (B, L, C). Scores exist for a few windows at a time and are computed again for the gradient, so memory does not
    grow with them, as in FlashAttention (Dao et al., 2022). Unlike PyTorch's fused attention on CPUs it gives the bias a
    gradient.
    """
    batch, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    flat = qkv.reshape(batch * length, 3 * channels)
    out = flat.new_empty(batch * length, channels)
    for number, chunk in _chunks(qkv, biases, size, window, shifted):
        bias = biases[number]
        query, key, value = _heads(flat, chunk, padding, bias)
        attended = _probabilities(query, key, bias) @ value  # (k*A, N, H)
        out.index_copy_(0, chunk.flatten(), _tokens(attended, len(chunk)))
    return out.view(batch, length, channels)


@torch.library.custom_op("agrifm::attend_backward", mutates_args=())
def attend_backward(
    grad: torch.Tensor,
    qkv: torch.Tensor,
    padding: torch.Tensor,
    biases: Sequence[torch.Tensor],
    size: list[int],
    window: list[int],
    shifted: bool,
) -> list[torch.Tensor]:
    """Gradients of `attend` with respect to qkv, padding and each of the biases, given that of its result (B, L, C)."""
    batch, length, channels = grad.shape
    flat, flat_grad = qkv.reshape(batch * length, 3 * channels), grad.reshape(batch * length, channels)
    grad_qkv = torch.empty_like(flat)
    # Sums over many windows: in float32 also when the rest is bfloat16.
    grad_padding = torch.zeros_like(padding, dtype=torch.float32)
    grad_biases = [torch.zeros_like(bias, dtype=torch.float32) for bias in biases]
    for number, chunk in _chunks(qkv, biases, size, window, shifted):
        bias = biases[number]
        heads, tokens, keys = bias.shape
        query, key, value = _heads(flat, chunk, padding, bias)
        weights = _probabilities(query, key, bias)
        upstream = flat_grad.index_select(0, chunk.flatten()).view(len(chunk), tokens, heads, -1)
        upstream = upstream.transpose(1, 2).reshape(len(chunk) * heads, tokens, -1)
        grad_scores = upstream @ value.mT  # of the weights, and in place of the scores
        torch.ops.aten._softmax_backward_data.out(grad_scores, weights, -1, weights.dtype, grad_input=grad_scores)
        grad_biases[number] += grad_scores.view(len(chunk), heads, tokens, keys).sum(0, dtype=torch.float32)
        scale = query.shape[-1] ** -0.5
        grads = torch.empty(len(chunk), keys, 3, heads, query.shape[-1], dtype=qkv.dtype, device=qkv.device)
        by_head = grads.permute(2, 0, 3, 1, 4)  # (3, k, A, M, H)
        by_head[0, :, :, :tokens] = (grad_scores @ key).mul_(scale).view(len(chunk), heads, tokens, -1)
        by_head[1] = (grad_scores.mT @ query).view(len(chunk), heads, keys, -1)  # the query bears the scale already
        by_head[2] = (weights.mT @ upstream).view(len(chunk), heads, keys, -1)
        if keys > tokens:
            grad_padding[channels:] += grads[:, tokens, 1:].sum(0, dtype=torch.float32).flatten()
        grad_qkv.index_copy_(0, chunk.flatten(), grads[:, :tokens].reshape(-1, 3 * channels))
    return [grad_qkv.view_as(qkv), grad_padding.to(padding), *(g.to(b) for g, b in zip(grad_biases, biases, strict=True))]


def _chunks(
    qkv: torch.Tensor, biases: Sequence[torch.Tensor], size: Sequence[int], window: Sequence[int], shifted: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """A group's number and some of its windows: int64 (k, N), where their tokens lie among the (B * L) of the batch."""
    first = torch.arange(qkv.shape[0], device=qkv.device).view(-1, 1, 1) * qkv.shape[1]
    layout = window_layout(_size(size), _size(window), shifted, qkv.device)
    for number, (group, bias) in enumerate(zip(layout.groups, biases, strict=True)):
        windows = (group.index + first).flatten(0, 1)  # (B*K, N)
        budget = SCORE_BYTES.get(qkv.device.type, SCORE_BYTES["cuda"])
        for chunk in windows.split(max(1, budget // (bias.numel() * qkv.element_size()))):
            yield number, chunk


def _size(sides: Sequence[int]) -> Size:
    depth, height, width = sides
    return depth, height, width


def _heads(
    flat: torch.Tensor, chunk: torch.Tensor, padding: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled queries (k*A, N, H), keys and values (k*A, M, H) of k windows."""
    heads, tokens, keys = bias.shape
    rows = flat.index_select(0, chunk.flatten()).view(len(chunk), tokens, -1)
    if keys > tokens:
        rows = torch.cat([rows, padding.expand(len(chunk), 1, -1)], dim=1)
    by_head = rows.view(len(chunk), keys, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (3, k, A, M, H)
    query = by_head[0, :, :, :tokens].flatten(0, 1).contiguous().mul_(by_head.shape[-1] ** -0.5)
    return query, by_head[1].flatten(0, 1).contiguous(), by_head[2].flatten(0, 1).contiguous()


def _probabilities(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention weights (k*A, N, M)."""
    scores = query @ key.mT
    scores.view(-1, *bias.shape).add_(bias)
    return torch.softmax(scores, -1, out=scores)  # in place, row by row: fresh memory costs as much as the softmax


def _tokens(attended: torch.Tensor, windows: int) -> torch.Tensor:
    """(k*A, N, H) -> (k*N, C)."""
    return attended.view(windows, -1, *attended.shape[1:]).transpose(1, 2).reshape(windows * attended.shape[1], -1)


@attend.register_fake
def _(qkv: torch.Tensor, padding, biases, size, window, shifted) -> torch.Tensor:  # type: ignore[no-untyped-def]  # noqa: ARG001
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@attend_backward.register_fake
def _(grad, qkv, padding, biases, size, window, shifted) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]  # noqa: ARG001
    return [torch.empty_like(qkv), torch.empty_like(padding), *(torch.empty_like(bias) for bias in biases)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    qkv, padding, biases, *ctx.layout = inputs
    ctx.save_for_backward(qkv, padding, *biases)


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    qkv, padding, *biases = ctx.saved_tensors
    grad_qkv, grad_padding, *grad_biases = attend_backward(grad.contiguous(), qkv, padding, biases, *ctx.layout)
    return grad_qkv, grad_padding, grad_biases, None, None, None


attend.register_autograd(_gradients, setup_context=_keep)
