"""Attention in windows, in operators of PyTorch: tuned for the caches of CPUs, and what GPUs without Triton run as well.

Shape suffixes: B batch, L tokens of a map, C channels, A attention heads, H = C / A channels of a head, K windows of one
group, k windows computed at a time, N real tokens of a window, M keys of a window: N, and one more that stands for the padding
if the window has any, R the sum of N * M over groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pretrain.model.attention.layout import WindowLayout, as_size, window_layout

# Bytes of attention scores that are computed at a time, so that they stay in the cache between the four passes over them.
# Measured with tests/bench/bench_encoder.py on CPUs with 1 MB of L2 cache per core.
SCORE_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}


def window_attention(qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor, layout: WindowLayout) -> torch.Tensor:
    """See `pretrain/model/attention/home.py`."""
    bias = bias_of(table, layout).to(qkv.dtype)
    return attend(qkv, padding, bias, list(layout.size), list(layout.window), layout.shifted)


def bias_of(table: torch.Tensor, layout: WindowLayout) -> torch.Tensor:
    """Position bias and mask, to be added to the scores of all groups of windows: (A, R), for each group N x M numbers."""
    pairs = (table[layout.bias_rows] + layout.mask).t().contiguous()
    if not any(group.num_padding for group in layout.groups):
        return pairs
    biases = []
    for group in layout.groups:
        tokens, padding = group.index.shape[1], group.num_padding
        real, padded, pairs = pairs.split([tokens**2, tokens * padding, pairs.shape[1] - tokens * (tokens + padding)], dim=1)
        if padding:
            of_padding = padded.view(-1, tokens, padding).logsumexp(-1, keepdim=True)
            real = torch.cat([real.view(-1, tokens, tokens), of_padding], dim=-1).flatten(1)
        biases.append(real)
    return torch.cat(biases, dim=1)


# The two functions below are registered as operators, so that torch.compile calls them as they are and its graph has no break.
# An operator takes plain lists: it looks the layout up again by size, window and shift.
@torch.library.custom_op("agrifm::attend", mutates_args=())
def attend(
    qkv: torch.Tensor, padding: torch.Tensor, bias: torch.Tensor, size: list[int], window: list[int], shifted: bool
) -> torch.Tensor:
    """The operator of PyTorch for `window_attention`, with the joined layout of a map and window of these sizes.

    Scores exist for a few windows at a time and are computed again for the gradient, so memory does not grow with their number,
    as in FlashAttention (Dao et al., 2022). Unlike PyTorch's fused attention on CPUs this one gives the bias a gradient.
    """
    batch, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    flat = qkv.reshape(batch * length, 3 * channels)
    out = flat.new_empty(batch * length, channels)
    for chunk, of_group, _ in _chunks(qkv, bias, size, window, shifted):
        query, key, value = _heads(flat, chunk, padding, of_group)
        attended = _probabilities(query, key, of_group) @ value  # (k*A, N, H)
        out.index_copy_(0, chunk.flatten(), _tokens(attended, len(chunk)))
    return out.view(batch, length, channels)


@torch.library.custom_op("agrifm::attend_backward", mutates_args=())
def attend_backward(
    grad: torch.Tensor,
    qkv: torch.Tensor,
    padding: torch.Tensor,
    bias: torch.Tensor,
    size: list[int],
    window: list[int],
    shifted: bool,
) -> list[torch.Tensor]:
    """The operator for the gradients of `attend`.

    These are with respect to qkv, padding and bias, from the gradient of its result, (B, L, C).
    """
    batch, length, channels = grad.shape
    flat, flat_grad = qkv.reshape(batch * length, 3 * channels), grad.reshape(batch * length, channels)
    grad_qkv = torch.empty_like(flat)
    # These sum over many windows, so they are float32 even when the rest is bfloat16.
    grad_padding = torch.zeros_like(padding, dtype=torch.float32)
    grad_bias = torch.zeros_like(bias, dtype=torch.float32)
    for chunk, of_group, part in _chunks(qkv, bias, size, window, shifted):
        heads, tokens, keys = of_group.shape
        query, key, value = _heads(flat, chunk, padding, of_group)
        weights = _probabilities(query, key, of_group)
        upstream = flat_grad.index_select(0, chunk.flatten()).view(len(chunk), tokens, heads, -1)
        upstream = upstream.transpose(1, 2).reshape(len(chunk) * heads, tokens, -1)
        grad_scores = upstream @ value.mT  # first of the weights, then, in place, of the scores
        torch.ops.aten._softmax_backward_data.out(grad_scores, weights, -1, weights.dtype, grad_input=grad_scores)
        grad_bias[:, part] += grad_scores.view(len(chunk), heads, tokens * keys).sum(0, dtype=torch.float32)
        scale = query.shape[-1] ** -0.5
        grads = torch.empty(len(chunk), keys, 3, heads, query.shape[-1], dtype=qkv.dtype, device=qkv.device)
        by_head = grads.permute(2, 0, 3, 1, 4)  # (3, k, A, M, H)
        by_head[0, :, :, :tokens] = (grad_scores @ key).mul_(scale).view(len(chunk), heads, tokens, -1)
        by_head[1] = (grad_scores.mT @ query).view(len(chunk), heads, keys, -1)  # the query is scaled already
        by_head[2] = (weights.mT @ upstream).view(len(chunk), heads, keys, -1)
        if keys > tokens:
            grad_padding[channels:] += grads[:, tokens, 1:].sum(0, dtype=torch.float32).flatten()
        grad_qkv.index_copy_(0, chunk.flatten(), grads[:, :tokens].reshape(-1, 3 * channels))
    return [grad_qkv.view_as(qkv), grad_padding.to(padding), grad_bias.to(bias)]


def _chunks(
    qkv: torch.Tensor, bias: torch.Tensor, size: Sequence[int], window: Sequence[int], shifted: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor, slice]]:
    """Some windows of a group at a time, k of them.

    Yields the positions of their tokens among the B * L of the batch, int64 (k, N), the bias of the group (A, N, M), and where in
    `bias` it is.
    """
    first = torch.arange(qkv.shape[0], device=qkv.device).view(-1, 1, 1) * qkv.shape[1]
    layout, offset = window_layout(as_size(size), as_size(window), shifted, qkv.device, may_join=True), 0
    budget = SCORE_BYTES.get(qkv.device.type, SCORE_BYTES["cuda"])
    for group in layout.groups:
        tokens = group.index.shape[1]
        keys = tokens + bool(group.num_padding)
        part = slice(offset, offset + tokens * keys)
        of_group = bias[:, part].reshape(-1, tokens, keys)
        windows = (group.index + first).flatten(0, 1)  # (B*K, N)
        for chunk in windows.split(max(1, budget // (of_group.numel() * qkv.element_size()))):
            yield chunk, of_group, part
        offset = part.stop


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
def _(qkv: torch.Tensor, padding, bias, size, window, shifted) -> torch.Tensor:  # type: ignore[no-untyped-def]  # noqa: ARG001
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@attend_backward.register_fake
def _(grad, qkv, padding, bias, size, window, shifted) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]  # noqa: ARG001
    return [torch.empty_like(qkv), torch.empty_like(padding), torch.empty_like(bias)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    *tensors, _, _, _ = inputs
    ctx.save_for_backward(*tensors)
    ctx.layout = inputs[3:]


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return *attend_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.layout), None, None, None


attend.register_autograd(_gradients, setup_context=_keep)
