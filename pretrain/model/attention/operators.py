"""Attention in windows, in operators of PyTorch: tuned for the caches of CPUs, and what GPUs run as well.

Shape suffixes: B batch, L tokens of a map, C channels, A attention heads, H = C / A channels of a head, K windows of one
group, k windows computed at a time, N real tokens of a window, M keys of a window: N, and one more that stands for the padding
if the window has any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pretrain.model.attention.layout import Size, WindowLayout, window_layout

# Bytes of attention scores that are computed at a time, so that they stay in the cache between the four passes over them.
# Measured with tests/bench/bench_encoder.py on CPUs with 1 MB of L2 cache per core.
SCORE_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}


def window_attention(
    qkv: torch.Tensor, padding: torch.Tensor, biases: Sequence[torch.Tensor], layout: WindowLayout
) -> torch.Tensor:
    """Attention by the operator `attend`: softmax(Q K^T / sqrt(H) + bias) V within each window of `layout`: (B, L, C).

    Args:
        qkv: (B, L, 3C), queries, keys and values of the map's tokens, each with heads outer.
        padding: (3C,), those of a padding token.
        biases: (A, N, M) for each group of windows of the layout.
        layout: how the map is divided into windows.
    """
    return attend(qkv, padding, biases, list(layout.size), list(layout.window), layout.shifted)


# The two functions below are registered as operators, so that torch.compile calls them as they are and its graph has no break.
# An operator takes plain lists: it looks the layout up again by size, window and shift.
@torch.library.custom_op("agrifm::attend", mutates_args=())
def attend(
    qkv: torch.Tensor, padding: torch.Tensor, biases: Sequence[torch.Tensor], size: list[int], window: list[int], shifted: bool
) -> torch.Tensor:
    """The operator of PyTorch for `window_attention`, with the layout `window_layout(size, window, shifted)`.

    Scores exist for a few windows at a time and are computed again for the gradient, so memory does not grow with their number,
    as in FlashAttention (Dao et al., 2022). Unlike PyTorch's fused attention on CPUs this one gives the bias a gradient.
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
    """The operator for the gradients of `attend`.

    These are with respect to qkv, padding and each of the biases, from the gradient of its result, (B, L, C).
    """
    batch, length, channels = grad.shape
    flat, flat_grad = qkv.reshape(batch * length, 3 * channels), grad.reshape(batch * length, channels)
    grad_qkv = torch.empty_like(flat)
    # These sum over many windows, so they are float32 even when the rest is bfloat16.
    grad_padding = torch.zeros_like(padding, dtype=torch.float32)
    grad_biases = [torch.zeros_like(bias, dtype=torch.float32) for bias in biases]
    for number, chunk in _chunks(qkv, biases, size, window, shifted):
        bias = biases[number]
        heads, tokens, keys = bias.shape
        query, key, value = _heads(flat, chunk, padding, bias)
        weights = _probabilities(query, key, bias)
        upstream = flat_grad.index_select(0, chunk.flatten()).view(len(chunk), tokens, heads, -1)
        upstream = upstream.transpose(1, 2).reshape(len(chunk) * heads, tokens, -1)
        grad_scores = upstream @ value.mT  # first of the weights, then, in place, of the scores
        torch.ops.aten._softmax_backward_data.out(grad_scores, weights, -1, weights.dtype, grad_input=grad_scores)
        grad_biases[number] += grad_scores.view(len(chunk), heads, tokens, keys).sum(0, dtype=torch.float32)
        scale = query.shape[-1] ** -0.5
        grads = torch.empty(len(chunk), keys, 3, heads, query.shape[-1], dtype=qkv.dtype, device=qkv.device)
        by_head = grads.permute(2, 0, 3, 1, 4)  # (3, k, A, M, H)
        by_head[0, :, :, :tokens] = (grad_scores @ key).mul_(scale).view(len(chunk), heads, tokens, -1)
        by_head[1] = (grad_scores.mT @ query).view(len(chunk), heads, keys, -1)  # the query is scaled already
        by_head[2] = (weights.mT @ upstream).view(len(chunk), heads, keys, -1)
        if keys > tokens:
            grad_padding[channels:] += grads[:, tokens, 1:].sum(0, dtype=torch.float32).flatten()
        grad_qkv.index_copy_(0, chunk.flatten(), grads[:, :tokens].reshape(-1, 3 * channels))
    return [grad_qkv.view_as(qkv), grad_padding.to(padding), *(g.to(b) for g, b in zip(grad_biases, biases, strict=True))]


def _chunks(
    qkv: torch.Tensor, biases: Sequence[torch.Tensor], size: Sequence[int], window: Sequence[int], shifted: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """The number of a group and k of its windows: int64 (k, N), the positions of their tokens among the B * L of the batch."""
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
    return torch.softmax(scores, -1, out=scores)  # in place: fresh memory costs as much as the softmax


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
