"""Whether a training had converged: whether its last third still improved the score of the validation windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EARLY_SHARE = 2 / 3
LEAST_GAIN = 0.01
LEAST_EPOCHS = 3
CRITERION = (
    "A training counts as converged when the best mean F1 of the validation windows in the first two thirds of its epochs is "
    "within 1 point of the best in all epochs."
)


def has_converged(history: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether the best mean F1 up to two thirds of the epochs is within 1 point of the best of all epochs.

    `history`: the validation scores of each epoch, as in metrics.json. The result is None for fewer than three epochs, without a
    score that is defined, and so for a random forest, which has no epochs.
    """
    scores = [-1.0 if epoch["mean_f1"] is None else float(epoch["mean_f1"]) for epoch in history]
    if len(scores) < LEAST_EPOCHS or max(scores) < 0:
        return None
    early = scores[: round(EARLY_SHARE * len(scores))]
    return max(scores) - max(early) <= LEAST_GAIN
