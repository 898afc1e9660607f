"""Encoder and decoder as one model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from finetune.model.decoder import DecoderKind, FusionDecoder, LinearDecoder
from pretrain.model import BatchPart, MapDecoder, MapDecoderConfig, VideoSwin


class CropMapper(nn.Module):
    """A map from the series of several sources: shared encoder, decoder.

    Args:
        encoder: `pretrain.model.VideoSwin`.
        sources: the sources to read, in decoder order.
        frames: images per source (T).
        num_classes: classes of the map.
        channels: width of the decoder.
        skip_channels: width of the skip connection from the input pixels to the fusion decoder's head, 0 for none; of the map
            decoder's convolutions over the pixels.
        kind: of the decoder.
    """

    def __init__(
        self,
        encoder: VideoSwin,
        sources: tuple[str, ...],
        frames: int,
        num_classes: int,
        channels: int,
        skip_channels: int = 0,
        kind: DecoderKind = "fusion",
    ) -> None:
        super().__init__()
        self.sources = sources
        self.channels = channels
        self.encoder = encoder
        self._encoder_in_evaluation_mode = False
        self.decoder: nn.Module
        if kind == "map":
            shape = MapDecoderConfig(frames=frames, num_classes=num_classes, channels=channels, pixel_channels=skip_channels)
            self.decoder = MapDecoder(encoder, sources, shape)
            return
        widths = dict.fromkeys(sources, encoder.output_channels(frames))
        if kind == "linear":
            self.decoder = LinearDecoder(widths, num_classes)
        else:
            inputs = frames * sum(encoder.config.sources[source] for source in sources)
            self.decoder = FusionDecoder(widths, channels, num_classes, skip_channels, inputs)

    def forward(self, data: Mapping[str, torch.Tensor], size: tuple[int, int], part: BatchPart | None = None) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) of each source -> class scores (B, classes, *size).

        `part`: which windows of a batch they are, for the encoder's stochastic depth; default: all.
        """
        maps = {source: self.encoder(data[source], source=source, part=part) for source in self.sources}
        scores: torch.Tensor = self.decoder(maps, size, data)
        return scores

    def freeze_encoder(self, *, in_evaluation_mode: bool) -> None:
        """Train none of the encoder's weights; `in_evaluation_mode` keeps it there, without stochastic depth."""
        self.encoder.requires_grad_(False)
        self._encoder_in_evaluation_mode = in_evaluation_mode

    def train(self, mode: bool = True) -> CropMapper:
        """Set training or evaluation mode, as for any module; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._encoder_in_evaluation_mode:
            self.encoder.eval()
        return self
