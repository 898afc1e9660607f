"""FLOPs and memory of an encoder, computed from its shape.

FLOPs are those of the matrix products, two for each multiplication and addition, as MFU is counted (Chowdhery et al., PaLM,
2022, appendix B). Bytes per ZeRO stage follow Rajbhandari et al. (ZeRO, 2020, section 3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pretrain.model.attention.layout import Size, fit_window
from pretrain.model.video_swin import EncoderConfig

# Dense bfloat16 matrix products in FLOP/s, and memory in bytes, from the vendors' datasheets.
GPUS = {
    "a100": (312e12, 80e9),
    "h100": (989.4e12, 80e9),
    "h200": (989.4e12, 141e9),
    "l40": (181e12, 48e9),
    "l40s": (362e12, 48e9),
    "v100": (125e12, 32e9),  # float16: it has no bfloat16
}


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one sample's forward pass, by part."""

    patch_embedding: float
    projections: float
    attention: float
    merging: float

    @property
    def forward(self) -> float:
        return self.patch_embedding + self.projections + self.attention + self.merging

    @property
    def training(self) -> float:
        """Forward and backward pass. Each product has two gradients; that of the pixels is not computed."""
        return 3 * self.forward - self.patch_embedding


def map_sizes(config: EncoderConfig, frames: int, rows: int, cols: int) -> list[Size]:
    """Frames, rows and columns, in tokens, of the input of each of the four stages, for pixels (frames, rows, cols)."""
    size = tuple(-(-n // p) for n, p in zip((frames, rows, cols), config.patch_size, strict=True))
    sizes = [size]
    for _ in config.depths[1:]:
        size = tuple(-(-n // 2) for n in size)
        sizes.append(size)
    return sizes  # type: ignore[return-value]


def forward_flops(config: EncoderConfig, bands: int, frames: int, rows: int, cols: int, padded: bool = False) -> Flops:
    """FLOPs of one sample of (frames, bands, rows, cols) pixels.

    With `padded`, those of the published code, which pads every window to its full size and computes on the padding, too.
    Else those of the real tokens and of their pairs in each window, over which MFU is stated.
    """
    sizes = map_sizes(config, frames, rows, cols)
    patch = 2 * math.prod(sizes[0]) * bands * math.prod(config.patch_size) * config.embed_dim
    projections = attention = merging = 0.0
    for stage, (size, depth) in enumerate(zip(sizes, config.depths, strict=True)):
        channels = config.embed_dim * 2**stage
        tokens = math.prod(size)
        for block in range(depth):
            attended, pairs = _windows(size, config.window_size, block % 2 == 1, padded)
            projections += 2 * attended * 4 * channels**2  # qkv and output
            projections += 2 * tokens * 2 * config.mlp_ratio * channels**2
            attention += 2 * pairs * 2 * channels  # scores and weighted sums
        if stage < len(sizes) - 1:
            merging += 2 * math.prod(sizes[stage + 1]) * 4 * channels * 2 * channels
    return Flops(patch_embedding=patch, projections=projections, attention=attention, merging=merging)


def training_flops(
    config: EncoderConfig, shapes: Mapping[str, tuple[int, int, int]], num_frames: int, has_teacher: bool
) -> dict[str, float]:
    """Model FLOPs of a training step for one sample, by source; `shapes` are bands, rows and columns of a frame.

    These are the student's forward and backward pass, and the forward pass of the teacher if there is one: what the method needs,
    however it is implemented. Activation checkpointing does not count (PaLM, appendix B), nor does the linear head.
    """
    flops = {source: forward_flops(config, shape[0], num_frames, *shape[1:]) for source, shape in shapes.items()}
    return {source: each.training + (each.forward if has_teacher else 0) for source, each in flops.items()}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by its CUDA name, like `NVIDIA H100 80GB HBM3`; None for a GPU that is not in `GPUS`.

    `GPUS` lists SXM modules. PCIe and NVL cards of the same kind are slower, except those of the A100.
    """
    words = re.split(r"[\s_-]+", device_name.lower())
    kind = next((word for word in words if word in GPUS), None)
    slower = not {"pcie", "nvl"}.isdisjoint(words) and kind != "a100"
    return None if kind is None or slower else GPUS[kind][0]


def _windows(size: Size, window: Size, shifted: bool, padded: bool) -> tuple[int, int]:
    """Tokens in all windows of a map, and pairs of tokens in the same window. Both are products over the three axes."""
    fitted, shift = fit_window(size, window, shifted)
    tokens = pairs = 1
    for side, wide, moved in zip(size, fitted, shift, strict=True):
        whole = -(-side // wide) * wide
        held = [sum(padded or (place + moved) % whole < side for place in range(s, s + wide)) for s in range(0, whole, wide)]
        tokens *= sum(held)
        pairs *= sum(count**2 for count in held)
    return tokens, pairs


def activation_bytes(
    config: EncoderConfig, bands: int, frames: int, rows: int, cols: int, item: int, checkpointed: tuple[int, ...] = ()
) -> int:
    """Bytes that one sample's forward pass keeps for the gradient, with `item` bytes per number (2 for bf16).

    A block keeps ten numbers for each token and channel: its input; queries, keys and values; the result of the attention; the
    sum after it; and the MLP's four hidden ones. In the stages of activation checkpointing, `checkpointed`, each block keeps
    its input, and only one block at a time the rest.
    """
    sizes = map_sizes(config, frames, rows, cols)
    kept = math.prod(sizes[0]) * bands * math.prod(config.patch_size)  # unfolded patches
    for stage, (size, depth) in enumerate(zip(sizes, config.depths, strict=True)):
        channels = config.embed_dim * 2**stage
        a_block = round(math.prod(size) * channels * (6 + config.mlp_ratio))
        kept += math.prod(size) * channels * depth + a_block if stage + 1 in checkpointed else depth * a_block
        if stage < len(sizes) - 1:
            kept += math.prod(sizes[stage + 1]) * 4 * channels
    return (kept + math.prod(sizes[-1]) * config.embed_dim * 2 ** (len(sizes) - 1)) * item


def model_bytes(parameters: int, zero_stage: int, gpus: int, bf16: bool) -> dict[str, float]:
    """Bytes per GPU for weights, gradients and AdamW's state under a ZeRO stage, and for the mean teacher.

    Every GPU holds the whole teacher: an average in fp32, and with bf16 a copy that computes.
    """
    item, state = (2, 12) if bf16 else (4, 8)  # with bf16 the optimizer holds fp32 weights beside both moments
    return {
        "weights": item * parameters / (gpus if zero_stage >= 3 else 1),
        "gradients": item * parameters / (gpus if zero_stage >= 2 else 1),
        "optimizer": state * parameters / (gpus if zero_stage >= 1 else 1),
        "teacher": (6 if bf16 else 4) * parameters,
    }


def recomputed_flops(config: EncoderConfig, pixels: Size, stages: tuple[int, ...]) -> float:
    """FLOPs of the blocks of `stages` (1 to 4), which activation checkpointing computes again. Pixels: frames, rows, columns."""
    chosen = tuple(depth if number in stages else 0 for number, depth in enumerate(config.depths, 1))
    flops = forward_flops(replace(config, depths=chosen), 0, *pixels)  # type: ignore[arg-type]
    return flops.projections + flops.attention
