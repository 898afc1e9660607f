"""Attention within windows where the tensors are: `cpu.py` or, on a GPU with Triton and for usual heads, `cuda.py`."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from pretrain.model.attention import cpu
from pretrain.model.attention.layout import Size, WindowLayout, window_layout

_HAS_TRITON = find_spec("triton") is not None
_HEAD_CHANNELS = (16, 32, 64, 128)  # tiles of Triton are powers of two, and its products have at least 16 terms


def window_attention(qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor, layout: WindowLayout) -> torch.Tensor:
    """softmax(Q K^T / sqrt(H) + bias) V within each window of `layout`: (B, L, C); the bias is that of relative positions.

    Args:
        qkv: (B, L, 3C), queries, keys and values of the map's tokens, each with heads outer.
        padding: (3C,), those of a padding token.
        table: (T, A), biases of relative positions, of which `layout.bias_rows` are rows.
        layout: how the map is divided into windows, from `layout_of_map`.
    """
    if runs_in_kernels(qkv.device, qkv.shape[-1] // 3 // table.shape[-1]):
        from pretrain.model.attention import cuda

        return cuda.window_attention(qkv, padding, table, layout)
    return cpu.window_attention(qkv, padding, table, layout)


def layout_of_map(size: Size, window: Size, shifted: bool, device: torch.device, head_channels: int) -> WindowLayout:
    """The windows of a feature map of `size`, as `window_attention` takes them on `device` for heads of so many channels.

    See `layout.window_layout`.
    """
    return window_layout(size, window, shifted, device, may_join=not runs_in_kernels(device, head_channels))


def runs_in_kernels(device: torch.device, head_channels: int) -> bool:
    """Whether attention runs in the kernels of `cuda.py`: on GPUs with Triton, which PyTorch for Linux brings along.

    The kernels are for heads of 16, 32, 64 or 128 channels; the published encoder has 32.
    """
    return device.type == "cuda" and _HAS_TRITON and head_channels in _HEAD_CHANNELS
