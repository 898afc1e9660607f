"""Where a map is right and where it is wrong, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.scoring.metrics import scored_pixels
from finetune.task import Task

NOT_SCORED = 255  # pixels without a label or without a prediction


@dataclass(frozen=True)
class Outcome:
    """One of the outcomes of a comparison of a pixel's label with its class in the map: its name and its colour, `#rrggbb`."""

    name: str
    color: str


# Colours of Okabe and Ito, which colour-blind people can tell apart.
_FOUND, _MISSED, _FALSE, _NEITHER = "#009e73", "#e69f00", "#cc79a7", "#efefea"
_RIGHT, _WRONG = "#dce9e2", "#d55e00"


def outcomes(task: Task) -> list[Outcome]:
    """The outcomes by number in an error map: with a target class its pixels found, missed and false; else right or wrong."""
    if task.target is None:
        return [Outcome("right", _RIGHT), Outcome("wrong", _WRONG)]
    target = task.target.replace("_", " ")
    named = [(f"{target} found", _FOUND), (f"{target} missed", _MISSED), (f"false {target}", _FALSE), (f"not {target}", _NEITHER)]
    return [Outcome(name, color) for name, color in named]


def error_map(task: Task, label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The number of each pixel's outcome, as `outcomes` orders them: uint8 (H, W), `NOT_SCORED` where it has none.

    `label` and `predicted` are class indices, integer (H, W). The pixels that have an outcome are those that are scored.
    """
    names = [c.name for c in task.classes]
    scored = scored_pixels(label, predicted, len(names))
    if task.target is None:
        found = (label != predicted).astype(np.uint8)
    else:
        target = names.index(task.target)
        labelled, mapped = label == target, predicted == target
        found = np.select([labelled & mapped, labelled, mapped], [0, 1, 2], default=3).astype(np.uint8)
    return np.where(scored, found, np.uint8(NOT_SCORED))
