"""Run the attention kernels in Triton's interpreter on this CPU, beside the published way to compute the same.

    TRITON_INTERPRET=1 python -m tests.support.interpreted_kernels FIRST_SEED NUMBER

Prints a JSON line for each seed: the largest error of the result and of each gradient, in units of the largest number of its
kind, and whether a second run gave the same bits. The sizes of map and window, heads and batch are drawn by the seed.
"""

from __future__ import annotations

import json
import os
import random
import sys

import torch
from torch import nn

from pretrain.model.attention import cuda, home
from pretrain.model.attention.layout import window_layout
from pretrain.model.attention.module import WindowAttention
from pretrain.model.video_swin import EncoderConfig, VideoSwin
from tests.support.naive_encoder import naive_encoder, windowed_attention

Named = dict[str, torch.Tensor]


def error(ours: torch.Tensor, right: torch.Tensor) -> float:
    return float(((ours - right).abs().max() / right.abs().max().clamp(min=1e-6)).detach())


def errors(ours: Named, right: Named) -> dict[str, float]:
    assert ours.keys() == right.keys()
    return {name: error(ours[name], right[name]) for name in ours}


def of_a_module(draw: random.Random) -> tuple[Named, Named, Named, dict[str, object]]:
    """A map with random sides, so that windows of many kinds are cut and padded: ours, ours again, and the published way."""
    window = draw.choice([(2, 7, 7), (8, 7, 7), (2, 3, 3), (4, 4, 4), (1, 5, 5)])
    size = (draw.randint(1, 3), draw.randint(2, 11), draw.randint(2, 11))
    heads, batch, shifted = draw.choice([1, 2]), draw.choice([1, 2]), draw.random() < 0.6
    dim = 32 * heads
    attention, norm = WindowAttention(dim, heads, window), nn.LayerNorm(dim)
    for parameter in (*attention.parameters(), *norm.parameters()):
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(batch, *size, dim, requires_grad=True)
    upstream = torch.randn(batch, *size, dim)
    layout = window_layout(size, window, shifted, tokens.device)
    weights = dict(attention.named_parameters())
    sought = {"tokens": tokens, **weights}

    def ours() -> Named:
        result = attention(tokens.flatten(1, 3), norm, layout).view_as(tokens)
        return {"result": result, **dict(zip(sought, torch.autograd.grad(result, tuple(sought.values()), upstream), strict=True))}

    normed = torch.nn.functional.layer_norm(tokens, (dim,), norm.weight, norm.bias)
    right = windowed_attention(normed, weights, "", heads, window, shifted)
    gradients = torch.autograd.grad(right, tuple(sought.values()), upstream)
    described = {"map": size, "window": window, "shifted": shifted, "heads": heads, "groups": len(layout.groups)}
    return ours(), ours(), {"result": right, **dict(zip(sought, gradients, strict=True))}, described


def of_an_encoder() -> tuple[Named, Named, Named, dict[str, object]]:
    """A whole encoder and the gradients of all of its weights."""
    config = EncoderConfig(
        sources={"sentinel2": 3}, embed_dim=32, depths=(2, 2, 1, 1), num_heads=(1, 2, 4, 8), drop_path_rate=0.0
    )
    model = VideoSwin(config).eval()  # without stochastic depth
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    pixels, weights = torch.randn(1, 8, 3, 36, 28), dict(model.named_parameters())

    def gradients(maps: list[torch.Tensor]) -> Named:
        loss = sum(((one / one.detach().std()) * (number + 1)).square().mean() for number, one in enumerate(maps))
        found = torch.autograd.grad(loss, tuple(weights.values()))
        return {**{f"map {number}": one for number, one in enumerate(maps)}, **dict(zip(weights, found, strict=True))}

    right = gradients(naive_encoder(weights, config, pixels, "sentinel2"))
    return gradients(model(pixels, "sentinel2")), gradients(model(pixels, "sentinel2")), right, {"encoder": True}


def main(first: int, number: int) -> None:
    home.runs_in_kernels = lambda _: True  # type: ignore[assignment]
    cuda.TILES[torch.float32] = 32  # the interpreter takes as long for a small tile
    for seed in range(first, first + number):
        torch.manual_seed(seed)
        ours, again, right, described = of_an_encoder() if seed == 0 else of_a_module(random.Random(seed))
        same = all(torch.equal(ours[name], again[name]) for name in ours)
        print(json.dumps({"seed": seed, **described, "same_bits": same, "errors": errors(ours, right)}), flush=True)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "Triton must know before it is imported"
    main(int(sys.argv[1]), int(sys.argv[2]))
