"""Scores of maps over several scenes, with intervals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from finetune.scoring.bootstrap import with_intervals
from finetune.scoring.boundaries import boundary_counts, boundary_scores
from finetune.scoring.headline import headline
from finetune.scoring.metrics import confusion, scores
from finetune.scoring.objects import object_counts, object_scores
from finetune.task import Task

SMALLEST_OBJECT_PX = 4  # smaller objects are noise, in the map as well as in the label


class MapScores:
    """Scores of maps against labels.

    Counts are kept per scene, because the pixels of one scene are not independent samples.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._names = task, [c.name for c in task.classes]
        self._pixels: dict[str, np.ndarray] = {}
        self._boundaries: dict[str, np.ndarray] = {}
        self._objects: dict[str, np.ndarray] = {}

    def add(self, scene: str, label: np.ndarray, predicted: np.ndarray) -> None:
        """Count a scene or a part of it.

        Args:
            scene: name of the scene.
            label: class indices (H, W), `IGNORE` where not labelled.
            predicted: map uint8 (H, W), `NO_DATA` where there is none.
        """
        count, names, objects = len(self._names), self._names, self._task.objects
        _add(self._pixels, scene, confusion(label, predicted, count))
        _add(self._boundaries, scene, boundary_counts(label, predicted, count))
        if objects is not None:
            counts = object_counts(label, predicted, names.index(objects), count, minimum_px=SMALLEST_OBJECT_PX)
            _add(self._objects, scene, counts)

    def add_points(self, scene: str, label: np.ndarray, predicted: np.ndarray) -> None:
        """Count single pixels of a scene, as if `add` was called for each: they have no neighbours, so no boundaries.

        A single pixel is no object either, as it is smaller than `SMALLEST_OBJECT_PX`.

        Args:
            scene: name of the scene.
            label, predicted: class indices (n,), as for `add`.
        """
        count = len(self._names)
        nothing = np.zeros((1, 1), dtype=label.dtype) - 1
        _add(self._pixels, scene, confusion(label[:, None], predicted[:, None], count))
        _add(self._boundaries, scene, boundary_counts(nothing, nothing, count))
        if self._task.objects is not None:
            _add(self._objects, scene, object_counts(nothing, nothing, 0, count, minimum_px=SMALLEST_OBJECT_PX))

    def result(self) -> dict[str, Any]:
        """`metrics.scores` over all labelled pixels, with intervals over scenes (`bootstrap.with_intervals`).

        Also "scenes", the headline score of each scene; "scene_pixels", the counts of each scene from which F1 scores follow;
        "boundaries", scores of the boundaries of all classes; and "objects" if the task names a class whose objects are scored.
        """
        names, target = self._names, self._task.target
        result = with_intervals(list(self._pixels.values()), partial(scores, classes=names))
        result["scenes"] = {name: headline(scores(matrix, names), target)[1] for name, matrix in self._pixels.items()}
        result["scene_pixels"] = {name: pixel_counts(matrix) for name, matrix in self._pixels.items()}
        result["boundaries"] = with_intervals(list(self._boundaries.values()), partial(boundary_scores, classes=names))
        if self._task.objects is not None:
            result["objects"] = {self._task.objects: with_intervals(list(self._objects.values()), object_scores)}
        return result


def pixel_counts(matrix: np.ndarray) -> dict[str, list[int]]:
    """Pixels of each class that are mapped correctly, labelled and predicted, from a confusion matrix int (classes, classes)."""
    counts = {"correct": np.diag(matrix), "labelled": matrix.sum(axis=1), "predicted": matrix.sum(axis=0)}
    return {name: values.tolist() for name, values in counts.items()}


def _add(counts: dict[str, np.ndarray], scene: str, more: np.ndarray) -> None:
    counts[scene] = counts[scene] + more if scene in counts else more
