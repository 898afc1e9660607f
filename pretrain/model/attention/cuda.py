"""Attention in windows for GPUs: one Triton kernel forward and three backward, which never write scores to memory.

Windows are gathered by index while they are read, so no token is moved. A program computes a tile of queries of one window and
head: the softmax runs over tiles of keys (online, as in FlashAttention, Dao et al., 2022), so windows of any size fit. It begins
with the key that stands for the padding. The gradient is computed in three passes: of the queries and the padding, of keys and
values, and of the bias (whose own kernels are in `cuda_bias.py`). Each number of it has one program that writes it, and sums over
programs are taken in a fixed order: two runs give the same bits.

The kernels also run in Triton's interpreter on a CPU (TRITON_INTERPRET=1, Triton 3.8 or newer).

Shape suffixes: B batch, L tokens of a map, C channels, A attention heads, H = C / A channels of a head, G groups, W windows of
the map, N real tokens of a window, M its keys (N, and one more that stands for the padding if it has any), R numbers of the
biases of all groups for a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from pretrain.model.attention.cuda_bias import bias_of, gradient_of_table
from pretrain.model.attention.cuda_tables import SLICES, Tables, aligned, tables
from pretrain.model.attention.layout import WindowLayout, as_size

# Queries and keys of a program. Products of float32 in full precision take more registers, those over queries most.
TILES = {torch.float32: 32, torch.bfloat16: 64, torch.float16: 64}
TILES_OF_KEYS = TILES | {torch.float32: 16}  # of the kernel that computes the gradient of keys
OPTIONS = {"num_warps": 4, "num_stages": 2}  # warps of a program, and stages of its pipeline


@triton.jit
def _window_of_program(windows, num_windows):
    """The sample (int64), and of the window the first of its `places`, its tokens, its keys and where its bias begins."""
    window = windows + 4 * (tl.program_id(0) % num_windows)
    bias_offset = tl.multiple_of(tl.load(window + 3), 16)
    sample = (tl.program_id(0) // num_windows).to(tl.int64)
    return sample, tl.load(window), tl.load(window + 1), tl.load(window + 2), bias_offset


@triton.jit
def _rows_of(tensor, places, real, channels, first, HEAD: tl.constexpr):
    """Rows (TILE, H) of a matrix with `channels` columns, from column `first` on; 0 where not `real`."""
    return tl.load(tensor + places[:, None] * channels + first + tl.arange(0, HEAD)[None, :], mask=real[:, None], other=0.0)


@triton.jit
def _stride(keys):
    """`cuda_tables.aligned`."""
    return (keys + 15) // 16 * 16


@triton.jit
def _scores(query, key, bias, row, column, tokens, keys, scale, PRECISION: tl.constexpr):
    """Scores (TILE, TILE) in float32, with their bias; minus infinity beyond the tokens of the window."""
    inside = (row < tokens)[:, None] & (column < tokens)[None, :]
    added = tl.load(bias + row[:, None] * _stride(keys) + column[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    return tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + added


@triton.jit
def _score_of_padding(query, padding, bias, row, tokens, keys, channels, head, scale, HEAD: tl.constexpr):
    """Scores (TILE,) of the key that stands for the padding; minus infinity in a window without padding."""
    key = tl.load(padding + channels + head * HEAD + tl.arange(0, HEAD)).to(tl.float32)
    added = tl.load(bias + row * _stride(keys) + tokens, mask=row < tokens * (keys - tokens), other=float("-inf")).to(tl.float32)
    return tl.sum(query.to(tl.float32) * key[None, :], 1) * scale + added


@triton.jit
def _forward(
    qkv, padding, bias, out, lse, places, windows, length, channels, scale, bias_size, num_windows, num_heads,
    TILE: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    sample, first, tokens, keys, bias_offset = _window_of_program(windows, num_windows)
    bias += head * bias_size + bias_offset
    of_sample = sample * length  # the pointers begin at the sample, so that offsets of tiles fit 32 bits
    qkv, out, lse = qkv + of_sample * 3 * channels, out + of_sample * channels, lse + of_sample * num_heads + head * length
    row = tl.program_id(2) * TILE + tl.arange(0, TILE)
    is_row = row < tokens
    if tl.program_id(2) * TILE < tokens:
        place = tl.load(places + first + row, mask=is_row, other=0)
        query = _rows_of(qkv, place, is_row, 3 * channels, head * HEAD, HEAD)
        # The softmax begins with the padding, if there is any.
        highest = _score_of_padding(query, padding, bias, row, tokens, keys, channels, head, scale, HEAD)
        total = tl.where(highest > float("-inf"), 1.0, 0.0)
        value = tl.load(padding + 2 * channels + head * HEAD + tl.arange(0, HEAD)).to(tl.float32)
        attended = total[:, None] * value[None, :]
        for start in range(0, tokens, TILE):
            column = start + tl.arange(0, TILE)
            at = tl.load(places + first + column, mask=column < tokens, other=0)
            key = _rows_of(qkv, at, column < tokens, 3 * channels, channels + head * HEAD, HEAD)
            scores = _scores(query, key, bias, row, column, tokens, keys, scale, PRECISION)
            now = tl.where(is_row, tl.maximum(highest, tl.max(scores, 1)), 0.0)
            weights = tl.exp(scores - now[:, None])
            kept = tl.exp(highest - now)
            total = total * kept + tl.sum(weights, 1)
            values = _rows_of(qkv, at, column < tokens, 3 * channels, 2 * channels + head * HEAD, HEAD)
            attended = attended * kept[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
            highest = now
        total = tl.where(is_row, total, 1.0)
        attended = (attended / total[:, None]).to(query.dtype)
        tl.store(out + place[:, None] * channels + head * HEAD + tl.arange(0, HEAD)[None, :], attended, mask=is_row[:, None])
        tl.store(lse + place, highest + tl.log(total), mask=is_row)


@triton.jit
def _gradient_of_queries(
    grad, out, qkv, padding, bias, lse, delta, of_padding, grad_qkv, grad_padding, places, windows, length, channels, scale,
    bias_size, num_windows, num_heads, TILE: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Also of the padding's key and value in each tile of a window that has any: `grad_padding` (tiles, B * W, 3C).

    For the other two passes it writes `delta`, the products of result and its gradient, and `of_padding`, the gradients of the
    padding's scores; both (B, A, L).
    """
    head = tl.program_id(1)
    sample, first, tokens, keys, bias_offset = _window_of_program(windows, num_windows)
    bias += head * bias_size + bias_offset
    of_sample = sample * length
    qkv, grad_qkv = qkv + of_sample * 3 * channels, grad_qkv + of_sample * 3 * channels
    grad, out = grad + of_sample * channels, out + of_sample * channels
    of_head = of_sample * num_heads + head * length
    row = tl.program_id(2) * TILE + tl.arange(0, TILE)
    is_row = row < tokens
    if tl.program_id(2) * TILE < tokens:
        place = tl.load(places + first + row, mask=is_row, other=0)
        query = _rows_of(qkv, place, is_row, 3 * channels, head * HEAD, HEAD)
        upstream = _rows_of(grad, place, is_row, channels, head * HEAD, HEAD)
        attended = _rows_of(out, place, is_row, channels, head * HEAD, HEAD)
        product = tl.sum(upstream.to(tl.float32) * attended.to(tl.float32), 1)
        tl.store(delta + of_head + place, product, mask=is_row)
        normaliser = tl.load(lse + of_head + place, mask=is_row, other=0.0)
        grad_query = tl.zeros([TILE, HEAD], tl.float32)
        if tokens < keys:
            score = _score_of_padding(query, padding, bias, row, tokens, keys, channels, head, scale, HEAD)
            weight = tl.exp(score - normaliser)
            value = tl.load(padding + 2 * channels + head * HEAD + tl.arange(0, HEAD)).to(tl.float32)
            of_score = weight * (tl.sum(upstream.to(tl.float32) * value[None, :], 1) - product)
            key = tl.load(padding + channels + head * HEAD + tl.arange(0, HEAD)).to(tl.float32)
            grad_query += of_score[:, None] * key[None, :]
            tl.store(of_padding + of_head + place, of_score, mask=is_row)
            target = grad_padding + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * 3 * channels + head * HEAD
            tl.store(target + channels + tl.arange(0, HEAD), tl.sum(of_score[:, None] * query.to(tl.float32), 0) * scale)
            tl.store(target + 2 * channels + tl.arange(0, HEAD), tl.sum(weight[:, None] * upstream.to(tl.float32), 0))
        for start in range(0, tokens, TILE):
            column = start + tl.arange(0, TILE)
            at = tl.load(places + first + column, mask=column < tokens, other=0)
            keys_ = _rows_of(qkv, at, column < tokens, 3 * channels, channels + head * HEAD, HEAD)
            values = _rows_of(qkv, at, column < tokens, 3 * channels, 2 * channels + head * HEAD, HEAD)
            weights = tl.exp(_scores(query, keys_, bias, row, column, tokens, keys, scale, PRECISION) - normaliser[:, None])
            of_weights = tl.dot(upstream, tl.trans(values), input_precision=PRECISION)
            of_scores = (weights * (of_weights - product[:, None])).to(query.dtype)
            grad_query += tl.dot(of_scores, keys_, input_precision=PRECISION)
        grad_query = (grad_query * scale).to(query.dtype)
        tl.store(
            grad_qkv + place[:, None] * 3 * channels + head * HEAD + tl.arange(0, HEAD)[None, :], grad_query, mask=is_row[:, None]
        )


