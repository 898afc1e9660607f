"""Patch embedding of an image series: one per source, all into the same token width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class PatchEmbed(nn.Module):
    """Non-overlapping 3-D patches, linearly projected: the convolution with kernel = stride of Video Swin (Liu et al., 2022).

    Written as one matrix product over unfolded patches, which is the same function and much faster than Conv3d on CPUs.
    The parameters keep the convolution's shapes, so that published weights load as they are.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: tuple[int, int, int]):
        super().__init__()
        self.patch_size = patch_size
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
