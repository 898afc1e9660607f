"""Model FLOPs of a training step, over which MFU is stated (Chowdhery et al., PaLM, 2022, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pretrain.model.decoder_cost import decoder_cost
from pretrain.model.flops import forward_flops
from pretrain.model.map_decoder import MapDecoderConfig
from pretrain.model.video_swin import VideoSwin


def training_flops(
    encoder: VideoSwin,
    shapes: Mapping[str, tuple[int, int, int]],
    num_frames: int,
    has_teacher: bool,
    decoder: MapDecoderConfig | None = None,
) -> dict[str, float]:
    """Model FLOPs of a training step for one sample, by source; `shapes` are bands, rows and columns of a frame.

    These are the student's forward and backward pass, and the forward pass of the teacher if there is one: what the method needs,
    however it is implemented. Activation checkpointing does not count (PaLM, appendix B), nor does the linear head.

    Args:
        encoder: the encoder; only its shape is used.
        shapes: of the sources of the training.
        num_frames: images of a series.
        has_teacher: whether there is a forward pass of the teacher.
        decoder: shape of the decoder of the map, if there is one.
    """
    flops = {}
    for source, (bands, rows, cols) in shapes.items():
        encoding = forward_flops(encoder.config, bands, num_frames, rows, cols)
        training, forward = encoding.training, encoding.forward
        if decoder is not None:
            decoding = decoder_cost(encoder, decoder, source, (num_frames, bands, rows, cols), 1, torch.float32)
            training, forward = training + decoding.training_flops, forward + decoding.forward_flops
        flops[source] = training + (forward if has_teacher else 0)
    return flops
