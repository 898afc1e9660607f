"""Patch embedding of an image series: one per source, all into the same token width."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class PatchEmbeds(nn.ModuleDict):
    """The patch embeddings of all sources, by name.

    In training the ones that a batch does not use get a gradient of zeros, not none. DeepSpeed's ZeRO-3 and its offloading add
    up the gradients of micro-batches in memory that only the first micro-batch of a step clears, and only where that one has
    a gradient: a source that comes second would get the gradient of the step before as well. All are called in the same order
    whatever the source, which is what ZeRO-3 fetches weights by.
    """

    def __init__(self, sources: Mapping[str, int], embed_dim: int, patch_size: tuple[int, int, int]):
        super().__init__({name: PatchEmbed(bands, embed_dim, patch_size) for name, bands in sources.items()})

    def forward(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Pixels (B, T, C, H, W), normalised -> tokens, as the `PatchEmbed` of `source` gives them."""
        if not (self.training and torch.is_grad_enabled()):
            return self[source](pixels)
        embeds = {name: module for name, module in self.items() if isinstance(module, PatchEmbed)}
        tokens = {name: embed(pixels if name == source else embed.one_patch(pixels)) for name, embed in embeds.items()}
        embedded: torch.Tensor = tokens.pop(source)
        return embedded + 0 * sum(idle.sum() for idle in tokens.values()) if tokens else embedded


class PatchEmbed(nn.Module):
    """Non-overlapping 3-D patches, linearly projected: the convolution with kernel = stride of Video Swin (Liu et al., 2022).

    Written as one matrix product over unfolded patches, which is the same function and much faster than Conv3d on CPUs.
    The parameters keep the convolution's shapes, so that published weights load as they are.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: tuple[int, int, int]):
        super().__init__()
        self.in_channels, self.patch_size = in_channels, patch_size
        self.weight = nn.Parameter(torch.empty(embed_dim, in_channels, *patch_size))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, T, C, H, W), normalised -> tokens (B, ceil(T/t), ceil(H/h), ceil(W/w), embed_dim).

        Sides that the patch does not divide are padded with zeros at the end.
        """
        time, height, width = self.patch_size
        _, frames, _, rows, cols = pixels.shape
        padding = (0, -cols % width, 0, -rows % height, 0, 0, 0, -frames % time)
        if any(padding):
            pixels = F.pad(pixels, padding)
        return F.linear(_patches(pixels, self.patch_size), self.weight.flatten(1), self.bias)

    def one_patch(self, like: torch.Tensor) -> torch.Tensor:
        """Zeros of the size of one patch, (1, t, C, h, w), of the type of `like` and where it lies."""
        time, height, width = self.patch_size
        return like.new_zeros(1, time, self.in_channels, height, width)


def _patches(pixels: torch.Tensor, patch_size: tuple[int, int, int]) -> torch.Tensor:
    """Pixels (B, T, C, H, W) -> (B, T/t, H/h, W/w, C*t*h*w)."""
    time, height, width = patch_size
    # Moved as whole rows of a patch where one is as wide as some number type: a copy of 8 or 16 bytes at a time is several
    # times as fast as one of single pixels. Pixels that want a gradient stay what they are.
    wide = {8: torch.int64, 16: torch.complex128}.get(width * pixels.element_size())
    if wide is None or pixels.requires_grad:
        return rearrange(pixels, "b (d t) c (y h) (x w) -> b d y x (c t h w)", t=time, h=height, w=width)
    rows = pixels.contiguous().view(wide)
    return rearrange(rows, "b (d t) c (y h) x -> b d y x (c t h)", t=time, h=height).view(pixels.dtype)
