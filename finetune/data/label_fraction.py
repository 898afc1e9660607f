"""Which training windows have labels when only a share of them may: nested, spread over scenes, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.task import IGNORE


def label_subset(
    scene_of: Sequence[int], labels: Sequence[np.ndarray], fraction: float, seed: int, target: int | None = None
) -> np.ndarray:
    """Indices int64 of the windows that a fraction of the labels leaves, ascending: round(fraction * N) of N, at least one.

    All fractions take a beginning of one order, which follows from `seed` alone: the windows of a smaller fraction are among
    those of a larger one. The order is stratified by scene (systematic sampling, Madow and Madow 1944): the k-th of a scene's n
    windows, in random order, lies at (k + u) / n with one u a scene, drawn from [0, 1). So a scene gives its share of any
    fraction, give or take a window or two, and of scenes of equal size each gives one before any gives another.

    The window that comes first holds class `target` beside another class if any window does, else the target if any does: a
    handful of windows without the class to be mapped teaches nothing. Without a target it holds two classes if any does. Nothing
    more is asked of the choice: rare classes may be missing from it, as they would be from few labels made by hand.

    Args:
        scene_of: the scene of each window.
        labels: class indices (H, W) of each window, `IGNORE` where not labelled.
        fraction: share of the windows, above 0 and at most 1.
        seed: of the order.
        target: index of the class that the task is about.

    Raises ValueError for a fraction out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--label_fraction is {fraction}; expected a share of the training windows above 0 and at most 1")
    # A branch of the seed of its own: the order of training, which has the same seed, is drawn independently.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    scenes = np.asarray(scene_of)
    position = np.empty(len(scenes))
    for scene in np.unique(scenes):
        windows = np.flatnonzero(scenes == scene)
        position[windows] = (rng.permutation(len(windows)) + rng.random()) / len(windows)
    order = np.argsort(position, kind="stable")
    telling = np.array([_telling(label, target) for label in labels])[order]
    first = int(np.argmax(telling))
    order = np.concatenate([order[first : first + 1], np.delete(order, first)])
    return np.sort(order[: max(1, round(fraction * len(order)))])


def _telling(label: np.ndarray, target: int | None) -> int:
    """How well a window serves as the only one: 2 with the target and another class, 1 with the target alone, else 0."""
    classes = np.unique(label[label != IGNORE])
    return (target is None or target in classes) * min(len(classes), 2)
