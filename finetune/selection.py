"""Which epoch of a run is the best: a score of the validation windows by name, and its direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from finetune.task import Task

OVER_CLASSES = ("mean_f1", "mean_iou", "overall_accuracy", "kappa")
OF_A_CLASS = ("f1", "iou", "precision", "recall")
LOWER_IS_BETTER = ("loss",)


@dataclass(frozen=True)
class Selection:
    """A score of `finetune.metrics.scores`, or the `loss`, by which epochs are compared.

    The direction belongs to the name and is no setting: a score that is minimised by mistake gives the worst epoch in silence.

    Attributes:
        name: one of `OVER_CLASSES`, a class and one of `OF_A_CLASS` as in `paddy_rice.f1`, or `loss`.
    """

    name: str

    def value(self, found: dict[str, Any]) -> float:
        """The score among those of an epoch; NaN where it is not defined."""
        class_name, dot, score = self.name.rpartition(".")
        return float(found["classes"][class_name][score] if dot else found[self.name])

    def is_better(self, found: dict[str, Any], best: dict[str, Any]) -> bool:
        """Whether the scores `found` are better than `best`; any are than none, and a score that is not defined is the worst."""
        return not best or self._rank(found) > self._rank(best)

    def _rank(self, found: dict[str, Any]) -> float:
        value = self.value(found)
        if math.isnan(value):
            return -math.inf
        return -value if self.name in LOWER_IS_BETTER else value


def selection(name: str, task: Task) -> Selection:
    """The selection by score `name`. Raises ValueError that lists the valid names when it is none of the task's."""
    of_classes = [f"{c.name}.{score}" for c in task.classes for score in OF_A_CLASS]
    valid = [*OVER_CLASSES, *LOWER_IS_BETTER, *of_classes]
    if name not in valid:
        raise ValueError(f"--best is {name!r}, which is no score of task {task.name}; valid: {', '.join(valid)}")
    return Selection(name)
