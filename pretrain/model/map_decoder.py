"""The decoder that pretraining trains with the encoder, and fine-tuning takes over: from feature maps and pixels to a map.

Shapes: B batch, T frames, C channels or bands, H x W pixels of a source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pretrain.model.resampling import resize
from pretrain.model.video_swin import VideoSwin

# Of the encoder's five maps the decoder starts from the last, and joins those of the patch embedding and of stages 1 and 2. It
# leaves out that of stage 3, the input of the last stage, which has the same size.
START = 4
CLIMB = (2, 1, 0)


@dataclass(frozen=True, kw_only=True)
class MapDecoderConfig:
    """Shape of the decoder.

    Attributes:
        frames: images of a series (T).
        num_classes: classes of the map.
        channels: width at the size of patches and below; half of it at the finer sizes.
        pixel_channels: width of the convolutions over the pixels of all images.
    """

    frames: int
    num_classes: int
    channels: int = 64
    pixel_channels: int = 16

    def __post_init__(self) -> None:
        if self.channels < 2 or self.channels % 2 or self.pixel_channels < 1:
            raise ValueError(
                f"the decoder has {self.channels} channels and {self.pixel_channels} pixel_channels; expected an even number of "
                "channels and at least 1 of the pixels"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> MapDecoderConfig:
        """Inverse of `to_dict`."""
        return MapDecoderConfig(**values)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel (Ba et al., 2016), as in ConvNeXt (Liu et al., CVPR 2022)."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def conv_pair(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Twice conv3x3 - ChannelNorm - GELU; the first convolution may have a stride."""
    layers: list[nn.Module] = []
    for inputs, step in ((channels_in, stride), (channels_out, 1)):
        convolution = nn.Conv2d(inputs, channels_out, 3, stride=step, padding=1, bias=False)
        layers += [convolution, ChannelNorm(channels_out), nn.GELU()]
    return nn.Sequential(*layers)


class SourceDecoder(nn.Module):
    """From the maps of one source to features of its pixels, like the way up of a U-Net (Ronneberger et al., 2015).

    The features climb from the last stage to the size of patches, and join the encoder's map at each size. From there they double
    their size until they are as fine as the pixels, and each time join convolutions over the pixels of all images: what is
    thinner than a patch is drawn there. A norm over the channels of each pixel makes it independent of the other samples of the
    batch, so that training is the same on any number of ranks, and of the size of the window, so that maps have no seams.

    Args:
        map_channels: channels of the encoder's five maps, from `VideoSwin.output_channels`.
        patch_px: rows and columns of a patch.
        bands: bands of the source.
        config: shape of the decoder.
    """

    def __init__(self, map_channels: Sequence[int], patch_px: int, bands: int, config: MapDecoderConfig):
        super().__init__()
        self._smallest_maps = [(1, channels, 1, 1) for channels in map_channels]
        self._smallest_pixels = (1, config.frames, bands, patch_px, patch_px)
        width, fine, narrow = config.channels, config.channels // 2, config.pixel_channels
        doublings = math.ceil(math.log2(patch_px))
        self.start = conv_pair(map_channels[START], width)
        self.climb = nn.ModuleList(conv_pair(width + map_channels[level], width) for level in CLIMB)
        # Of the pixels, from the finest size on; each further level has half the size.
        self.pixels = nn.ModuleList([conv_pair(config.frames * bands, narrow)])
        self.pixels.extend(conv_pair(narrow * min(level, 2), 2 * narrow, stride=2) for level in range(1, doublings))
        joined = [narrow * min(level, 2) for level in range(doublings, 0, -1)]
        inputs = [width] + [fine] * (doublings - 1)
        self.refine = nn.ModuleList(conv_pair(i + j, fine) for i, j in zip(inputs, joined, strict=True))

    def forward(self, maps: Sequence[torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """Five maps (B, C, h, w) and normalised pixels (B, T, C, H, W) -> features (B, channels / 2, H, W)."""
        features = self.start(maps[START])
        for level, block in zip(CLIMB, self.climb, strict=True):
            features = block(torch.cat([resize(features, _size(maps[level])), maps[level]], dim=1))
        skips = [pixels.flatten(1, 2)]
        for block in self.pixels:
            skips.append(block(skips[-1]))
        for block, skip in zip(self.refine, reversed(skips[1:]), strict=True):
            features = block(torch.cat([resize(features, _size(skip)), skip], dim=1))
        return features

    def smallest_input(self, like: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Zeros of the size of one patch, as maps and pixels, with dtype and device of `like`."""
        return [like.new_zeros(size) for size in self._smallest_maps], like.new_zeros(self._smallest_pixels)


class MapDecoder(nn.Module):
    """A decoder for each source, and a head that reads the mean of their features.

    The mean makes one head fit any sources: pretraining reads one source at a time, fine-tuning several.

    In training, the decoders of sources that a batch does not have get a gradient of zeros, not None, for the reason that
    `PatchEmbeds` gives. All decoders are called in the same order for every source, because ZeRO-3 fetches weights in that order.

    Args:
        encoder: the encoder whose maps it reads.
        sources: the sources to decode.
        config: its shape.
    """

    def __init__(self, encoder: VideoSwin, sources: Sequence[str], config: MapDecoderConfig):
        super().__init__()
        self.config = config
        widths, patch_px = encoder.output_channels(config.frames), max(encoder.config.patch_size[1:])
        bands = encoder.config.sources
        self.sources = nn.ModuleDict({name: SourceDecoder(widths, patch_px, bands[name], config) for name in sources})
        fine = config.channels // 2
        self.head = nn.Sequential(nn.Conv2d(fine, fine, 3, padding=1), nn.GELU(), nn.Conv2d(fine, config.num_classes, 1))

    def forward(
        self, maps: Mapping[str, Sequence[torch.Tensor]], size: tuple[int, int], data: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Five maps and normalised pixels (B, T, C, H, W) of some of the sources -> class scores (B, classes, *size)."""
        features, idle = [], []
        decoders = {name: module for name, module in self.sources.items() if isinstance(module, SourceDecoder)}
        for name, decoder in decoders.items():
            if name in maps:
                features.append(resize(decoder(maps[name], data[name]), size))
            elif self.training and torch.is_grad_enabled():
                some_pixels = next(iter(data.values()))
                idle.append(0 * decoder(*decoder.smallest_input(some_pixels)).sum())
        fused = torch.stack(features).mean(dim=0) if len(features) > 1 else features[0]
        scores: torch.Tensor = self.head(fused + sum(idle) if idle else fused)
        return scores


def _size(maps: torch.Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
