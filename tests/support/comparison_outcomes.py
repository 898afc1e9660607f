"""Results of a made-up comparison, and the tables of its document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from finetune.comparison.seed_statistics import Outcome

TRAINING = {"windows": 3, "of_windows": 60, "pixels": {"a": 1000, "b": 234}, "steps": 200}


def outcomes(scores: dict[tuple[str, float], list[float | None]], task: str = "cropland") -> list[Outcome]:
    """One outcome a score and seed; None has failed."""
    found = []
    for (encoder, fraction), values in scores.items():
        for seed, value in enumerate(values):
            metrics = {"score": {"name": "cropland F1", "value": value}, "training": dict(TRAINING)}
            done: dict[str, Any] = {"error": "disk full"} if value is None else {"metrics": metrics, "seconds": 1.0}
            found.append(Outcome(task=task, title=task.title(), encoder=encoder, label_fraction=fraction, seed=seed, **done))
    return found


def simulated_outcomes(scores: dict[tuple[str, float], list[float | None]], task: str = "cropland") -> list[Outcome]:
    """The same outcomes, of runs that say that their scenes are simulated."""
    found = outcomes(scores, task)
    return [replace(one, metrics=one.metrics and {**one.metrics, "simulated": ["delta"]}) for one in found]


PRETRAINED, SCRATCH = np.array([0.81, 0.84, 0.86]), np.array([0.79, 0.83, 0.80])
SCORES: dict[tuple[str, float], list[float | None]] = {
    ("pretrained", 1.0): PRETRAINED.tolist(),
    ("pretrained", 0.05): [0.5, None, 0.6],
    ("scratch", 1.0): SCRATCH.tolist(),
    ("scratch", 0.05): [None, None, None],
    ("unet", 1.0): [0.9, 0.9, 0.9],
    ("unet", 0.05): [0.4, 0.7, 0.3],
}


def rows_of(document: str) -> dict[str, list[str]]:
    """Cells of all tables by the first one; a later row replaces an earlier one of the same name."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in document.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines}
