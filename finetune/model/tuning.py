"""What of a pretrained encoder is trained in fine-tuning: all of it, nothing, or low-rank adapters (LoRA)."""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from finetune.model.crop_mapper import CropMapper
from pretrain.model import EncoderConfig
from pretrain.model.weight_decay import has_weight_decay

Mode = Literal["full", "frozen", "lora"]
# All linear layers of a block: Dettmers et al. (2023, arXiv 2305.14314, figure 2) needed them all to match full fine-tuning.
LORA_LAYERS = ["qkv", "proj", "fc1", "fc2"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates of the parts of a model, as factors of the schedule's `learning_rate`, which the head and baselines have.

    Attributes:
        encoder: of the last layer of the encoder.
        decoder: of the decoder without its head.
        layer_decay: of each layer of the encoder as a factor of that of the layer above it.
    """

    encoder: float = 1.0
    decoder: float = 1.0
    layer_decay: float = 1.0


# What `Tuning.rates` gives where the user says nothing: with a checkpoint, and without.
RATES_WITH_CHECKPOINT = Rates(encoder=1.0, decoder=1.0)
RATES_FROM_SCRATCH = Rates(encoder=1.0, decoder=1.0)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What of the encoder is trained, and how fast each part learns; the decoder is always trained in full.

    Attributes:
        mode: `full`; `frozen`, where the encoder gives features as in evaluation, without stochastic depth; or `lora`, where a
            product of two low-rank matrices is added to each linear layer of the encoder's blocks and learns (Hu et al. 2021,
            arXiv 2106.09685), while the encoder's own weights stay frozen.
        encoder_rate: learning rate of the encoder, or of its LoRA matrices, as a factor of `training.learning_rate`; null is the
            default for runs with a checkpoint (RATES_WITH_CHECKPOINT in finetune/model/tuning.py), and 1 without one.
        decoder_rate: the same of the decoder without its head; the head, which knows the task's classes only, has the full rate.
        layer_decay: learning rate of each layer of the encoder as a factor of that of the layer above it. The last layer has
            `encoder_rate`, the patch embedding the lowest (ELECTRA, Clark et al. 2020; BEiT, Bao et al. 2021); 1 is one rate for
            all. With 24 blocks 0.75 gives the patch embedding 0.0008 of the encoder's rate, 0.9 a fourteenth.
        lora_rank: rank of the LoRA matrices; the factor alpha is twice the rank, so that their product is scaled by 2.

    Raises ValueError for values out of range, and for `lora` without the package `peft`.
    """

    mode: Mode = "full"
    encoder_rate: float | None = None
    decoder_rate: float | None = None
    layer_decay: float = 1.0
    lora_rank: int = 8

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"--tuning.mode is {self.mode!r}; expected one of {', '.join(get_args(Mode))}")
        for name in ("encoder_rate", "decoder_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(
                    f"--tuning.{name} is {rate}; expected a factor of --training.learning_rate above 0; "
                    "--tuning.mode frozen stops the encoder from learning"
                )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--tuning.layer_decay is {self.layer_decay}; expected a factor above 0 and at most 1")
        if self.lora_rank < 1:
            raise ValueError(f"--tuning.lora_rank is {self.lora_rank}; expected at least 1")
        without_effect = {"layer_decay": self.layer_decay, "encoder_rate": self.encoder_rate}
        for name, value in without_effect.items():
            if self.mode == "frozen" and value not in (None, 1):
                raise ValueError(
                    f"--tuning.{name} {value} has no effect with --tuning.mode frozen: no layer of the encoder learns"
                )
        if self.mode == "lora" and importlib.util.find_spec("peft") is None:
            raise ValueError("--tuning.mode lora needs the package peft: pip install '.[lora]'")

    def rates(self, *, has_checkpoint: bool) -> Rates:
        """The learning rates of a run with or without a checkpoint."""
        default = RATES_WITH_CHECKPOINT if has_checkpoint else RATES_FROM_SCRATCH
        return Rates(
            encoder=default.encoder if self.encoder_rate is None else self.encoder_rate,
            decoder=default.decoder if self.decoder_rate is None else self.decoder_rate,
            layer_decay=self.layer_decay,
        )


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


def parameter_groups(model: nn.Module, rates: Rates, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable weights as groups for an optimizer, one for each rate and each weight decay.

    `scale` of a group is the factor of the learning rate; `weight_decay` is as given, or 0 (`has_weight_decay`). The encoder's
    layers are its patch embeddings, each of its blocks, and the final norm; the merging after a stage belongs to the stage's last
    block. The head of the decoder and a baseline have the full rate.
    """
    groups = defaultdict(list)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            scale = _rate_of(name, model.encoder.config, rates) if isinstance(model, CropMapper) else 1.0
            groups[scale, weight_decay if has_weight_decay(name, weight) else 0.0].append(weight)
    return [
        {"params": weights, "scale": scale, "weight_decay": decay}
        for (scale, decay), weights in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def _rate_of(name: str, config: EncoderConfig, rates: Rates) -> float:
    """Learning rate of the weight `name` of a CropMapper, as a factor."""
    match name.split("."):
        case ["decoder", "head" | "norm", *_]:  # `norm` is that of LinearDecoder, which is a head alone
            return 1.0
        case ["decoder", *_]:
            return rates.decoder
        case ["encoder", "patch_embeds", *_]:
            above = sum(config.depths) + 1
        case ["encoder", "stages", stage, "blocks", block, *_]:
            above = sum(config.depths[int(stage) :]) - int(block)
        case ["encoder", "stages", stage, "merging", *_]:
            above = sum(config.depths[int(stage) + 1 :]) + 1
        case ["encoder", "norm", *_]:
            above = 0
        case _:
            raise AssertionError(f"{name} belongs to no layer")
    return float(rates.encoder * rates.layer_decay**above)
