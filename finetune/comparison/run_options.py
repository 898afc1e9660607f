"""Options that each run of a comparison passes to `finetune/run.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.command_line import rename_keys
from finetune.comparison.config import PRETRAINED_ENCODERS, CompareConfig
from finetune.config import RENAMED_OPTIONS
from finetune.model.initial_weights import fingerprint
from pretrain.model import load_encoder

GROUPS = frozenset(name.partition(".")[0] for name in RENAMED_OPTIONS.values())
# What is trained of an encoder that starts from the checkpoint.
_TUNING: dict[str, dict[str, Any]] = {
    "pretrained": {"tuning.mode": "full"},
    "frozen": {"tuning.mode": "frozen"},
    "linear_probe": {"tuning.mode": "frozen", "decoder.kind": "linear"},
    "lora": {"tuning.mode": "lora"},
}
# Options that the comparison sets itself.
OWN_OPTIONS = (
    "task", "data", "output", "encoder", "checkpoint", "tuning.mode", "decoder.kind", "label_fraction", "training.min_steps",
    "seed",
)  # fmt: skip


def dotted_options(options: Mapping[str, Any], warn: bool = False) -> dict[str, Any]:
    """Options of run.py, nested or flat, also with their old names, by their dotted names.

    {"epochs": 5, "decoder": {"channels": 8}} -> {"training.epochs": 5, "decoder.channels": 8}. `warn`: print one line for each
    old name. Raises ValueError when an option is given under both its names.
    """
    nested: dict[str, Any] = {}
    for name, value in options.items():
        group, dot, key = name.replace("-", "_").partition(".")
        if group not in GROUPS:
            nested[group + dot + key] = value
        else:
            nested.setdefault(group, {}).update({key: value} if dot else value)
    rename_keys(nested, RENAMED_OPTIONS, warn)
    result: dict[str, Any] = {}
    for name, value in nested.items():
        result |= {f"{name}.{key}": each for key, each in value.items()} if name in GROUPS else {name: value}
    return result


class RunOptions:
    """The options of each task and encoder.

    Attributes:
        weights: fingerprint of the checkpoint.

    Raises ValueError for an encoder without the checkpoint that it needs, and for options that the comparison sets itself.
    """

    def __init__(self, config: CompareConfig, tasks: Sequence[str]) -> None:
        pretrained = [encoder for encoder in config.encoders if encoder in PRETRAINED_ENCODERS]
        if pretrained and config.checkpoint is None:
            raise ValueError(f"--encoders {', '.join(pretrained)} need a --checkpoint")
        only = config.only or {}
        stray = sorted(set(only) - set(config.encoders) - set(tasks))
        if stray:
            raise ValueError(f"--only names {', '.join(stray)}; expected one of {', '.join([*config.encoders, *tasks])}")
        self._everywhere = dotted_options(config.run or {}, warn=True)
        self._only = {name: dotted_options(options, warn=True) for name, options in only.items()}
        own = sorted({name for options in (self._everywhere, *self._only.values()) for name in options} & set(OWN_OPTIONS))
        if own:
            raise ValueError(f"--run and --only must leave {', '.join(own)} to the comparison's own options")
        self.weights = fingerprint(config.checkpoint)
        self._checkpoint = config.checkpoint
        needs_shape = config.checkpoint and "scratch" in config.encoders
        self._shape = load_encoder(config.checkpoint).config.to_dict() if config.checkpoint and needs_shape else None

    def of(self, task: str, encoder: str) -> dict[str, Any]:
        """Options of run.py by dotted name. `--only` of an encoder overrides that of a task, which overrides `--run`."""
        model: dict[str, Any]
        if encoder == "scratch":
            model = {"encoder": self._shape}
        elif encoder in PRETRAINED_ENCODERS:
            model = {"checkpoint": str(self._checkpoint)} | _TUNING[encoder]
        else:
            model = {"encoder": encoder}
        return {"maps": False} | model | self._everywhere | self._only.get(task, {}) | self._only.get(encoder, {})
