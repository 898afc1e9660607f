"""The precision in which a model computes."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def chosen_precision(choice: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """What `--training.precision` means on a device. Raises ValueError for bf16 on a GPU that does not have it."""
    is_cuda = device.type == "cuda"
    has_bf16 = not is_cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    if choice == "auto":
        return "bf16" if is_cuda and has_bf16 else "fp32"
    if choice == "bf16" and not has_bf16:
        raise ValueError(f"--training.precision bf16: {torch.cuda.get_device_name(device)} computes without it; choose fp32")
    return choice


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which the layers of a model choose bf16 where that is safe, unless `precision` is fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
