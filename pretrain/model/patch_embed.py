"""Patch embeddings of image series: one per source, all with the same number of channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from pretrain.model.initialization import init_by_fan_in


class PatchEmbeds(nn.ModuleDict):
    """The patch embeddings of all sources, by name.

    In training, the embeddings that a batch does not use get a gradient of zeros, not None. DeepSpeed's ZeRO-3 and its offloading
    add up the gradients of micro-batches in memory that only the first micro-batch of a step clears, and only for parameters
    that have a gradient in it: the source of a later micro-batch would keep the gradient of the step before. All embeddings are
    called in the same order for every source, because ZeRO-3 fetches weights in that order.
    """

    def __init__(self, sources: Mapping[str, int], embed_dim: int, patch_size: tuple[int, int, int]):
        super().__init__({name: PatchEmbed(bands, embed_dim, patch_size) for name, bands in sources.items()})

    def forward(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) -> the tokens of the `PatchEmbed` of `source`."""
        if not (self.training and torch.is_grad_enabled()):
            return self[source](pixels)
        embeds = {name: module for name, module in self.items() if isinstance(module, PatchEmbed)}
        tokens = {name: embed(pixels if name == source else embed.one_patch(pixels)) for name, embed in embeds.items()}
        embedded: torch.Tensor = tokens.pop(source)
        return embedded + 0 * sum(idle.sum() for idle in tokens.values()) if tokens else embedded


class PatchEmbed(nn.Module):
    """Non-overlapping 3-D patches, linearly projected: the convolution with kernel = stride of Video Swin (Liu et al., 2022).

    It is computed as one matrix product over unfolded patches, which is the same function and much faster than Conv3d on CPUs.
    The parameters keep the convolution's shapes, so that published weights load unchanged.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: tuple[int, int, int]):
        super().__init__()
        self.in_channels, self.patch_size = in_channels, patch_size
        self.weight = nn.Parameter(torch.empty(embed_dim, in_channels, *patch_size))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        init_by_fan_in(self.weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) -> tokens (B, ceil(T/t), ceil(H/h), ceil(W/w), embed_dim).

        Sides that are not multiples of the patch are padded with zeros at the end.
        """
        time, height, width = self.patch_size
        _, frames, _, rows, cols = pixels.shape
        padding = (0, -cols % width, 0, -rows % height, 0, 0, 0, -frames % time)
        if any(padding):
            pixels = F.pad(pixels, padding)
        return F.linear(_patches(pixels, self.patch_size), self.weight.flatten(1), self.bias)

    def one_patch(self, like: torch.Tensor) -> torch.Tensor:
        """Zeros of the size of one patch, (1, t, C, h, w), with dtype and device of `like`."""
        time, height, width = self.patch_size
        return like.new_zeros(1, time, self.in_channels, height, width)


def _patches(pixels: torch.Tensor, patch_size: tuple[int, int, int]) -> torch.Tensor:
    """Pixels (B, T, C, H, W) -> (B, T/t, H/h, W/w, C*t*h*w)."""
    time, height, width = patch_size
    # Rows of a patch that are as wide as a number type are moved whole: copying 8 or 16 bytes at a time is several times as fast
    # as copying single pixels. This is not possible when the pixels need a gradient.
    wide = {8: torch.int64, 16: torch.complex128}.get(width * pixels.element_size())
    if wide is None or pixels.requires_grad:
        return rearrange(pixels, "b (d t) c (y h) (x w) -> b d y x (c t h w)", t=time, h=height, w=width)
    rows = pixels.contiguous().view(wide)
    return rearrange(rows, "b (d t) c (y h) x -> b d y x (c t h)", t=time, h=height).view(pixels.dtype)
