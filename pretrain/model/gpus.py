"""Datasheets of GPUs: their peak FLOP/s, memory and memory bandwidth."""

from __future__ import annotations

import re

# Dense bfloat16 matrix products in FLOP/s, memory in bytes, and its bandwidth in bytes per second, from the vendor's datasheets:
# NVIDIA A100 80GB SXM, H100 SXM, H200 SXM, L40, L40S and V100 SXM2 32GB.
GPUS = {
    "a100": (312e12, 80e9, 2.039e12),
    "h100": (989.4e12, 80e9, 3.35e12),
    "h200": (989.4e12, 141e9, 4.8e12),
    "l40": (181e12, 48e9, 0.864e12),
    "l40s": (362e12, 48e9, 0.864e12),
    "v100": (125e12, 32e9, 0.9e12),  # float16: it has no bfloat16
}

# Time from one launch to the next, an assumption: NVIDIA reports 3.8 microseconds per launched kernel from C++ (Gray, Getting
# Started with CUDA Graphs, 2019), and an operator of PyTorch does more on the host before it launches.
LAUNCH_SECONDS = 5e-6


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of a GPU by its datasheet, dense bfloat16; None for a GPU that is not in `GPUS`.

    `device_name` is its CUDA name, like `NVIDIA H100 80GB HBM3`. `GPUS` lists SXM modules. PCIe and NVL cards of the same kind
    are slower, except those of the A100.
    """
    words = re.split(r"[\s_-]+", device_name.lower())
    kind = next((word for word in words if word in GPUS), None)
    slower = not {"pcie", "nvl"}.isdisjoint(words) and kind != "a100"
    return None if kind is None or slower else GPUS[kind][0]