@triton.jit
def _gradient_of_keys(
    grad, qkv, bias, lse, delta, grad_qkv, places, windows, length, channels, scale, bias_size, num_windows, num_heads,
    TILE: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of keys and values of tokens."""
    head = tl.program_id(1)
    sample, first, tokens, keys, bias_offset = _window_of_program(windows, num_windows)
    bias += head * bias_size + bias_offset
    of_sample = sample * length
    qkv, grad_qkv = qkv + of_sample * 3 * channels, grad_qkv + of_sample * 3 * channels
    grad, of_head = grad + of_sample * channels, of_sample * num_heads + head * length
    column = tl.program_id(2) * TILE + tl.arange(0, TILE)
    is_key = column < tokens
    if tl.program_id(2) * TILE < tokens:
        at = tl.load(places + first + column, mask=is_key, other=0)
        key = _rows_of(qkv, at, is_key, 3 * channels, channels + head * HEAD, HEAD)
        value = _rows_of(qkv, at, is_key, 3 * channels, 2 * channels + head * HEAD, HEAD)
        grad_key = tl.zeros([TILE, HEAD], tl.float32)
        grad_value = tl.zeros([TILE, HEAD], tl.float32)
        for start in range(0, tokens, TILE):
            row = start + tl.arange(0, TILE)
            is_row = row < tokens
            place = tl.load(places + first + row, mask=is_row, other=0)
            query = _rows_of(qkv, place, is_row, 3 * channels, head * HEAD, HEAD)
            upstream = _rows_of(grad, place, is_row, channels, head * HEAD, HEAD)
            normaliser = tl.load(lse + of_head + place, mask=is_row, other=0.0)
            product = tl.load(delta + of_head + place, mask=is_row, other=0.0)
            weights = tl.exp(_scores(query, key, bias, row, column, tokens, keys, scale, PRECISION) - normaliser[:, None])
            grad_value += tl.dot(tl.trans(weights.to(value.dtype)), upstream, input_precision=PRECISION)
            of_weights = tl.dot(upstream, tl.trans(value), input_precision=PRECISION)
            of_scores = (weights * (of_weights - product[:, None])).to(query.dtype)
            grad_key += tl.dot(tl.trans(of_scores), query, input_precision=PRECISION)
        target = grad_qkv + at[:, None] * 3 * channels + head * HEAD + tl.arange(0, HEAD)[None, :]
        tl.store(target + channels, (grad_key * scale).to(key.dtype), mask=is_key[:, None])
        tl.store(target + 2 * channels, grad_value.to(value.dtype), mask=is_key[:, None])


@triton.jit
def _gradient_of_bias(
    grad, qkv, bias, lse, delta, of_padding, grad_bias, places, windows, groups, length, channels, scale, bias_size, batch,
    num_heads, TILES: tl.constexpr, ROUNDS: tl.constexpr, SLICES: tl.constexpr, TILE: tl.constexpr, HEAD: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a tile of the bias of a group, summed over every SLICES-th of its windows: `grad_bias` (SLICES, A, R)."""
    group, tile, head = tl.program_id(0) // (TILES * TILES), tl.program_id(0) % (TILES * TILES), tl.program_id(1)
    first_window, count = tl.load(groups + 5 * group), tl.load(groups + 5 * group + 1)
    tokens, keys = tl.load(groups + 5 * group + 2), tl.load(groups + 5 * group + 3)
    bias_offset = tl.multiple_of(tl.load(groups + 5 * group + 4), 16)
    row = tile // TILES * TILE + tl.arange(0, TILE)
    column = tile % TILES * TILE + tl.arange(0, TILE)
    is_row, is_key = row < tokens, column < tokens
    # The programs of the first keys also sum up the column of the padding, whose M - N is 1.
    is_padded = row < tl.where(tile % TILES == 0, tokens * (keys - tokens), 0)
    if (tile // TILES * TILE < tokens) & (tile % TILES * TILE < tokens):
        summed = tl.zeros([TILE, TILE], tl.float32)
        summed_of_padding = tl.zeros([TILE], tl.float32)
        for turn in range(ROUNDS):
            number = turn * SLICES + tl.program_id(2)
            if number < count * batch:
                first = tl.load(windows + 4 * (first_window + number % count))
                of_sample = (number // count).to(tl.int64) * length
                of_head = of_sample * num_heads + head * length
                place = tl.load(places + first + row, mask=is_row, other=0)
                at = tl.load(places + first + column, mask=is_key, other=0)
                query = _rows_of(qkv + of_sample * 3 * channels, place, is_row, 3 * channels, head * HEAD, HEAD)
                key = _rows_of(qkv + of_sample * 3 * channels, at, is_key, 3 * channels, channels + head * HEAD, HEAD)
                normaliser = tl.load(lse + of_head + place, mask=is_row, other=0.0)
                of_group = bias + head * bias_size + bias_offset
                weights = tl.exp(_scores(query, key, of_group, row, column, tokens, keys, scale, PRECISION) - normaliser[:, None])
                upstream = _rows_of(grad + of_sample * channels, place, is_row, channels, head * HEAD, HEAD)
                value = _rows_of(qkv + of_sample * 3 * channels, at, is_key, 3 * channels, 2 * channels + head * HEAD, HEAD)
                of_weights = tl.dot(upstream, tl.trans(value), input_precision=PRECISION)
                product = tl.load(delta + of_head + place, mask=is_row, other=0.0)
                summed += weights * (of_weights - product[:, None])
                summed_of_padding += tl.load(of_padding + of_head + place, mask=is_padded, other=0.0)
        target = grad_bias + (tl.program_id(2) * num_heads + head) * bias_size + bias_offset
        tl.store(target + row[:, None] * _stride(keys) + column[None, :], summed, mask=is_row[:, None] & is_key[None, :])
        tl.store(target + row * _stride(keys) + tokens, summed_of_padding, mask=is_padded)


KERNELS = (_forward, _gradient_of_queries, _gradient_of_keys, _gradient_of_bias)


def constants(kernel: Any, head: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a kernel is compiled for. `head`: channels of a head."""
    tile = (TILES_OF_KEYS if kernel is _gradient_of_keys else TILES)[dtype]
    return {"TILE": tile, "HEAD": head, "PRECISION": "ieee"}


def window_attention(qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor, layout: WindowLayout) -> torch.Tensor:
    """See `pretrain/model/attention/home.py`."""
    tokens = [group.index.shape[1] for group in layout.groups]
    keys = [count + bool(group.num_padding) for count, group in zip(tokens, layout.groups, strict=True)]
    bias_size = sum(count * aligned(of_window) for count, of_window in zip(tokens, keys, strict=True))
    return attend(qkv, padding, table, list(layout.size), list(layout.window), layout.shifted, bias_size)[0]


# Operators of PyTorch, so that torch.compile calls them as they are and its graph has no break. An operator takes plain lists.
@torch.library.custom_op("agrifm::attend_in_kernels", mutates_args=())
def attend(
    qkv: torch.Tensor,
    padding: torch.Tensor,
    table: torch.Tensor,
    size: list[int],
    window: list[int],
    shifted: bool,
    bias_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The result (B, L, C), and for its gradient the following.

    The logarithm of the sum of each query's exponentiated scores, float32 (B, A, L), and the bias (A, R), in the dtype of `qkv`.
    `bias_size` is R.
    """
    known = tables(as_size(size), as_size(window), shifted, qkv.device)
    assert known.bias_size == bias_size
    bias = bias_of(table, known, qkv.dtype)
    call = _Call.of(qkv, bias, known)
    out = qkv.new_empty(*qkv.shape[:2], call.channels)
    lse = qkv.new_empty(len(qkv), call.heads, qkv.shape[1], dtype=torch.float32)
    call.run(_forward, qkv, padding, bias, out, lse)
    return out, lse, bias


@torch.library.custom_op("agrifm::attend_in_kernels_backward", mutates_args=())
def attend_backward(
    grad: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    bias: torch.Tensor,
    qkv: torch.Tensor,
    padding: torch.Tensor,
    table: torch.Tensor,
    size: list[int],
    window: list[int],
    shifted: bool,
) -> list[torch.Tensor]:
    """The gradients with respect to qkv, padding and table, from that of the result."""
    known = tables(as_size(size), as_size(window), shifted, qkv.device)
    call = _Call.of(qkv, bias, known)
    grad_qkv, delta, of_padding = torch.empty_like(qkv), torch.empty_like(lse), torch.empty_like(lse)
    tiles, rounds = call.tiles(_gradient_of_queries), triton.cdiv(known.most_windows * len(qkv), SLICES)
    rows = tiles * len(qkv) * len(known.windows) if known.most_padding else 0
    parts_of_padding = qkv.new_zeros(rows, 3 * call.channels, dtype=torch.float32)  # the padding asks nothing: its query gets 0
    call.run(_gradient_of_queries, grad, out, qkv, padding, bias, lse, delta, of_padding, grad_qkv, parts_of_padding)
    call.run(_gradient_of_keys, grad, qkv, bias, lse, delta, grad_qkv)
    parts = qkv.new_empty(SLICES, *bias.shape, dtype=torch.float32)
    _gradient_of_bias[(len(known.groups) * tiles * tiles, call.heads, SLICES)](
        grad, qkv, bias, lse, delta, of_padding, parts, known.tokens, known.windows, known.groups, *call.numbers, len(qkv),
        call.heads, TILES=tiles, ROUNDS=rounds, SLICES=SLICES, **call.constants(_gradient_of_bias), **OPTIONS,
    )  # fmt: skip
    grad_padding = parts_of_padding.sum(0).to(padding.dtype) if rows else torch.zeros_like(padding)
    return [grad_qkv, grad_padding, gradient_of_table(table, bias, parts, known)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Call:
    """What the kernels are called with.

    Attributes:
        batch, length, channels, heads: B, L, C and A.
        dtype: that of queries, keys and values.
        known: the tables of the layout.
    """

    batch: int
    length: int
    channels: int
    heads: int
    dtype: torch.dtype
    known: Tables

    @staticmethod
    def of(qkv: torch.Tensor, bias: torch.Tensor, known: Tables) -> _Call:
        batch, length, channels = qkv.shape
        return _Call(batch=batch, length=length, channels=channels // 3, heads=len(bias), dtype=qkv.dtype, known=known)

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """L, C, the scale of the queries, and R."""
        return self.length, self.channels, (self.channels // self.heads) ** -0.5, self.known.bias_size

    def constants(self, kernel: Any) -> dict[str, Any]:
        return constants(kernel, self.channels // self.heads, self.dtype)

    def tiles(self, kernel: Any) -> int:
        """Tiles of a window of the largest kind."""
        return triton.cdiv(self.known.most_tokens, self.constants(kernel)["TILE"])

    def run(self, kernel: Any, *tensors: torch.Tensor) -> None:
        """Run a program for each window of each sample, head, and tile of queries or keys."""
        windows = len(self.known.windows)
        kernel[(windows * self.batch, self.heads, self.tiles(kernel))](
            *tensors,
            self.known.tokens,
            self.known.windows,
            *self.numbers,
            windows,
            self.heads,
            **self.constants(kernel),
            **OPTIONS,
        )


@attend.register_fake
def _(qkv, padding, table, size, window, shifted, bias_size):  # noqa: ARG001
    (batch, length, channels), heads = qkv.shape, table.shape[1]
    lse = qkv.new_empty(batch, heads, length, dtype=torch.float32)
    return qkv.new_empty(batch, length, channels // 3), lse, qkv.new_empty(heads, bias_size)


@attend_backward.register_fake
def _(grad, out, lse, bias, qkv, padding, table, size, window, shifted):  # noqa: ARG001
    return [torch.empty_like(qkv), torch.empty_like(padding), torch.empty_like(table)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    qkv, padding, table, *ctx.layout, _ = inputs
    ctx.save_for_backward(*output, qkv, padding, table)
    ctx.set_materialize_grads(False)  # only the result has a gradient


def _gradients(ctx: Any, grad: torch.Tensor, *_: None) -> tuple[Any, ...]:
    gradients = attend_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.layout)
    return *gradients, None, None, None, None


attend.register_autograd(_gradients, setup_context=_keep)
