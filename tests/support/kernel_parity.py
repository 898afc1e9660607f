"""Run the attention kernels beside the published way to compute the same: on a GPU, or in Triton's interpreter on a CPU.

    TRITON_INTERPRET=1 python -m tests.support.kernel_parity FIRST_SEED NUMBER [bfloat16]

Prints a JSON line for each seed: the largest error of the result and of each gradient, in units of the largest number of its
kind, and whether a second run gave the same bits. The exit code is 1 if one did not, or an error is too large. The sizes of map
and window, heads and batch are drawn by the seed; seed 0 is a whole encoder. The published way computes in float32, on the
numbers that the kernels get.
"""

from __future__ import annotations

import json
import os
import random
import sys

import torch
from torch import nn

from pretrain.model.attention import home
from pretrain.model.attention.module import WindowAttention
from pretrain.model.video_swin import EncoderConfig, VideoSwin
from tests.support.naive_encoder import naive_encoder, windowed_attention

Named = dict[str, torch.Tensor]
# Numbers in bf16 are 0.4 to 0.8 % apart, and the gradients of an encoder are sums of many.
LARGEST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 6e-2}


def error(ours: torch.Tensor, right: torch.Tensor) -> float:
    return float(((ours.float() - right).abs().max() / right.abs().max().clamp(min=1e-6)).detach())


def errors(ours: Named, right: Named) -> dict[str, float]:
    assert ours.keys() == right.keys()
    return {name: error(ours[name], right[name]) for name in ours}


def as_float32(weights: Named) -> Named:
    return {name: weight.detach().float().requires_grad_() for name, weight in weights.items()}


def of_a_module(draw: random.Random, device: torch.device, dtype: torch.dtype) -> tuple[Named, Named, Named, dict[str, object]]:
    """A map with random sides, so that windows of many kinds are cut and padded: ours, ours again, and the published way."""
    window = draw.choice([(2, 7, 7), (8, 7, 7), (2, 3, 3), (4, 4, 4), (1, 5, 5)])
    size = (draw.randint(1, 3), draw.randint(2, 11), draw.randint(2, 11))
    heads, batch, shifted = draw.choice([1, 2]), draw.choice([1, 2]), draw.random() < 0.6
    dim = 32 * heads
    attention, norm = WindowAttention(dim, heads, window).to(device, dtype), nn.LayerNorm(dim).to(device, dtype)
    for parameter in (*attention.parameters(), *norm.parameters()):
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(batch, *size, dim, device=device).to(dtype).requires_grad_()
    upstream = torch.randn(batch, *size, dim, device=device).to(dtype)
    layout = home.layout_of_map(size, window, shifted, tokens.device, 32)
    sought = {"tokens": tokens, **dict(attention.named_parameters())}

    def ours() -> Named:
        result = attention(tokens.flatten(1, 3), norm, layout).view_as(tokens)
        return {"result": result, **dict(zip(sought, torch.autograd.grad(result, tuple(sought.values()), upstream), strict=True))}

    exact = as_float32(sought)
    normed = torch.nn.functional.layer_norm(exact["tokens"], (dim,), norm.weight.float(), norm.bias.float())
    right = windowed_attention(normed, exact, "", heads, window, shifted)
    gradients = torch.autograd.grad(right, tuple(exact.values()), upstream.float())
    described = {"map": size, "window": window, "shifted": shifted, "heads": heads, "groups": len(layout.groups)}
    return ours(), ours(), {"result": right, **dict(zip(sought, gradients, strict=True))}, described


def of_an_encoder(device: torch.device, dtype: torch.dtype) -> tuple[Named, Named, Named, dict[str, object]]:
    """A whole encoder and the gradients of all of its weights."""
    config = EncoderConfig(
        sources={"sentinel2": 3},
        embed_dim=32,
        depths=(2, 2, 1, 1),
        num_heads=(1, 2, 4, 8),
        window_size=(2, 3, 3),
        drop_path_rate=0.0,
    )
    model = VideoSwin(config).eval()  # without stochastic depth
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = model.to(device, dtype)
    pixels, weights = torch.randn(1, 8, 3, 36, 28, device=device).to(dtype), dict(model.named_parameters())
    exact = as_float32(weights)

    def gradients(maps: list[torch.Tensor], weights: Named) -> Named:
        loss = sum(((one / one.detach().std()) * (number + 1)).float().square().mean() for number, one in enumerate(maps))
        found = torch.autograd.grad(loss, tuple(weights.values()))
        return {**{f"map {number}": one for number, one in enumerate(maps)}, **dict(zip(weights, found, strict=True))}

    right = gradients(naive_encoder(exact, config, pixels.float(), "sentinel2"), exact)
    ours, again = (gradients(model(pixels, "sentinel2"), weights) for _ in range(2))
    return ours, again, right, {"encoder": True}


def main(first: int, number: int, dtype: torch.dtype = torch.float32) -> int:
    torch.backends.cudnn.allow_tf32 = False  # the first layer of the published way is a convolution in float32
    failed = 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        assert os.environ.get("TRITON_INTERPRET") == "1", "without a GPU Triton must be told to interpret before it is imported"
        home.runs_in_kernels = lambda *_: True  # type: ignore[assignment]
    for seed in range(first, first + number):
        torch.manual_seed(seed)
        ours, again, right, described = (
            of_an_encoder(device, dtype) if seed == 0 else of_a_module(random.Random(seed), device, dtype)
        )
        same = all(torch.equal(ours[name], again[name]) for name in ours)
        found = errors(ours, right)
        failed |= not same or not max(found.values()) < LARGEST_ERROR[dtype]
        print(json.dumps({"seed": seed, **described, "same_bits": same, "errors": found}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]) if len(sys.argv) > 3 else torch.float32))
