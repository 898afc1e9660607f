"""Baselines without pretraining, which read the same data as the encoder: a U-Net, a temporal CNN and a random forest.

On field boundaries the U-Net beats every foundation model that we tried, so the score of a pretrained encoder needs a baseline
beside it.

Shapes: B batch, T images per source, C bands, H x W pixels of a source, K classes; sources in the order of the task. All
take normalised pixels {source: (B, T, C, H, W)} and the size of the map, and return class scores (B, K, *size); coarser sources
are first resampled to the map's grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from finetune.model.batch_norm import BatchNorm2d
from finetune.model.random_forest import RandomForest
from pretrain.model.resampling import on_map_grid


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with four halvings; the images of a series are stacked as channels.

    It differs from the paper as most implementations do: convolutions are padded, so that the map has the size of the window,
    and batch normalisation (Ioffe and Szegedy, 2015) follows each of them. Halving an odd side rounds up.

    Args:
        bands: bands of each source.
        frames: images per source (T).
        num_classes: classes of the map.
        channels: channels of the first level, 64 in the paper; the lowest level has 16 times as many.
    """

    HALVINGS = 4

    def __init__(self, bands: Mapping[str, int], frames: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.sources = tuple(bands)
        widths = [channels * 2**level for level in range(self.HALVINGS + 1)]
        inputs = [frames * sum(bands.values()), *widths]
        self.down = nn.ModuleList(_double_conv(inputs[level], width) for level, width in enumerate(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_double_conv(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, data: Mapping[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Class scores (B, K, *size)."""
        features = on_map_grid(data, self.sources, size).flatten(1, 2)
        skips = []
        for level, convolve in enumerate(self.down):
            features = convolve(F.max_pool2d(features, 2, ceil_mode=True) if level else features)
            skips.append(features)
        skips.pop()
        for widen, merge in zip(self.up, self.merge, strict=True):
            skip = skips.pop()
            # Halving rounded odd sides up: cut off the extra row or column.
            features = merge(torch.cat([skip, widen(features)[..., : skip.shape[-2], : skip.shape[-1]]], dim=1))
        scores: torch.Tensor = self.head(features)
        return scores


class TemporalCNN(nn.Module):
    """TempCNN (Pelletier et al. 2019, doi 10.3390/rs11050523): convolutions over the time series of each pixel alone.

    Three convolutions over time and a dense layer, each followed by batch normalisation, ReLU and dropout, then the classes.
    The convolution over time is a 2D convolution of the image (T, pixels) with kernels along T, which needs no copy.

    Args:
        bands: bands of each source.
        frames: images per source (T).
        num_classes: classes of the map.
        channels: filters of a convolution, 64 in the paper; the dense layer has four times as many.
    """

    KERNEL = 5  # frames
    DROPOUT = 0.5

    def __init__(self, bands: Mapping[str, int], frames: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.sources = tuple(bands)
        inputs = [sum(bands.values()), channels, channels]
        self.time = nn.Sequential(
            *(
                _with_dropout(nn.Conv2d(width, channels, (self.KERNEL, 1), padding=(self.KERNEL // 2, 0), bias=False), channels)
                for width in inputs
            )
        )
        self.dense = _with_dropout(nn.Conv2d(channels * frames, 4 * channels, 1, bias=False), 4 * channels)
        self.head = nn.Conv2d(4 * channels, num_classes, 1)

    def forward(self, data: Mapping[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Class scores (B, K, *size)."""
        series = on_map_grid(data, self.sources, size).transpose(1, 2).flatten(-2)  # (B, C, T, pixels)
        found = self.time(series).flatten(1, 2)[:, :, None]  # (B, channels * T, 1, pixels)
        scores: torch.Tensor = self.head(self.dense(found)).unflatten(-1, size)[:, :, 0]
        return scores


BASELINES = {"unet": UNet, "temporal_cnn": TemporalCNN, "random_forest": RandomForest}


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two times conv3x3 - BatchNorm - ReLU, which keeps height and width."""
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [
            nn.Conv2d(channels, channels_out, 3, padding=1, bias=False), BatchNorm2d(channels_out), nn.ReLU(inplace=True)
        ]  # fmt: skip
    return nn.Sequential(*layers)


def _with_dropout(layer: nn.Module, channels: int) -> nn.Sequential:
    """The layer, then BatchNorm - ReLU - dropout."""
    return nn.Sequential(layer, BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Dropout(TemporalCNN.DROPOUT))
