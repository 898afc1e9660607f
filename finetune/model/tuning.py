"""What of a pretrained encoder is trained in fine-tuning: all of it, nothing, or low-rank adapters (LoRA)."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from finetune.model.crop_mapper import CropMapper
from pretrain.model import EncoderConfig

Mode = Literal["full", "frozen", "lora"]
# All linear layers of a block: Dettmers et al. (2023, arXiv 2305.14314, figure 2) needed them all to match full fine-tuning.
LORA_LAYERS = ["qkv", "proj", "fc1", "fc2"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What of the encoder is trained, and how fast; the decoder is always trained in full.

    Attributes:
        mode: `full`; `frozen`, where the encoder gives features as in evaluation, without stochastic depth; or `lora`, where a
            product of two low-rank matrices is added to each linear layer of the encoder's blocks and learns (Hu et al. 2021,
            arXiv 2106.09685), while the encoder's own weights stay frozen.
        layer_decay: learning rate of each layer of the encoder as a factor of that of the layer above it. The decoder has the
            full rate, the patch embedding the lowest (ELECTRA, Clark et al. 2020; BEiT, Bao et al. 2021); 1 is one rate for all.
            With 24 blocks 0.75 gives the patch embedding 0.0008 of the full rate, 0.9 a fourteenth.
        lora_rank: rank of the LoRA matrices; the factor alpha is twice the rank, so that their product is scaled by 2.

    Raises ValueError for values out of range, and for `lora` without the package `peft`.
    """

    mode: Mode = "full"
    layer_decay: float = 1.0
    lora_rank: int = 8

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"--tuning.mode is {self.mode!r}; expected one of {', '.join(get_args(Mode))}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--tuning.layer_decay is {self.layer_decay}; expected a factor above 0 and at most 1")
        if self.lora_rank < 1:
            raise ValueError(f"--tuning.lora_rank is {self.lora_rank}; expected at least 1")
        if self.mode == "frozen" and self.layer_decay < 1:
            raise ValueError(
                f"--tuning.layer_decay {self.layer_decay} has no effect with --tuning.mode frozen: no layer of the encoder learns"
            )
        if self.mode == "lora" and importlib.util.find_spec("peft") is None:
            raise ValueError("--tuning.mode lora needs the package peft: pip install '.[lora]'")


def apply_tuning(model: nn.Module, tuning: Tuning) -> None:
    """Freeze the encoder in place as `tuning` says; with `lora` add the adapters, which have no effect before they have learned.

    A baseline is always trained in full.
    """
    if tuning.mode == "full":
        return
    assert isinstance(model, CropMapper), "a baseline has no encoder to freeze"
    model.freeze_encoder(in_evaluation_mode=tuning.mode == "frozen")
    if tuning.mode == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        rank = tuning.lora_rank
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_LAYERS)
        inject_adapter_in_model(config, model.encoder)


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights with the LoRA adapters merged into them, under the names of a model without LoRA.

    Without LoRA, these are the weights of `model.state_dict()`. The model itself does not change and can be trained further.
    """
    weights = {name.replace(".base_layer.", "."): w for name, w in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):  # a LoRA layer; no isinstance, because peft may not be installed
            for adapter in module.active_adapters:
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(adapter).detach()
    return weights


def parameter_groups(model: nn.Module, layer_decay: float) -> list[dict[str, object]]:
    """The trainable weights as groups for an optimizer, one for each rate; `scale` is the factor of the learning rate.

    The encoder's layers are its patch embeddings, each of its blocks, and the final norm; the merging after a stage belongs to
    the stage's last block. The decoder and a baseline have the full rate.
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
