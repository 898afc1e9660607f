"""Scores of maps over scenes: parts add up, and missing pixels do not count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from finetune.mapping.cog import NO_DATA
from finetune.scoring.map_scores import MapScores
from finetune.scoring.metrics import confusion
from finetune.task import IGNORE, load_task

TASK = replace(load_task("paddy_rice"), objects="paddy_rice")


def label_and_map(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 2, (6, 6)), np.ones((4, 4), int))
    predicted = np.where(rng.random(label.shape) < 0.1, 1 - label, label).astype(np.uint8)
    predicted[rng.random(label.shape) < 0.05] = NO_DATA
    label[rng.random(label.shape) < 0.05] = IGNORE
    return label.astype(np.int8), predicted


def test_confusion_of_a_map_is_that_of_scikit_learn() -> None:
    label, predicted = label_and_map(0)
    scored = (label != IGNORE) & (predicted != NO_DATA)
    expected = confusion_matrix(label[scored], predicted[scored], labels=[0, 1, 2])
    np.testing.assert_array_equal(confusion(label, predicted, 3), expected)


def test_scores_are_over_all_pixels_and_the_headline_is_by_scene() -> None:
    map_scores, maps = MapScores(TASK), {name: label_and_map(seed) for seed, name in enumerate("abc")}
    for name, (label, predicted) in maps.items():
        map_scores.add(name, label, predicted)
    found = map_scores.result()
    scored = {name: (label != IGNORE) & (predicted != NO_DATA) for name, (label, predicted) in maps.items()}
    labels, predictions = (np.concatenate([maps[name][part][scored[name]] for name in maps]) for part in (0, 1))
    assert found["classes"]["paddy_rice"]["f1"] == pytest.approx(f1_score(labels, predictions))
    assert found["scenes"] == {
        name: pytest.approx(f1_score(label[scored[name]], predicted[scored[name]])) for name, (label, predicted) in maps.items()
    }
    assert found["bootstrap"]["scenes"] == found["boundaries"]["bootstrap"]["scenes"] == 3
    assert found["objects"]["paddy_rice"]["labelled"] > 0


def test_parts_of_a_scene_add_up() -> None:
    label, predicted = label_and_map(1)
    whole, parts = MapScores(TASK), MapScores(TASK)
    whole.add("a", label, predicted)
    for rows in (np.s_[:12], np.s_[12:]):
        parts.add("a", label[rows], predicted[rows])
    assert parts.result()["confusion"] == whole.result()["confusion"]
    assert parts.result()["scenes"] == whole.result()["scenes"]


def test_points_count_as_maps_of_one_pixel() -> None:
    rng = np.random.default_rng(0)
    task = replace(load_task("field_boundary"), objects="interior")
    label, predicted = rng.integers(-1, 3, 60).astype(np.int16), rng.choice([0, 1, 2, 255], 60).astype(np.uint8)
    scene = rng.choice(["a", "b", "c"], 60)
    one_by_one, together = MapScores(task), MapScores(task)
    for name in "abc":
        together.add_points(name, label[scene == name], predicted[scene == name])
        for of_label, of_map in zip(label[scene == name], predicted[scene == name], strict=True):
            one_by_one.add(name, np.array([[of_label]]), np.array([[of_map]]))
    found, expected = together.result(), one_by_one.result()
    np.testing.assert_equal(found, expected)
