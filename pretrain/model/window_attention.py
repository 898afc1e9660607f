"""Attention inside shifted 3-D windows with a relative position bias (Video Swin, Liu et al., 2022).

Shape suffixes: B batch, D/H/W feature map, C channels, K windows of one map, N tokens of a window, A attention heads.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

Size = tuple[int, int, int]
# Between regions that only the cyclic shift made neighbours; the value of the published code, large enough to vanish in softmax.
MASKED = -100.0


def fit_window(size: Size, window: Size, shift: Size) -> tuple[Size, Size]:
    """Window and shift for a feature map of `size`: a side that is no longer than the window becomes the window, unshifted."""
    fitted_window = tuple(min(s, w) for s, w in zip(size, window, strict=True))
    fitted_shift = tuple(0 if s <= w else h for s, w, h in zip(size, window, shift, strict=True))
    return fitted_window, fitted_shift  # type: ignore[return-value]


@lru_cache(maxsize=64)
def relative_position_index(window: Size, table_window: Size) -> torch.Tensor:
    """Rows of the bias table for every pair of tokens of `window`: int64 (N, N).

    The table is laid out for `table_window` offsets. For a smaller window the offsets are looked up by their value; the
    published code slices the big window's index instead, which pairs tokens with wrong offsets once rows or columns shrink.
    """
    coordinates = torch.stack(torch.meshgrid(*[torch.arange(side) for side in window], indexing="ij")).flatten(1)  # (3, N)
    offsets = coordinates[:, :, None] - coordinates[:, None, :]  # (3, N, N)
    index = torch.zeros(offsets.shape[1:], dtype=torch.int64)
    for offset, side in zip(offsets, table_window, strict=True):
        index = index * (2 * side - 1) + offset + side - 1
    return index


@lru_cache(maxsize=64)
def shift_mask(padded: Size, window: Size, shift: Size, device: torch.device) -> torch.Tensor:
    """Additive mask of shifted windows: float32 (K, N, N), 0 within a region and MASKED between regions."""
    region = torch.zeros(padded, dtype=torch.int64)
    for axis, (size, side, offset) in enumerate(zip(padded, window, shift, strict=True)):
        position = torch.arange(size)
        # three bands an axis: untouched, cut by the shift, wrapped around by it
        band = (position >= size - side).long() + (position >= size - offset).long() if offset else torch.zeros_like(position)
        region = region * 3 + band.view([-1 if i == axis else 1 for i in range(3)])
    labels = to_windows(region[None, ..., None], window)[..., 0]  # (K, N)
    return (labels[:, None, :] != labels[:, :, None]).float().mul(MASKED).to(device)


def to_windows(tokens: torch.Tensor, window: Size) -> torch.Tensor:
    """(B, D, H, W, C) with sides divisible by the window -> (B * K, N, C)."""
    batch, depth, height, width, channels = tokens.shape
    wd, wh, ww = window
    blocks = tokens.view(batch, depth // wd, wd, height // wh, wh, width // ww, ww, channels)
    return blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, wd * wh * ww, channels)


def from_windows(windows: torch.Tensor, window: Size, padded: Size) -> torch.Tensor:
    """Inverse of `to_windows`: (B * K, N, C) -> (B, D, H, W, C)."""
    depth, height, width = padded
    wd, wh, ww = window
    blocks = windows.view(-1, depth // wd, height // wh, width // ww, wd, wh, ww, windows.shape[-1])
    return blocks.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, depth, height, width, windows.shape[-1])


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows of a feature map, optionally shifted."""

    def __init__(self, dim: int, num_heads: int, window: Size):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        table_rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self, window: Size) -> torch.Tensor:
        """Relative position bias (A, N, N) of a window, in the table's dtype."""
        index = relative_position_index(window, self.window).to(self.relative_position_bias_table.device)
        tokens = index.shape[0]
        return self.relative_position_bias_table[index.flatten()].view(tokens, tokens, -1).permute(2, 0, 1)

    def forward(self, tokens: torch.Tensor, shift: Size) -> torch.Tensor:
        """(B, D, H, W, C) -> the same shape. The block's `shift` is dropped along sides no longer than the window."""
        batch, *size, _ = tokens.shape
        window, shift = fit_window((size[0], size[1], size[2]), self.window, shift)
        padding = [-s % w for s, w in zip(size, window, strict=True)]
        padded: Size = tuple(s + p for s, p in zip(size, padding, strict=True))  # type: ignore[assignment]
        shifted = any(shift)

        if any(padding):
            # The map is padded with zeros before the projection, so padding tokens are the projection's bias. Projecting
            # the real tokens alone and adding the bias after padding gives the same with fewer operations.
            qkv = F.linear(tokens, self.qkv.weight)
            qkv = F.pad(qkv, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0])) + self.qkv.bias
        else:
            qkv = self.qkv(tokens)
        if shifted:
            qkv = torch.roll(qkv, [-s for s in shift], dims=(1, 2, 3))
        windows = to_windows(qkv, window)  # (B*K, N, 3C)
        query, key, value = windows.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B*K, A, N, C/A)

        bias = self.bias(window).to(query.dtype)
        if shifted:
            mask = shift_mask(padded, window, shift, tokens.device).to(query.dtype)
            bias = (bias + mask[:, None]).repeat(batch, 1, 1, 1)  # (B*K, A, N, N)
        else:
            bias = bias[None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)

        merged = from_windows(attended.transpose(1, 2).flatten(2), window, padded)
        if shifted:
            merged = torch.roll(merged, shift, dims=(1, 2, 3))
        return self.proj(merged[:, : size[0], : size[1], : size[2]])
