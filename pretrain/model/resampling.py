"""Resampling of images and feature maps to one grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F


def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resampling (B, C, H, W) -> (B, C, *size); returns `maps` itself if it already has that size."""
    return maps if tuple(maps.shape[-2:]) == tuple(size) else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def on_map_grid(data: Mapping[str, torch.Tensor], sources: tuple[str, ...], size: tuple[int, int]) -> torch.Tensor:
    """Pixels (B, T, C, H, W) of all sources resampled to the map's grid, bands concatenated: (B, T, sum of C, *size)."""
    parts = []
    for source in sources:
        batch, frames, *_ = data[source].shape
        parts.append(resize(data[source].flatten(0, 1), size).unflatten(0, (batch, frames)))
    return torch.cat(parts, dim=2)
