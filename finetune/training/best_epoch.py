"""Which epoch of a run is the best: a score of the validation windows by name, and its direction.

Where the class that a task is about lies in no validation window, no score of theirs knows how well it is found: they are best
where it is never mapped. Then the last epoch is kept, whose learning rate has come down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.scoring.metrics import OVER_CLASSES
from finetune.task import Task

OF_A_CLASS = ("f1", "iou", "precision", "recall")
LOWER_IS_BETTER = ("loss",)
LAST = "last"


@dataclass(frozen=True)
class Selection:
    """A score of `finetune.scoring.metrics.scores`, or the `loss`, by which epochs are compared.

    The direction belongs to the name and is no setting: a score that is minimised by mistake gives the worst epoch in silence.

    Attributes:
        name: one of `OVER_CLASSES`, a class and one of `OF_A_CLASS` as in `paddy_rice.f1`, `loss`; or `last`, which takes every
            epoch for better than those before.
    """

    name: str

    @property
    def shown(self) -> str:
        """Name of the score that stands for an epoch in the progress of a run."""
        return OVER_CLASSES[0] if self.name == LAST else self.name

    def value(self, found: dict[str, Any]) -> float:
        """The score among those of an epoch; NaN where it is not defined."""
        class_name, dot, score = self.shown.rpartition(".")
        return float(found["classes"][class_name][score] if dot else found[self.shown])

    def is_better(self, found: dict[str, Any], best: dict[str, Any]) -> bool:
        """Whether the scores `found` are better than `best`; any are than none, and a score that is not defined is the worst."""
        return not best or self.name == LAST or self._rank(found) > self._rank(best)

    def _rank(self, found: dict[str, Any]) -> float:
        value = self.value(found)
        if math.isnan(value):
            return -math.inf
        return -value if self.name in LOWER_IS_BETTER else value


def selection(name: str, task: Task) -> Selection:
    """The selection by score `name`. Raises ValueError that lists the valid names when it is none of the task's."""
    of_classes = [f"{c.name}.{score}" for c in task.classes for score in OF_A_CLASS]
    valid = [*OVER_CLASSES, *LOWER_IS_BETTER, LAST, *of_classes]
    if name not in valid:
        raise ValueError(f"--best is {name!r}, which is no score of task {task.name}; valid: {', '.join(valid)}")
    return Selection(name)


def selection_with(chosen: Selection, task: Task, pixels: np.ndarray) -> tuple[Selection, str]:
    """What can choose an epoch when the validation windows hold `pixels` int (classes,) of each class; and a note, "" for none.

    Without a pixel of the class that `chosen` names, or else of the task's target, that is `last`.
    """
    absent = [c.name for c, count in zip(task.classes, pixels, strict=True) if not count]
    about = chosen.name.rpartition(".")[0] or task.target
    if chosen.name == LAST or not absent:
        return chosen, ""
    if about in absent:
        return Selection(LAST), (
            f"no validation window holds {about}, so that no score of theirs can choose an epoch: the last one is kept; "
            f"move a scene with {about} into the split validation to have it chosen by {chosen.name}"
        )
    return chosen, (
        f"no validation window holds {', '.join(absent)}: how well they are found plays no part in the choice of the best epoch"
    )
