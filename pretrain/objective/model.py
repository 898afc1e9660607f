"""The model that pretraining trains: the encoder, and what predicts land cover from its features."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.model import BatchPart, MapDecoder, VideoSwin
from pretrain.model.video_swin import as_maps

FRACTIONS, MAP = "fractions", "map"  # what a model can predict
Prediction = dict[str, torch.Tensor]  # by these names; also the targets, and what the teacher says


class LandCoverModel(nn.Module):
    """Encoder with two heads: one for the fractions of land cover in the chip, and a decoder, if there is one, for its map.

    The fractions come from the mean over all tokens of the last stage, by a linear layer and a softmax.

    Args:
        encoder: the encoder.
        num_classes: classes of the land cover.
        decoder: the decoder, of as many classes; None predicts no map.
    """

    def __init__(self, encoder: VideoSwin, num_classes: int, decoder: MapDecoder | None = None):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.norm.normalized_shape[0], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.decoder = decoder

    def features(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) -> mean over all tokens of the last stage, (B, 8 * embed_dim).

        `part`: which samples of a global batch they are, for stochastic depth; default: all.
        """
        return _mean(self.encoder.tokens(pixels, source, part)[-1])

    def forward(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> Prediction:
        """Normalised pixels (B, T, C, H, W) of one source -> what the model predicts, float32.

        `fractions`: (B, classes), each row sums to 1; with a decoder also `map`: class scores (B, classes, H, W), before the
        softmax. `part`: see `features`.
        """
        tokens = self.encoder.tokens(pixels, source, part)
        predicted = {FRACTIONS: self.head(_mean(tokens[-1])).float().softmax(dim=-1)}
        if self.decoder is not None:
            size = pixels.shape[-2], pixels.shape[-1]
            predicted[MAP] = self.decoder({source: as_maps(tokens)}, size, {source: pixels}).float()
        return predicted


def _mean(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, D, H, W, C) -> their mean (B, C)."""
    return tokens.mean(dim=(1, 2, 3))
