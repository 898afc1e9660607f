"""The AgriFM encoder: Video Swin with one patch embedding per source and synchronised temporal and spatial down-sampling.

Sources: AgriFM (Li et al., arXiv 2505.21357); Video Swin Transformer (Liu et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.utils.checkpoint import checkpoint

from pretrain.model.attention.home import layout_of_map
from pretrain.model.attention.layout import Size, WindowLayout
from pretrain.model.attention.module import WindowAttention
from pretrain.model.initialization import init_by_fan_in
from pretrain.model.patch_embed import PatchEmbeds
from pretrain.model.patch_merging import PatchMerging
from pretrain.model.recompute import norm_mlp


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of the encoder. The defaults are those of the released weights (87.6 M parameters).

    Attributes:
        sources: number of bands of each source; each source has a patch embedding of its own. Pretraining takes the sources and
            bands of the corpus.
        patch_size: frames, rows and columns of a patch.
        embed_dim: channels after the patch embedding; each of the three mergings doubles them.
        depths: transformer blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: frames, rows and columns of an attention window, in tokens.
        mlp_ratio: hidden width of the MLPs, as a multiple of their input width.
        drop_path_rate: stochastic depth: probability that a sample skips a branch of the last block, 0 to 1. It grows linearly
            from 0 at the first block (Huang et al., 2016).
    """

    sources: dict[str, int] = field(default_factory=dict)
    patch_size: tuple[int, int, int] = (4, 4, 4)
    embed_dim: int = 128
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    num_heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    window_size: tuple[int, int, int] = (8, 7, 7)
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.2

    def __post_init__(self) -> None:
        for stage, heads in enumerate(self.num_heads):
            width = self.embed_dim * 2**stage
            if width % heads:
                raise ValueError(f"stage {stage + 1} has {width} channels, which {heads} heads do not divide")

    def check_stages(self, stages: Sequence[int]) -> None:
        """Raise ValueError unless each of `stages`, given as activation_checkpointing, is the number of a stage, from 1 on."""
        wrong = sorted(set(stages) - set(range(1, len(self.depths) + 1)))
        if wrong:
            raise ValueError(f"activation_checkpointing has {wrong}; the stages are numbered 1 to {len(self.depths)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> EncoderConfig:
        """Inverse of `to_dict`; lists become tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return EncoderConfig(**fields)


@dataclass(frozen=True)
class BatchPart:
    """Which part of a global batch an encoder is given: the samples from `first` on of `total`.

    Stochastic depth is drawn for the global batch, and each part uses its own share of what was drawn. So training does not
    depend on how many ranks and micro-batches share a global batch, as long as all start from the same random seed.
    """

    first: int
    total: int


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        """The MLP of `norm(tokens)`: (..., C) -> (..., C)."""
        return norm_mlp(tokens, norm, self.fc1, self.fc2)


class Block(nn.Module):
    """Pre-norm window attention and MLP with residuals."""

    def __init__(self, dim: int, num_heads: int, window: Size, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, tokens: torch.Tensor, layout: WindowLayout, scales: torch.Tensor | None = None) -> torch.Tensor:
        """(B, L, C) -> (B, L, C), tokens of the map that `layout` divides into windows.

        `scales` (2, B): factors of the attention and of the MLP branch (stochastic depth); None for 1.
        """
        attended = self.attn(tokens, self.norm1, layout)
        tokens = tokens + (attended if scales is None else attended * scales[0].view(-1, 1, 1))
        transformed = self.mlp(tokens, self.norm2)
        return tokens + (transformed if scales is None else transformed * scales[1].view(-1, 1, 1))


class Stage(nn.Module):
    """Blocks, every second one with windows shifted by half, then the merging (none after the last stage).

    With `activation_checkpointing` a block keeps only its input for the gradient, and runs twice (Chen et al., 2016).
    """

    def __init__(self, blocks: list[Block], merging: PatchMerging | None, num_heads: int, window: Size):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.merging = merging
        self.num_heads, self.window = num_heads, window
        self.activation_checkpointing = False

    def forward(self, tokens: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D, H, W, C) -> the merged map; in the last stage one of the same shape. `scales`: (blocks, 2, B), see `Block`."""
        batch, *sides, channels = tokens.shape
        size: Size = (sides[0], sides[1], sides[2])
        head_channels = channels // self.num_heads
        layouts = [layout_of_map(size, self.window, shifted, tokens.device, head_channels) for shifted in (False, True)]
        flat = tokens.reshape(batch, -1, channels)
        for number, block in enumerate(self.blocks):
            arguments = flat, layouts[number % 2], None if scales is None else scales[number]
            if self.activation_checkpointing and torch.is_grad_enabled():
                # A block draws no random numbers, so the state of the generator need not be kept.
                flat = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                flat = block(*arguments)
        tokens = flat.view(batch, *size, channels)
        return tokens if self.merging is None else self.merging(tokens)


class VideoSwin(nn.Module):
    """The encoder.

    Args:
        config: its shape.
        normalization: what the weights expect, if it is known; see the attribute.

    Attributes:
        normalization: lists `mean` and `std`, and perhaps `low` and `high`, one number per band, for each source.

    Raises ValueError for a configuration without sources.
    """

    def __init__(self, config: EncoderConfig, normalization: dict[str, dict[str, list[float]]] | None = None):
        super().__init__()
        if not config.sources:
            raise ValueError("an encoder needs at least one source: sources={'sentinel2': 10}")
        self.config = config
        self.normalization = normalization
        self.patch_embeds = PatchEmbeds(config.sources, config.embed_dim, config.patch_size)
        self.stages = nn.ModuleList()
        for index, depth in enumerate(config.depths):
            dim = config.embed_dim * 2**index
            blocks = [Block(dim, config.num_heads[index], config.window_size, config.mlp_ratio) for _ in range(depth)]
            merging = PatchMerging(dim) if index < len(config.depths) - 1 else None
            self.stages.append(Stage(blocks, merging, config.num_heads[index], config.window_size))
        self.norm = nn.LayerNorm(config.embed_dim * 2 ** (len(config.depths) - 1))
        self.apply(_init_linear)

    def checkpoint_activations(self, stages: Sequence[int]) -> None:
        """Use activation checkpointing in these stages (1 to 4) and in no others. Raises ValueError for another number."""
        self.config.check_stages(stages)
        found = [module for module in self.stages if isinstance(module, Stage)]
        for number, stage in enumerate(found, 1):
            stage.activation_checkpointing = number in stages

    def compile_blocks(self) -> None:
        """Let torch.compile fuse the operations around the attention: once for each stage and shape, not once per block."""
        shapes = 64  # four stages, shifted or not, with and without gradient, at a few sizes
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, shapes)
        for module in self.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False)

    def output_channels(self, num_frames: int) -> list[int]:
        """Channels C*D of the five maps for series of `num_frames`."""
        depth, dim = -(-num_frames // self.config.patch_size[0]), self.config.embed_dim
        channels = [dim * depth]
        for _ in range(3):
            depth, dim = -(-depth // 2), 2 * dim
            channels.append(dim * depth)
        return [*channels, dim * depth]

    def forward(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> list[torch.Tensor]:
        """Normalised pixels (B, T, C, H, W) of one source -> five maps (B, C*D, H, W), channels outer, time inner.

        The maps are the output of the patch embedding, the outputs of stages 1 to 3 after their merging, and that of the last
        stage after the final norm. `part` matters only in training: which samples of a global batch the pixels are; default: all.
        Raises ValueError for an unknown source or another number of bands.
        """
        return as_maps(self.tokens(pixels, source, part))

    def tokens(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> list[torch.Tensor]:
        """The five maps of `forward` as they are computed, (B, D, H, W, C), without the copies that `forward` makes."""
        if source not in self.config.sources:
            raise ValueError(f"the encoder has no patch embedding for {source!r}; it has {sorted(self.config.sources)}")
        if pixels.ndim != 5 or pixels.shape[2] != self.config.sources[source]:
            raise ValueError(
                f"pixels of {source} have shape {tuple(pixels.shape)}; expected (B, T, {self.config.sources[source]}, H, W)"
            )
        maps = [self.patch_embeds(pixels, source)]
        for stage, scales in zip(self.stages, self._branch_scales(maps[-1], part), strict=True):
            maps.append(stage(maps[-1], scales))
        maps[-1] = self.norm(maps[-1])
        return maps

    def _branch_scales(self, tokens: torch.Tensor, part: BatchPart | None = None) -> Sequence[torch.Tensor | None]:
        """Factors of the branches by stochastic depth (Huang et al., 2016), 0 or 1 / (1 - rate): (blocks, 2, B) for each stage.

        None where no branch is dropped. One draw for all blocks saves a GPU two small kernels per block.
        """
        if not self.training or self.config.drop_path_rate == 0:
            return [None] * len(self.config.depths)
        blocks, batch = sum(self.config.depths), tokens.shape[0]
        part = part or BatchPart(0, batch)
        drawn = torch.rand(blocks, 2, part.total, device=tokens.device)[..., part.first : part.first + batch]
        kept = 1 - torch.linspace(0, self.config.drop_path_rate, blocks, device=tokens.device).view(-1, 1, 1)
        return ((drawn < kept) / kept).to(tokens.dtype).split(self.config.depths)


def as_maps(tokens: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tokens (B, D, H, W, C) -> maps (B, C*D, H, W), channels outer, time inner."""
    return [rearrange(each, "b d h w c -> b (c d) h w") for each in tokens]


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        init_by_fan_in(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build_encoder(config: EncoderConfig, normalization: dict[str, dict[str, list[float]]] | None = None) -> VideoSwin:
    """A freshly initialised encoder. `normalization` stays with its weights when they are saved."""
    return VideoSwin(config, normalization)


def map_sizes(config: EncoderConfig, frames: int, rows: int, cols: int) -> list[Size]:
    """Frames, rows and columns, in tokens, of the map that each of the encoder's stages gets, for pixels (frames, rows, cols)."""
    size = tuple(-(-n // p) for n, p in zip((frames, rows, cols), config.patch_size, strict=True))
    sizes = [size]
    for _ in config.depths[1:]:
        size = tuple(-(-n // 2) for n in size)
        sizes.append(size)
    return sizes  # type: ignore[return-value]
