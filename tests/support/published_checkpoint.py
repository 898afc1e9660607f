"""Checkpoints with the names of the published weights and random numbers."""

from __future__ import annotations

import torch

from pretrain.model import EncoderConfig, VideoSwin, build_encoder

# The names that the published weights have for the patch embeddings.
EMBEDDINGS = {"sentinel2": "S2_patch_emd", "landsat": "HLSL30_patch_emd", "modis": "Modis_patch_emd"}


def random_encoder(config: EncoderConfig, seed: int = 0, deviation: float = 0.3) -> VideoSwin:
    """All parameters random, so that no zero bias or table hides a wrong place."""
    torch.manual_seed(seed)
    encoder = build_encoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, deviation)
    return encoder


def published_state(encoder: VideoSwin, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of an encoder under the published names."""
    state = {}
    for name, tensor in encoder.state_dict().items():
        if name.startswith("patch_embeds."):
            _, source, kind = name.split(".")
            published = f"{EMBEDDINGS[source]}.{'weights' if kind == 'weight' else kind}"
        else:
            published = "backbone." + name.replace("stages.", "layers.").replace(".merging.", ".downsample.")
        state[f"{prefix}encoder.{published}"] = tensor
    return state
