"""Synchronised down-sampling between stages: time, height and width are halved together, channels doubled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from pretrain.model.recompute import norm_linear


class PatchMerging(nn.Module):
    """Average two consecutive frames, then gather each 2 x 2 neighbourhood into channels and project 4C -> 2C.

    Source: AgriFM (arXiv 2505.21357); the spatial part is that of Swin (Liu et al., 2021). An odd side is padded with zeros at
    its end. In time these zeros count in the mean, as they did when the published weights were trained.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C) -> (B, ceil(D/2), ceil(H/2), ceil(W/2), 2C)."""
        _, depth, height, width, _ = tokens.shape
        padding = (0, 0, 0, width % 2, 0, height % 2, 0, depth % 2)
        if any(padding):
            tokens = F.pad(tokens, padding)
        tokens = tokens.unflatten(1, (-1, 2)).mean(dim=2)
        # the order of the published weights: (row, column) offsets (0, 0), (1, 0), (0, 1), (1, 1)
        neighbours = rearrange(tokens, "b d (h row) (w col) c -> b d h w (col row c)", row=2, col=2)
        return norm_linear(neighbours, self.norm, self.reduction)
