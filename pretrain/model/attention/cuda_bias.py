"""Triton kernels for the position bias of windows: from the table of relative positions to the bias, and its gradient back.

Each number of the gradient has one program that writes it, which adds what the row's uses say in a fixed order: two runs give the
same bits. A number of the bias that stands for the padding of a window is the logarithm of a sum of exponentials over its padding
tokens (see `layout.py`).

Shape suffixes: A attention heads, R numbers of the biases of all groups for a head, T rows of the table.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pretrain.model.attention.cuda_tables import OF_PADDING, SLICES, Tables
from pretrain.model.attention.layout import MASKED

_MASKED, _OF_PADDING = tl.constexpr(MASKED), tl.constexpr(OF_PADDING)
NUMBERS, QUERIES, PADDING, USES = 256, 8, 32, 128  # of a program, or of one turn of its loop
OPTIONS = {"num_warps": 1}  # programs are small and many


@triton.jit
def _bias(
    table, bias, pairs, queries, padding_pairs, bias_size, num_queries, num_heads, programs_of_pairs,
    NUMBERS: tl.constexpr, QUERIES: tl.constexpr, PADDING: tl.constexpr, MOST_PADDING: tl.constexpr,
):  # fmt: skip
    """The first programs make the bias of pairs of tokens, the others that of the key that stands for the padding."""
    if tl.program_id(0) < programs_of_pairs:
        _pairs(table, bias, pairs, bias_size, num_heads, NUMBERS)
    else:
        first = (tl.program_id(0) - programs_of_pairs) * QUERIES
        _padding(table, bias, queries, padding_pairs, bias_size, first, num_queries, num_heads, QUERIES, PADDING, MOST_PADDING)


@triton.jit
def _pairs(table, bias, pairs, bias_size, num_heads, NUMBERS: tl.constexpr):
    number, head = tl.program_id(0) * NUMBERS + tl.arange(0, NUMBERS), tl.program_id(1)
    row = tl.load(pairs + number, mask=number < bias_size, other=_OF_PADDING)
    added = tl.load(table + row * num_heads + head, mask=row >= 0, other=_MASKED)
    tl.store(bias + head * bias_size + number, added, mask=row != _OF_PADDING)


@triton.jit
def _padding(
    table, bias, queries, padding_pairs, bias_size, first_query, num_queries, num_heads,
    QUERIES: tl.constexpr, PADDING: tl.constexpr, MOST_PADDING: tl.constexpr,
):  # fmt: skip
    query, head = first_query + tl.arange(0, QUERIES), tl.program_id(1)
    is_query = query < num_queries
    number = tl.load(queries + 3 * query, mask=is_query, other=0)
    first = tl.load(queries + 3 * query + 1, mask=is_query, other=0)
    count = tl.load(queries + 3 * query + 2, mask=is_query, other=1)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    for start in range(0, MOST_PADDING, PADDING):
        place = (start + tl.arange(0, PADDING))[None, :]
        inside = is_query[:, None] & (place < count[:, None])
        row = tl.load(padding_pairs + first[:, None] + place, mask=inside, other=-1)
        added = tl.load(table + row * num_heads + head, mask=row >= 0, other=_MASKED).to(tl.float32)
        added = tl.where(place < count[:, None], added, float("-inf"))
        now = tl.maximum(highest, tl.max(added, 1))  # finite: the first place holds a padding token
        total = total * tl.exp(highest - now) + tl.sum(tl.exp(added - now[:, None]), 1)
        highest = now
    tl.store(bias + head * bias_size + number, (highest + tl.log(total)).to(bias.dtype.element_ty), mask=is_query)


@triton.jit
def _gradient_of_table(
    table, bias, grad_bias, grad_table, uses, first_use, bias_size, num_heads, SLICES: tl.constexpr, USES: tl.constexpr
):
    """Of a row of the table and a head: the sum over the slices of the gradient of the numbers of the bias that use it."""
    row, head = tl.program_id(0), tl.program_id(1)
    here = tl.load(table + row * num_heads + head).to(tl.float32)
    last = tl.load(first_use + row + 1)
    summed = tl.zeros([USES], tl.float32)
    for start in range(tl.load(first_use + row), last, USES):
        place = start + tl.arange(0, USES)
        use = tl.load(uses + place, mask=place < last, other=0)
        number = tl.where(use < 0, -1 - use, use)
        grad = tl.zeros([USES], tl.float32)
        for part in range(SLICES):
            of_part = grad_bias + (part * num_heads + head) * bias_size + number
            grad += tl.load(of_part, mask=place < last, other=0.0)
        of_padding = tl.load(bias + head * bias_size + number, mask=(place < last) & (use < 0), other=0.0).to(tl.float32)
        summed += tl.where(use < 0, tl.exp(here - of_padding), 1.0) * grad
    tl.store(grad_table + row * num_heads + head, tl.sum(summed, 0).to(grad_table.dtype.element_ty))


KERNELS = (_bias, _gradient_of_table)


def bias_of(table: torch.Tensor, known: Tables, dtype: torch.dtype) -> torch.Tensor:
    """The bias of all windows (A, R) in `dtype`, from the table of relative position biases (T, A)."""
    heads = table.shape[1]
    bias = table.new_empty(heads, known.bias_size, dtype=dtype)
    of_pairs, of_padding = triton.cdiv(known.bias_size, NUMBERS), triton.cdiv(len(known.padding), QUERIES)
    _bias[(of_pairs + of_padding, heads)](
        table, bias, known.pairs, known.padding, known.padding_pairs, known.bias_size, len(known.padding), heads, of_pairs,
        NUMBERS=NUMBERS, QUERIES=QUERIES, PADDING=PADDING, MOST_PADDING=known.most_padding, **OPTIONS,
    )  # fmt: skip
    return bias


def gradient_of_table(table: torch.Tensor, bias: torch.Tensor, grad_bias: torch.Tensor, known: Tables) -> torch.Tensor:
    """The gradient of the table (T, A), from that of the bias, float32 (SLICES, A, R), whose slices are parts of a sum."""
    grad_table = torch.empty_like(table)
    _gradient_of_table[tuple(table.shape)](
        table, bias, grad_bias, grad_table, known.uses, known.first_use, known.bias_size, len(bias), SLICES=SLICES, USES=USES,
        **OPTIONS,
    )  # fmt: skip
    return grad_table
