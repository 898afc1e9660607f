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

from pretrain.model.attention.cuda_tables import Tables
from pretrain.model.attention.layout import MASKED

_MASKED = tl.constexpr(MASKED)
NUMBERS, QUERIES, PADDING, USES = 256, 8, 32, 128  # of a program, or of one turn of its loop
OPTIONS = {"num_warps": 1}  # programs are small and many


@triton.jit
def _pairs(table, bias, pairs, bias_size, num_heads, NUMBERS: tl.constexpr):
    """The bias of pairs of tokens."""
    number, head = tl.program_id(0) * NUMBERS + tl.arange(0, NUMBERS), tl.program_id(1)
    row = tl.load(pairs + number, mask=number < bias_size, other=-1)
    added = tl.load(table + row * num_heads + head, mask=row >= 0, other=_MASKED)
    tl.store(bias + head * bias_size + number, added, mask=number < bias_size)


@triton.jit
def _padding(
    table, bias, queries, padding_pairs, bias_size, num_queries, num_heads,
    QUERIES: tl.constexpr, PADDING: tl.constexpr, MOST_PADDING: tl.constexpr,
):  # fmt: skip
    """The bias of the key that stands for the padding."""
    query, head = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES), tl.program_id(1)
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
def _gradient_of_table(table, bias, grad_bias, grad_table, uses, first_use, bias_size, num_heads, USES: tl.constexpr):
    """Of a row of the table and a head: the sum over the numbers of the bias that use it."""
    row, head = tl.program_id(0), tl.program_id(1)
    here = tl.load(table + row * num_heads + head).to(tl.float32)
    last = tl.load(first_use + row + 1)
    summed = tl.zeros([USES], tl.float32)
    for start in range(tl.load(first_use + row), last, USES):
        place = start + tl.arange(0, USES)
        use = tl.load(uses + place, mask=place < last, other=0)
        number = tl.where(use < 0, -1 - use, use)
        grad = tl.load(grad_bias + head * bias_size + number, mask=place < last, other=0.0)
        of_padding = tl.load(bias + head * bias_size + number, mask=(place < last) & (use < 0), other=0.0).to(tl.float32)
        summed += tl.where(use < 0, tl.exp(here - of_padding), 1.0) * grad
    tl.store(grad_table + row * num_heads + head, tl.sum(summed, 0).to(grad_table.dtype.element_ty))


KERNELS = (_pairs, _padding, _gradient_of_table)


def bias_of(table: torch.Tensor, known: Tables, dtype: torch.dtype) -> torch.Tensor:
    """The bias of all windows (A, R) in `dtype`, from the table of relative position biases (T, A)."""
    heads = table.shape[1]
    bias = table.new_empty(heads, known.bias_size, dtype=dtype)
    _pairs[(triton.cdiv(known.bias_size, NUMBERS), heads)](
        table, bias, known.pairs, known.bias_size, heads, NUMBERS=NUMBERS, **OPTIONS
    )
    if known.most_padding:
        _padding[(triton.cdiv(len(known.padding), QUERIES), heads)](
            table, bias, known.padding, known.padding_pairs, known.bias_size, len(known.padding), heads,
            QUERIES=QUERIES, PADDING=PADDING, MOST_PADDING=known.most_padding, **OPTIONS,
        )  # fmt: skip
    return bias


def gradient_of_table(table: torch.Tensor, bias: torch.Tensor, grad_bias: torch.Tensor, known: Tables) -> torch.Tensor:
    """The gradient of the table (T, A), from that of the bias, float32 (A, R)."""
    grad_table = torch.empty_like(table)
    _gradient_of_table[tuple(table.shape)](
        table, bias, grad_bias, grad_table, known.uses, known.first_use, known.bias_size, len(bias), USES=USES, **OPTIONS
    )
    return grad_table
