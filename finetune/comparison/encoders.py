"""Names of the encoders in a comparison: KIND, or KIND.CHECKPOINT where several checkpoints are compared."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

PRETRAINED_KINDS = ("pretrained", "frozen", "linear_probe", "lora")  # those that start from a checkpoint
BASELINES = ("unet", "temporal_cnn", "random_forest")
KINDS = (*PRETRAINED_KINDS, "scratch", *BASELINES)
FOREST = "random_forest"
_NAME = re.compile(r"[A-Za-z0-9_-]+")  # it becomes a part of folder names and of dotted names


def encoder_kind(encoder: str) -> str:
    """The kind of an encoder: "pretrained" for "pretrained.map"."""
    return encoder.partition(".")[0]


def checkpoint_name(encoder: str) -> str | None:
    """Name of the checkpoint that an encoder refers to: "map" for "pretrained.map"; None without one."""
    return encoder.partition(".")[2] or None


def compared_encoders(encoders: Sequence[str], checkpoints: Mapping[str, Any]) -> list[str]:
    """The encoders of a comparison: where there are named checkpoints, `pretrained` stands for each of them.

    So do frozen, linear_probe and lora; `pretrained.map` stands for one of them.

    Raises ValueError for an unknown kind or checkpoint, and for an encoder that is named twice.
    """
    for name in checkpoints:
        if not _NAME.fullmatch(name):
            raise ValueError(f"--checkpoints names {name!r}; expected letters, digits, - and _, as in {{map: runs/map}}")
    result: list[str] = []
    for encoder in encoders:
        kind, checkpoint = encoder_kind(encoder), checkpoint_name(encoder)
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, 1, 0.5)
            advice = f"did you mean {near[0]}?" if near else f"expected {', '.join(KINDS)}"
            raise ValueError(f"--encoders names {encoder}, which is unknown; {advice}")
        if checkpoint is None:
            named = kind in PRETRAINED_KINDS and checkpoints
            result += [f"{kind}.{name}" for name in checkpoints] if named else [encoder]
        elif kind in BASELINES or checkpoint not in checkpoints:
            known = ", ".join(checkpoints) or "none"
            raise ValueError(f"--encoders names {encoder}; only {', '.join(KINDS[:5])} have a checkpoint, and there are: {known}")
        else:
            result.append(encoder)
    if not result or len(set(result)) < len(result):
        raise ValueError(f"--encoders is {result}; expected at least one, each once")
    return result
