"""The counter of kernels and bytes against small programs whose kernels and bytes one can count by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is made for Linux only")
from pretrain.model.attention import cuda
from pretrain.model.attention.home import window_attention
from pretrain.model.attention.layout import window_layout
from tests.support.counted_kernels import ATTENTION, KernelCounter, attention_in

N = 64
META = torch.device("meta")


def numbers(*sides: int) -> torch.Tensor:
    return torch.empty(*sides, device=META)


@pytest.mark.parametrize(
    ("program", "launches", "nbytes"),
    [
        (lambda: numbers(N) + numbers(N), 1, 12 * N),
        (lambda: numbers(N).view(8, 8).t()[1:], 0, 0),
        (lambda: numbers(N).zero_(), 1, 4 * N),
        (lambda: numbers(N).mul_(2), 1, 8 * N),
        (lambda: numbers(N).copy_(numbers(1).expand(N)), 1, 4 * N + 4),
        (lambda: numbers(N) + numbers(1).expand(N), 1, 8 * N + 4),
        (lambda: F.linear(numbers(2, 8), numbers(4, 8), numbers(4)), 1, 4 * (16 + 32 + 4 + 8)),
        (lambda: F.layer_norm(numbers(4, 8), (8,), numbers(8), numbers(8)), 1, 4 * (32 + 16 + 32 + 8)),
        (lambda: F.pad(numbers(N), (0, N)), 2, 4 * (2 * N + 2 * N)),
        (lambda: numbers(N, 8)[torch.empty(3, dtype=torch.int64, device=META)], 1, 8 * 3 + 2 * 4 * 3 * 8),
        (lambda: torch.cat([numbers(N), numbers(N)]), 1, 16 * N),
        (lambda: numbers(N).new_zeros(3), 1, 12),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_operators_are_counted_as_by_hand(program: Callable[[], object], launches: int, nbytes: int) -> None:
    with KernelCounter() as counter:
        program()
    assert counter.total("") == (launches, nbytes)


def test_attention_launches_three_kernels_forward_and_four_backward() -> None:
    """Beside them, by reading the code: a tensor of zeros, its sum, and this in another type."""
    layout = window_layout((2, 5, 5), (2, 3, 3), False, META, may_join=False)
    length, channels = 50, 32
    qkv, padding, table = (t.bfloat16().requires_grad_() for t in (numbers(3, length, 96), numbers(96), numbers(75, 1)))
    with attention_in(kernels=True):
        with KernelCounter():  # makes the tables of the layout, which are kept
            window_attention(qkv, padding, table, layout)
        with KernelCounter() as counter:
            counter.part = "forward"
            out = window_attention(qkv, padding, table, layout)
            counter.part = "backward"
            out.sum().backward()
    assert {name: n for (part, name), n in counter.launches.items() if part == "forward" and name.startswith(ATTENTION)} == {
        f"{ATTENTION}{name}": 1 for name in ("_bias", "_forward")
    }
    launches = {
        name.removeprefix(ATTENTION): n
        for (part, name), n in counter.launches.items()
        if part == "backward" and name.startswith(ATTENTION)
    }
    kernels = dict.fromkeys(("_gradient_of_queries", "_gradient_of_keys", "_gradient_of_bias", "_gradient_of_table"), 1)
    assert launches == kernels | {"new_zeros": 1, "sum": 1, "_to_copy": 1}
    # In: queries, keys and values, those of the padding, the bias in rows of multiples of 16, int32 places of the tokens, and
    # four numbers of each window. Out: the result, and a normaliser in float32 for each query.
    known = cuda.tables((2, 5, 5), (2, 3, 3), False, META)
    read = 2 * 3 * length * 3 * channels + 2 * 3 * channels + 2 * known.bias_size + 4 * length + 16 * len(known.windows)
    assert counter.nbytes["forward", f"{ATTENTION}_forward"] == read + 2 * 3 * length * channels + 4 * 3 * length


def test_attention_in_operators_launches_many() -> None:
    layout = window_layout((2, 5, 5), (2, 3, 3), False, META, may_join=True)
    with attention_in(kernels=False), torch.no_grad(), KernelCounter() as counter:
        window_attention(numbers(3, 50, 96), numbers(96), numbers(75, 1), layout)
    assert counter.total("", ATTENTION)[0] > 10 * len(layout.groups)
