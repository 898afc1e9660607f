"""The device that fine-tuning and mapping compute on."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` picks CUDA if torch finds a CUDA device.

    Raises ValueError for any other name, and for `cuda` if torch finds no CUDA device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch finds no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
