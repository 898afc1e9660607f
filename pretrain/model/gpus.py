"""Datasheets of GPUs: their peak FLOP/s and memory."""

from __future__ import annotations

import re

# Dense bfloat16 matrix products in FLOP/s, and memory in bytes, from the vendors' datasheets.
GPUS = {
    "a100": (312e12, 80e9),
    "h100": (989.4e12, 80e9),
    "h200": (989.4e12, 141e9),
    "l40": (181e12, 48e9),
    "l40s": (362e12, 48e9),
    "v100": (125e12, 32e9),  # float16: it has no bfloat16
}


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of a GPU by its datasheet, dense bfloat16; None for a GPU that is not in `GPUS`.

    `device_name` is its CUDA name, like `NVIDIA H100 80GB HBM3`. `GPUS` lists SXM modules. PCIe and NVL cards of the same kind
    are slower, except those of the A100.
    """
    words = re.split(r"[\s_-]+", device_name.lower())
    kind = next((word for word in words if word in GPUS), None)
    slower = not {"pcie", "nvl"}.isdisjoint(words) and kind != "a100"
    return None if kind is None or slower else GPUS[kind][0]
