"""Memory that training an encoder needs on a GPU, computed from its shape.

Bytes per ZeRO stage follow Rajbhandari et al. (ZeRO, 2020, section 3).
"""

from __future__ import annotations

import math

from pretrain.model.video_swin import EncoderConfig, map_sizes


def activation_bytes(
    config: EncoderConfig, bands: int, frames: int, rows: int, cols: int, item: int, checkpointed: tuple[int, ...] = ()
) -> int:
    """Bytes of memory that one sample's forward pass keeps for the gradient, with `item` bytes per number (2 for bf16).

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
    """Bytes of memory per GPU for weights, gradients and AdamW's state under a ZeRO stage, and for the mean teacher.

    Gradients add up in fp32. So does the teacher's average, which is divided as the optimizer's state; every GPU holds the whole
    teacher that computes.
    """
    item, state = (2, 12) if bf16 else (4, 8)  # with bf16 the optimizer holds fp32 weights beside both moments
    return {
        "weights": item * parameters / (gpus if zero_stage >= 3 else 1),
        "gradients": 4 * parameters / (gpus if zero_stage >= 2 else 1),
        "optimizer": state * parameters / (gpus if zero_stage >= 1 else 1),
        "teacher": item * parameters + 4 * parameters / (gpus if zero_stage >= 1 else 1),
    }
