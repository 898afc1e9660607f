"""Which attention suits a device: ours, scaled_dot_product_attention and (on a GPU) FlexAttention, with the bias's gradient.

    python tests/bench/bench_attention.py --output tests/bench/results/attention.json

Windows without padding and without shift, since only there all compute the same in the same number of operations. The results of
all are compared before they are timed. Variants take turns in one process; a ratio is of times in the same round.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from bench_encoder import device_and_threads, peak_bytes, timed  # noqa: E402
from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from pretrain.model.attention.home import window_attention  # noqa: E402
from pretrain.model.attention.layout import Size, window_layout  # noqa: E402

WINDOW = (8, 7, 7)
# Maps of the four stages at 224 x 224 and 16 or 32 frames, with their channels; heads have 32 channels.
MAPS: list[tuple[Size, int]] = [((4, 56, 56), 128), ((8, 56, 56), 128), ((2, 28, 28), 256), ((1, 14, 14), 512), ((1, 7, 7), 1024)]
Attention = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ours(size: Size, qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    layout = window_layout(size, WINDOW, False, qkv.device)
    return window_attention(qkv, qkv.new_zeros(qkv.shape[-1]), bias.flatten(1), layout)


def split(size: Size, qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, L, 3C) -> three of (B*K, A, N, H)."""
    index = window_layout(size, WINDOW, False, qkv.device).groups[0].index
    windows = qkv[:, index.flatten()].view(-1, index.shape[1], 3, heads, qkv.shape[-1] // 3 // heads)
    query, key, value = windows.permute(2, 0, 3, 1, 4)
    return query, key, value


def join(size: Size, attended: torch.Tensor, batch: int) -> torch.Tensor:
    index = window_layout(size, WINDOW, False, attended.device).groups[0].index
    tokens = attended.transpose(1, 2).reshape(batch, index.numel(), -1)
    return tokens[:, index.flatten().argsort()]


def fused(size: Size, qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    query, key, value = split(size, qkv, len(bias))
    return join(size, F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None]), len(qkv))


def flex(compiled: Callable[..., torch.Tensor], size: Size, qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    def add_bias(score: torch.Tensor, _: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return score + bias[head, q, k]

    query, key, value = (t.contiguous() for t in split(size, qkv, len(bias)))
    return join(size, compiled(query, key, value, score_mod=add_bias), len(qkv))


def candidates(device: torch.device, size: Size) -> dict[str, Attention]:
    found: dict[str, Attention] = {"ours": partial(ours, size), "sdpa": partial(fused, size)}
    if device.type == "cuda":
        from torch.nn.attention.flex_attention import flex_attention

        found["flex"] = partial(flex, torch.compile(flex_attention, dynamic=False), size)
    return found


def measure(device: torch.device, dtype: torch.dtype, size: Size, channels: int, batch: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    tokens = window_layout(size, WINDOW, False, device).groups[0].index.shape[1]
    qkv = torch.randn(batch, size[0] * size[1] * size[2], 3 * channels, device=device).to(dtype).requires_grad_()
    bias = torch.randn(channels // 32, tokens, tokens, device=device).to(dtype).requires_grad_()
    upstream = torch.randn_like(qkv[..., :channels])

    def step(attention: Attention) -> None:
        torch.autograd.grad(attention(qkv, bias), (qkv, bias), upstream)

    variants = candidates(device, size)
    right = variants["ours"](qkv.detach(), bias.detach())
    for name, attention in variants.items():
        torch.testing.assert_close(attention(qkv.detach(), bias.detach()), right, atol=2e-2, rtol=2e-2, msg=name)
        step(attention)
    times = [{name: timed(partial(step, attention), device) for name, attention in variants.items()} for _ in range(rounds)]
    result: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "map": list(size), "channels": channels, "batch": batch}
    for name, attention in variants.items():
        result[f"{name}_ms"] = round(1e3 * statistics.median(row[name] for row in times), 2)
        result[f"{name}_peak_mb"] = round(peak_bytes(partial(step, attention), device) / 1e6, 1)
        if name != "ours":
            result[f"{name}_over_ours"] = round(statistics.median(row[name] / row["ours"] for row in times), 2)
    return result


def bench_attention(output: Path | None = None, rounds: int = 7, batch: int | None = None) -> None:
    """Measure ways to attend within windows.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds in which variants take turns.
        batch: samples; default: 2 on a CPU, 32 on a GPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = batch or (32 if device.type == "cuda" else 2)
    results = [
        measure(device, dtype, size, channels, batch, rounds)
        for dtype in (torch.float32, torch.bfloat16)
        for size, channels in MAPS
    ]
    print(tabulate(results, headers="keys"))
    write_report(output, ["torch"], {"rounds": rounds, "results": results}, device_and_threads(device))


if __name__ == "__main__":
    run_command(bench_attention)
