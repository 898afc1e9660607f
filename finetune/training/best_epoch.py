"""The best epoch of a run: the criterion by which epochs are compared on the validation windows.

When no validation window holds the class that a task is about, every score is highest for a map without that class. Then the
last epoch is kept, because the learning rate has decayed by then.
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
class BestEpochCriterion:
    """A score of the validation windows, by which epochs are compared.

    The direction belongs to the name and is not an option: a score minimised by mistake would silently keep the worst epoch.

    Attributes:
        name: one of `OVER_CLASSES`; a class and one of `OF_A_CLASS`, as in `paddy_rice.f1`; `loss`; or `last`,
            by which every epoch is better than those before.
    """

    name: str

    @property
    def shown_score(self) -> str:
        """Name of the score that the progress bar shows."""
        return OVER_CLASSES[0] if self.name == LAST else self.name

    def value(self, scores: dict[str, Any]) -> float:
        """The shown score among the `scores` of an epoch; NaN where it is not defined."""
        class_name, dot, score = self.shown_score.rpartition(".")
        return float(scores["classes"][class_name][score] if dot else scores[self.shown_score])

    def is_better(self, scores: dict[str, Any], best: dict[str, Any]) -> bool:
        """True when `scores` are better than `best`. Any scores are better than an empty `best`; an undefined score is worst."""
        return not best or self.name == LAST or self._rank(scores) > self._rank(best)

    def _rank(self, scores: dict[str, Any]) -> float:
        value = self.value(scores)
        if math.isnan(value):
            return -math.inf
        return -value if self.name in LOWER_IS_BETTER else value


def best_epoch_criterion(name: str, task: Task) -> BestEpochCriterion:
    """The criterion `name`. Raises ValueError that lists the valid names when the task has no such score."""
    of_classes = [f"{c.name}.{score}" for c in task.classes for score in OF_A_CLASS]
    valid = [*OVER_CLASSES, *LOWER_IS_BETTER, LAST, *of_classes]
    if name not in valid:
        raise ValueError(f"--best is {name!r}, which is not a score of task {task.name}; valid: {', '.join(valid)}")
    return BestEpochCriterion(name)


def usable_criterion(criterion: BestEpochCriterion, task: Task, pixels: np.ndarray) -> tuple[BestEpochCriterion, str]:
    """The criterion that the validation windows allow, and a note for the user, "" when there is nothing to say.

    It is `last` when the windows have no pixel of the class that `criterion` names, or else of the task's target class.

    Args:
        criterion: the criterion that the user chose.
        task: the task.
        pixels: labelled pixels of each class in the validation windows, int (classes,).
    """
    absent = [c.name for c, count in zip(task.classes, pixels, strict=True) if not count]
    needed = criterion.name.rpartition(".")[0] or task.target
    if criterion.name == LAST or not absent:
        return criterion, ""
    if needed in absent:
        return BestEpochCriterion(LAST), (
            f"no validation window holds {needed}, so that no score of theirs can choose an epoch: the last one is kept; "
            f"move a scene with {needed} into the split validation to have it chosen by {criterion.name}"
        )
    return criterion, (
        f"no validation window holds {', '.join(absent)}: how well they are found plays no part in the choice of the best epoch"
    )
