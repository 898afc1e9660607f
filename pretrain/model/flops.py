"""FLOPs of an encoder, computed from its shape.

They are those of the matrix products, two for each multiplication and addition, as MFU is counted (Chowdhery et al., PaLM,
2022, appendix B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pretrain.model.attention.layout import Size, fit_window
from pretrain.model.video_swin import EncoderConfig, map_sizes


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one sample's forward pass, by part."""

    patch_embedding: float
    projections: float
    attention: float
    merging: float

    @property
    def forward(self) -> float:
        return self.patch_embedding + self.projections + self.attention + self.merging

    @property
    def training(self) -> float:
        """Forward and backward pass. Each product has two gradients; that of the pixels is not computed."""
        return 3 * self.forward - self.patch_embedding


def forward_flops(config: EncoderConfig, bands: int, frames: int, rows: int, cols: int, padded: bool = False) -> Flops:
    """FLOPs of one sample of (frames, bands, rows, cols) pixels.

    With `padded`, those of the published code, which pads every window to its full size and computes on the padding, too.
    Else those of the real tokens and of their pairs in each window, over which MFU is stated.
    """
    sizes = map_sizes(config, frames, rows, cols)
    patch = 2 * math.prod(sizes[0]) * bands * math.prod(config.patch_size) * config.embed_dim
    projections = attention = merging = 0.0
    for stage, (size, depth) in enumerate(zip(sizes, config.depths, strict=True)):
        channels = config.embed_dim * 2**stage
        tokens = math.prod(size)
        for block in range(depth):
            attended, pairs = count_windows(size, config.window_size, block % 2 == 1, padded)
            projections += 2 * attended * 4 * channels**2  # qkv and output
            projections += 2 * tokens * 2 * config.mlp_ratio * channels**2
            attention += 2 * pairs * 2 * channels  # scores and weighted sums
        if stage < len(sizes) - 1:
            merging += 2 * math.prod(sizes[stage + 1]) * 4 * channels * 2 * channels
    return Flops(patch_embedding=patch, projections=projections, attention=attention, merging=merging)


def count_windows(size: Size, window: Size, shifted: bool, padded: bool) -> tuple[int, int]:
    """Tokens in all windows of a map, and pairs of tokens in the same window. Both are products over the three axes."""
    fitted, shift = fit_window(size, window, shifted)
    tokens = pairs = 1
    for side, wide, moved in zip(size, fitted, shift, strict=True):
        whole = -(-side // wide) * wide
        held = [sum(padded or (place + moved) % whole < side for place in range(s, s + wide)) for s in range(0, whole, wide)]
        tokens *= sum(held)
        pairs *= sum(count**2 for count in held)
    return tokens, pairs


def recomputed_flops(config: EncoderConfig, pixels: Size, stages: tuple[int, ...]) -> float:
    """FLOPs of the blocks of `stages` (1 to 4), which activation checkpointing computes again. Pixels: frames, rows, columns."""
    chosen = tuple(depth if number in stages else 0 for number, depth in enumerate(config.depths, 1))
    flops = forward_flops(replace(config, depths=chosen), 0, *pixels)  # type: ignore[arg-type]
    return flops.projections + flops.attention
