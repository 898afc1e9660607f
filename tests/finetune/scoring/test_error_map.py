"""Errors of a map, pixel by pixel, against the confusion matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune.mapping.cog import NO_DATA
from finetune.scoring.error_map import NOT_SCORED, error_map, outcomes
from finetune.scoring.metrics import confusion
from finetune.task import IGNORE, load_task

RICE, LULC = load_task("paddy_rice"), load_task("lulc")


def test_errors_of_a_target_are_those_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 2, (30, 40)).astype(np.int16), rng.integers(0, 2, (30, 40)).astype(np.uint8)
    label[:3], predicted[-2:] = IGNORE, NO_DATA
    found = error_map(RICE, label, predicted)
    (neither, false), (missed, hit) = confusion(label, predicted, 2)
    assert [outcome.name for outcome in outcomes(RICE)] == [
        "paddy rice found",
        "paddy rice missed",
        "false paddy rice",
        "not paddy rice",
    ]
    assert np.bincount(found.ravel(), minlength=256)[[0, 1, 2, 3, NOT_SCORED]].tolist() == [hit, missed, false, neither, 5 * 40]
    assert found.dtype == np.uint8
    assert (found[4:-2][(label == 1)[4:-2] & (predicted == 0)[4:-2]] == 1).all()


def test_without_a_target_a_pixel_is_right_or_wrong() -> None:
    task = replace(LULC, target=None)
    classes = len(task.classes)
    rng = np.random.default_rng(1)
    label, predicted = rng.integers(-1, classes, (20, 20)), rng.integers(0, classes, (20, 20))
    found, matrix = error_map(task, label, predicted), confusion(label, predicted, classes)
    assert [outcome.name for outcome in outcomes(task)] == ["right", "wrong"]
    assert [(found == number).sum() for number in (0, 1)] == [np.trace(matrix), matrix.sum() - np.trace(matrix)]


def test_a_target_among_many_classes_may_be_missed_for_any_of_them() -> None:
    task = replace(LULC, target=LULC.classes[2].name)
    label, predicted = np.array([[2, 2, 2, 0, 0, 1]]), np.array([[2, 0, 5, 2, 4, 1]])
    assert error_map(task, label, predicted).tolist() == [[0, 1, 1, 2, 3, 3]]
