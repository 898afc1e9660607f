"""Decoders: from the feature maps of several sources to one map of class scores.

Shapes: B batch, C channels, H x W pixels; sources in the order of the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from finetune.model.batch_norm import BatchNorm2d
from pretrain.model.resampling import on_map_grid, resize

# The encoder gives five maps: patch embedding, stages 1-3 after merging, last stage after its norm. The decoder starts from the
# last and upsamples through the first three. It leaves out the fourth, the input of the last stage, which has the same size.
DecoderKind = Literal["map", "fusion", "linear"]  # "map" is that of pretraining, `pretrain.model.MapDecoder`
START = 4
CLIMB = (2, 1, 0)


def conv_pair(channels_in: int, channels_out: int) -> nn.Sequential:
    """conv3x3 - BatchNorm - ReLU - conv3x3, keeps height and width."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
    )


class FusionDecoder(nn.Module):
    """U-Net style decoder over several sources ("MultiFusionNeck" and head of AgriFM, arXiv 2505.21357).

    At every level, the maps of all sources are resized to the finest of them and concatenated, so any number of sources and
    frames works. The published code fixes the size of the first level; here it is the size of the finest source.

    The finest features of the published decoder are patches of 4 x 4 pixels, so it cannot draw anything thinner. The skip
    connection from the input pixels adds that detail: two convolutions over the pixels of all images, concatenated with the
    features before the head, like the first level of a U-Net.

    Args:
        source_channels: for each source the channels of the encoder's five maps, from `encoder.output_channels(frames)`.
        channels: width of the decoder.
        num_classes: classes of the map.
        skip_channels: width of the skip connection from the input pixels; 0 for none, as published.
        input_channels: channels that the skip connection reads: images times bands, summed over the sources.
    """

    def __init__(
        self,
        source_channels: Mapping[str, Sequence[int]],
        channels: int,
        num_classes: int,
        skip_channels: int = 0,
        input_channels: int = 0,
    ) -> None:
        super().__init__()
        self.sources = tuple(source_channels)

        def fused(level: int) -> int:
            return sum(source_channels[source][level] for source in self.sources)

        self.start = conv_pair(fused(START), channels)
        self.climb = nn.ModuleList(conv_pair(channels + fused(level), channels) for level in CLIMB)
        self.neck = conv_pair(channels, channels)
        # `detail` is its name in stored weights.
        self.detail = conv_pair(input_channels, skip_channels) if skip_channels else None
        self.head = nn.Sequential(
            nn.Conv2d(channels + skip_channels, channels // 2, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, num_classes, 1),
        )

    def forward(
        self, maps: Mapping[str, Sequence[torch.Tensor]], size: tuple[int, int], data: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Five maps per source -> class scores (B, classes, *size).

        `data`: the normalised pixels {source: (B, T, C, H, W)}, needed for the skip connection.
        """
        features = self.start(self._fuse(maps, START))
        for level, fuse in zip(CLIMB, self.climb, strict=True):
            skip = self._fuse(maps, level)
            features = fuse(torch.cat([resize(features, (skip.shape[-2], skip.shape[-1])), skip], dim=1))
        features = resize(self.neck(features), size)
        if self.detail is not None:
            assert data is not None, "the skip connection needs the pixels"
            features = torch.cat([features, self.detail(on_map_grid(data, self.sources, size).flatten(1, 2))], dim=1)
        scores: torch.Tensor = self.head(features)
        return scores

    def _fuse(self, maps: Mapping[str, Sequence[torch.Tensor]], level: int) -> torch.Tensor:
        """The maps of all sources at one level, at the size of the finest: (B, sum of channels, H, W)."""
        found = [maps[source][level] for source in self.sources]
        size = max(m.shape[-2] for m in found), max(m.shape[-1] for m in found)
        return torch.cat([resize(m, size) for m in found], dim=1)


class LinearDecoder(nn.Module):
    """A linear layer on the features of each pixel: with a frozen encoder and cross-entropy, multinomial logistic regression.

    It says what the features of an encoder hold, without a decoder that learns to see. The maps of all levels and sources are
    resampled to the size of the map and normalised over batches, so that one learning rate fits features of any size.

    Args:
        source_channels: as for `FusionDecoder`.
        num_classes: classes of the map.
    """

    def __init__(self, source_channels: Mapping[str, Sequence[int]], num_classes: int) -> None:
        super().__init__()
        self.sources = tuple(source_channels)
        features = sum(sum(widths) for widths in source_channels.values())
        self.norm = BatchNorm2d(features)
        self.head = nn.Conv2d(features, num_classes, 1)

    def forward(
        self,
        maps: Mapping[str, Sequence[torch.Tensor]],
        size: tuple[int, int],
        data: Mapping[str, torch.Tensor] | None = None,  # noqa: ARG002  # as for FusionDecoder
    ) -> torch.Tensor:
        """Five maps per source -> class scores (B, classes, *size)."""
        features = [resize(level, size) for source in self.sources for level in maps[source]]
        scores: torch.Tensor = self.head(self.norm(torch.cat(features, dim=1)))
        return scores
