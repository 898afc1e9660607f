"""Which training windows keep their labels in an experiment with few labels.

The subsets of different sizes are nested, spread over the scenes, and the same for every model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.task import IGNORE


def label_subset(
    scene_of: Sequence[int], labels: Sequence[np.ndarray], fraction: float, seed: int, target: int | None = None
) -> np.ndarray:
    """Indices of the windows that a fraction keeps, int64, ascending: round(fraction * N) of N windows, but at least one.

    Every fraction keeps the first windows of one order, which depends on `seed` only, so a smaller fraction is a subset of a
    larger one. The order is stratified by scene (systematic sampling, Madow and Madow 1944): a scene's n windows are put in
    random order, and window k gets the position (k + u) / n, with one u per scene drawn from [0, 1). So each scene gives its
    share of any fraction, within a window or two. Among scenes of equal size, each gives one window before any gives a second.

    The first window holds class `target` and another class if any window does, else the target alone if any window does,
    because a handful of windows without the class to be mapped would teach nothing. Without a target, the first window holds two
    classes if any window does. There is no further condition: rare classes may be missing, as they may be among a few labels
    that a person draws.

    Args:
        scene_of: the scene of each window.
        labels: class indices (H, W) of each window, `IGNORE` where not labelled.
        fraction: share of the windows, above 0 and at most 1.
        seed: seed of the order.
        target: index of the class that the task is about.

    Raises ValueError for a fraction out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--label_fraction is {fraction}; expected a share of the training windows above 0 and at most 1")
    # Training draws its order from the same seed; the spawn key makes this order independent of it.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    scenes = np.asarray(scene_of)
    position = np.empty(len(scenes))
    for scene in np.unique(scenes):
        windows = np.flatnonzero(scenes == scene)
        position[windows] = (rng.permutation(len(windows)) + rng.random()) / len(windows)
    order = np.argsort(position, kind="stable")
    usefulness = np.array([_usefulness(label, target) for label in labels])[order]
    first = int(np.argmax(usefulness))
    order = np.concatenate([order[first : first + 1], np.delete(order, first)])
    return np.sort(order[: max(1, round(fraction * len(order)))])


def _usefulness(label: np.ndarray, target: int | None) -> int:
    """How useful a window is as the only one: 2 with the target and another class, 1 with the target alone, else 0."""
    classes = np.unique(label[label != IGNORE])
    return (target is None or target in classes) * min(len(classes), 2)
