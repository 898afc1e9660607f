"""Options that each run of a comparison passes to `finetune/run.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.command_line import rename_keys
from common.hub import ModelPath
from finetune.comparison.config import CompareConfig
from finetune.comparison.encoders import PRETRAINED_KINDS, checkpoint_name, encoder_kind
from finetune.config import RENAMED_OPTIONS
from finetune.model.initial_weights import fingerprint
from pretrain.model import load_encoder
from pretrain.model.encoder_files import pinned_encoder

GROUPS = frozenset(name.partition(".")[0] for name in RENAMED_OPTIONS.values())
# What is trained of an encoder that starts from the checkpoint.
_TUNING: dict[str, dict[str, Any]] = {
    "pretrained": {"tuning.mode": "full"},
    "frozen": {"tuning.mode": "frozen"},
    "linear_probe": {"tuning.mode": "frozen", "decoder.kind": "linear"},
    "lora": {"tuning.mode": "lora"},
}
# Options that the comparison sets itself.
OWN_OPTIONS = ("task", "data", "output", "encoder", "checkpoint", "tuning.mode", "label_fraction", "training.min_steps", "seed")


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

    Raises ValueError for an encoder without the checkpoint that it needs, for `scratch` when checkpoints have several shapes, and
    for options that the comparison sets itself.
    """

    def __init__(self, config: CompareConfig, tasks: Sequence[str]) -> None:
        encoders = config.compared_encoders
        given: dict[str | None, ModelPath] = {None: config.checkpoint} if config.checkpoint else {}
        given |= [(name, path) for name, path in (config.checkpoints or {}).items()]
        # At the hub at one commit for all runs, whatever happens to the repository in the meantime.
        self._checkpoints = {name: pinned_encoder(path) for name, path in given.items()}
        lacking = [e for e in encoders if encoder_kind(e) in PRETRAINED_KINDS and checkpoint_name(e) not in self._checkpoints]
        if lacking:
            raise ValueError(f"--encoders {', '.join(lacking)} need a --checkpoint")
        only = config.only or {}
        known = [*dict.fromkeys([*encoders, *map(encoder_kind, encoders), *tasks, *map(in_percent, config.label_fraction)])]
        stray = sorted(set(only) - set(known))
        if stray:
            raise ValueError(f"--only names {', '.join(stray)}; expected one of {', '.join(known)}")
        self._everywhere = dotted_options(config.run or {}, warn=True)
        self._only = {name: dotted_options(options, warn=True) for name, options in only.items()}
        own = sorted({name for options in (self._everywhere, *self._only.values()) for name in options} & set(OWN_OPTIONS))
        if own:
            raise ValueError(f"--run and --only must leave {', '.join(own)} to the comparison's own options")
        self._fingerprints = {name: fingerprint(path) for name, path in self._checkpoints.items()}
        from_scratch = [encoder for encoder in encoders if encoder_kind(encoder) == "scratch"]
        self._shapes = {encoder: self._shape_of(encoder) for encoder in from_scratch}

    def _shape_of(self, encoder: str) -> dict[str, Any] | None:
        """Shape of an encoder with random weights: that of its checkpoint, or of all; None without a checkpoint."""
        name = checkpoint_name(encoder)
        paths = [self._checkpoints[name]] if name else list(self._checkpoints.values())
        shapes = [load_encoder(path).config.to_dict() for path in paths]
        if any(shape != shapes[0] for shape in shapes):
            choices = " or ".join(f"{encoder}.{checkpoint}" for checkpoint in self._checkpoints)
            raise ValueError(f"--encoders {encoder}: the checkpoints have different shapes; say which one: {choices}")
        return shapes[0] if shapes else None

    def weights(self, encoder: str) -> str | None:
        """Fingerprint of the checkpoint that an encoder starts from; None without one."""
        return self._fingerprints[checkpoint_name(encoder)] if encoder_kind(encoder) in PRETRAINED_KINDS else None

    def of(self, task: str, encoder: str, label_fraction: float) -> dict[str, Any]:
        """Options of run.py by dotted name.

        `--only` of an encoder overrides that of its kind, that of a task, that of a share of the labels, and `--run`, in this
        order.
        """
        kind = encoder_kind(encoder)
        model: dict[str, Any]
        if kind == "scratch":
            model = {"encoder": self._shapes[encoder]}
        elif kind in PRETRAINED_KINDS:
            model = {"checkpoint": str(self._checkpoints[checkpoint_name(encoder)])} | _TUNING[kind]
        else:
            model = {"encoder": encoder}
        options = {"maps": False} | model | self._everywhere
        for name in (in_percent(label_fraction), task, kind, encoder):
            options |= self._only.get(name, {})
        return options | _TUNING[kind] if kind in PRETRAINED_KINDS else options


def in_percent(label_fraction: float) -> str:
    """The name of a share of the labels in `--only`: 0.05 -> "5%"."""
    return f"{100 * label_fraction:g}%"
