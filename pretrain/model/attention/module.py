"""The module of multi-head attention in shifted 3-D windows with a relative position bias (Video Swin, Liu et al., 2022).

Shape suffixes: B batch, L tokens of a map, C channels, A attention heads, N real tokens of a window, M keys of a window: N, and
one more that stands for the padding if the window has any.
"""

from __future__ import annotations

import torch
from torch import nn

from pretrain.model.attention.home import window_attention
from pretrain.model.attention.layout import Size, WindowLayout
from pretrain.model.recompute import norm_linear


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows of a feature map.

    Args:
        dim: channels C.
        num_heads: attention heads A.
        window: sides of the window that the table of relative position biases covers, in tokens.
    """

    def __init__(self, dim: int, num_heads: int, window: Size):
        super().__init__()
        table_rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: torch.Tensor, norm: nn.LayerNorm, layout: WindowLayout) -> torch.Tensor:
        """Attention over `norm(tokens)`: (B, L, C) -> (B, L, C), L the tokens of the map that `layout` divides."""
        qkv = norm_linear(tokens, norm, self.qkv)
        # The published code pads with zeros after the norm and before the projection, so a padding token projects to the bias.
        padding = self.qkv.bias.to(qkv.dtype)
        return self.proj(window_attention(qkv, padding, self.relative_position_bias_table, layout))
