"""How much of a pretrained encoder learns in fine-tuning: all of it, nothing, or low-rank changes of its weights."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from finetune.model.crop_mapper import CropMapper
from pretrain.model import EncoderConfig

Mode = Literal["full", "frozen", "lora"]
# All linear layers of a block: Dettmers et al. (2023, arXiv 2305.14314, figure 2) needed them all to match full fine-tuning.
LORA_LAYERS = ["qkv", "proj", "fc1", "fc2"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What of the encoder learns, and how fast; the decoder always learns in full.

    Attributes:
        mode: `full`; `frozen`, the encoder gives features as it would in use, without stochastic depth; or `lora`, the encoder's
            weights stay and a product of two thin matrices is added to each linear layer of its blocks (Hu et al. 2021,
            arXiv 2106.09685), with all else of it frozen.
        layer_decay: each layer of the encoder learns so many times as fast as the one above it, the decoder at the full rate and
            the patch embedding slowest (ELECTRA, Clark et al. 2020; BEiT, Bao et al. 2021). 1 is the same rate for all. With
            24 blocks 0.75 leaves the patch embedding 0.0008 of the rate, 0.9 a fourteenth.
        lora_rank: columns of the thin matrices; their product counts twofold, whatever the rank (alpha = 2 rank).

    Raises ValueError for values out of range, and for `lora` without the package `peft`.
    """

    mode: Mode = "full"
    layer_decay: float = 1.0
    lora_rank: int = 8

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"--tune is {self.mode!r}; expected one of {', '.join(get_args(Mode))}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer_decay is {self.layer_decay}; expected a factor above 0 and at most 1")
        if self.lora_rank < 1:
            raise ValueError(f"--lora_rank is {self.lora_rank}; expected at least 1")
        if self.mode == "frozen" and self.layer_decay < 1:
            raise ValueError(f"--layer_decay {self.layer_decay} has no effect with --tune frozen: no layer of the encoder learns")
        if self.mode == "lora" and importlib.util.find_spec("peft") is None:
            raise ValueError("--tune lora needs the package peft: pip install '.[lora]'")


def prepare(model: nn.Module, tuning: Tuning) -> None:
    """Freeze what shall not learn, in place; with `lora` add the adapters, which change nothing before they have learned.

    A baseline always learns in full.
    """
    if tuning.mode == "full":
        return
    assert isinstance(model, CropMapper), "a baseline has no encoder to spare"
    model.encoder.requires_grad_(False)
    model.freeze_encoder = tuning.mode == "frozen"
    if tuning.mode == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        rank = tuning.lora_rank
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_LAYERS)
        inject_adapter_in_model(config, model.encoder)


def parameter_groups(model: nn.Module, layer_decay: float) -> list[dict[str, object]]:
    """The weights that learn, for an optimizer: one group for each rate, `scale` is its share of the learning rate.

    Layers of the encoder are its patch embeddings, each of its blocks, and all above; the merging after a stage counts to the
    stage's last block. The decoder and a baseline learn at the full rate.
    """
    groups = defaultdict(list)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            above = _layers_above(name, model.encoder.config) if isinstance(model, CropMapper) else 0
            groups[layer_decay**above].append(weight)
    return [{"params": weights, "scale": scale} for scale, weights in sorted(groups.items(), reverse=True)]


def _layers_above(name: str, config: EncoderConfig) -> int:
    """Layers of the encoder above the one that weight `name` belongs to; 0 for the final norm and the decoder."""
    match name.split("."):
        case ["encoder", "patch_embeds", *_]:
            return sum(config.depths) + 1
        case ["encoder", "stages", stage, "blocks", block, *_]:
            return sum(config.depths[int(stage) :]) - int(block)
        case ["encoder", "stages", stage, "merging", *_]:
            return sum(config.depths[int(stage) + 1 :]) + 1
        case ["encoder", "norm", *_] | ["decoder", *_]:
            return 0
    raise AssertionError(f"{name} belongs to no layer")
