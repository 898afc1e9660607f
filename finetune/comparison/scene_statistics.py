"""How a difference between two encoders would vary with other test scenes: a paired bootstrap over scenes.

Each draw takes as many test scenes as there are, with replacement, and the same ones for both encoders and all seeds. The score
of a run is computed from the pixels of the drawn scenes together, as the headline score is from those of all scenes; the
difference is averaged over the seeds. `finetune/scoring/bootstrap.py` says how far few scenes can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.scoring.bootstrap import percentiles, sums_of_draws

COUNTS = ("correct", "labelled", "predicted")
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class SceneCounts:
    """Pixels of each test scene in one run.

    Attributes:
        scenes: names of the scenes.
        pixels: int64 (scenes, 3, classes): pixels that are mapped correctly, labelled, predicted.
        target: index of the class whose F1 is the headline score; None for the mean over classes.
    """

    scenes: tuple[str, ...]
    pixels: np.ndarray
    target: int | None


def scene_counts(metrics: dict[str, Any]) -> SceneCounts | None:
    """The counts in the metrics.json of a run; None for runs of versions that did not keep them."""
    scenes = metrics.get("test", {}).get("scene_pixels")
    if not scenes:
        return None
    target = metrics["score"]["class"]
    return SceneCounts(
        scenes=tuple(scenes),
        pixels=np.array([[scene[name] for name in COUNTS] for scene in scenes.values()], dtype=np.int64),
        target=None if target is None else list(metrics["test"]["classes"]).index(target),
    )


def f1_scores(pixels: np.ndarray, target: int | None) -> np.ndarray:
    """F1 of class `target`, or mean F1, float64 (...), from pixel counts (..., 3, classes); NaN where it is not defined.

    The mean leaves out classes that are neither labelled nor predicted, as `finetune.scoring.metrics.scores` does.
    """
    correct, labelled, predicted = np.moveaxis(pixels.astype(np.float64), -2, 0)
    present = labelled + predicted > 0
    f1 = np.divide(2 * correct, labelled + predicted, out=np.full(correct.shape, np.nan), where=present)
    if target is not None:
        return f1[..., target]
    number = present.sum(axis=-1)
    return np.divide(np.nansum(f1, axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0)


def interval_over_scenes(
    pairs: Sequence[tuple[SceneCounts | None, SceneCounts | None]], level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of the difference between two encoders over test scenes.

    Args:
        pairs: for each seed the counts of the reference and of the other encoder.
        level: share of the draws within the interval.
        resamples: number of draws.

    The result is None without pairs, with a single scene, and when runs have different scenes or no counts.
    """
    runs = [run for pair in pairs for run in pair]
    if not runs or runs[0] is None or any(run is None or run.scenes != runs[0].scenes for run in runs):
        return None
    known = [run for run in runs if run is not None]
    if len(known[0].scenes) < 2:
        return None
    scores = np.stack([f1_scores(sums_of_draws(run.pixels, resamples), run.target) for run in known])  # (runs, draws)
    low, high = percentiles((scores[::2] - scores[1::2]).mean(axis=0), level).tolist()
    return low, high
