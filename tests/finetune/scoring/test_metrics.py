"""Pixel scores against scikit-learn on random maps that lack classes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
)
from sklearn.metrics import f1_score as sk_f1
from sklearn.metrics import jaccard_score as sk_iou

from finetune.scoring.headline import headline
from finetune.scoring.metrics import confusion, scored_pixels, scores
from finetune.task import IGNORE

NAMES = [f"c{i}" for i in range(6)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("seed", range(20))
def test_means_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Some classes are never labelled, others never predicted, some neither.
    labelled, predicted = (rng.choice(6, rng.integers(2, 6), replace=False) for _ in range(2))
    y, p = rng.choice(labelled, 300), rng.choice(predicted, 300)
    y = np.where(rng.random(300) < 0.3, p, y)
    found = scores(confusion_matrix(y, p, labels=range(6)), NAMES)
    # scikit-learn's means over the classes that occur, which is what leaving out undefined ones means.
    either, known, mapped = np.union1d(y, p), np.unique(y), np.unique(p)
    for name, score, classes in (
        ("mean_f1", sk_f1, either),
        ("mean_iou", sk_iou, either),
        ("mean_precision", precision_score, mapped),
        ("mean_recall", recall_score, known),
    ):
        assert found[name] == pytest.approx(score(y, p, labels=classes, average="macro")), name
    assert found["kappa"] == pytest.approx(cohen_kappa_score(y, p))


def test_one_class_everywhere_has_no_kappa() -> None:
    found = scores(np.array([[7, 0], [0, 0]]), ["a", "b"])
    assert math.isnan(found["kappa"])
    assert (found["overall_accuracy"], found["mean_f1"]) == (1, 1)
    assert math.isnan(found["classes"]["b"]["f1"])


def test_a_class_never_hit_counts_as_zero() -> None:
    found = scores(np.array([[8, 0], [2, 0]]), ["a", "b"])
    assert found["classes"]["b"]["f1"] == 0
    assert math.isnan(found["classes"]["b"]["precision"])
    assert found["mean_f1"] == pytest.approx(8 / 9 / 2)
    assert found["mean_precision"] == 0.8
    assert found["mean_recall"] == 0.5


def test_only_pixels_with_a_class_in_both_are_scored() -> None:
    label = np.array([[IGNORE, 0, 1, 2]])
    predicted = np.array([[0, 255, 1, 1]], dtype=np.uint8)
    assert scored_pixels(label, predicted, 2).tolist() == [[False, False, True, False]]
    with pytest.raises(ValueError, match=r"label has shape \(1, 4\) and prediction \(1, 3\); expected two maps"):
        scored_pixels(label, predicted[:, :3], 2)


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 5
    # Class 4 is never labelled, class 3 never predicted; in the last case class 2 is neither.
    label = rng.choice([IGNORE, 0, 1, 2, 3], 500)
    predicted = rng.choice([0, 1, 2, 4], 500)
    if seed == 5:
        label, predicted = np.where(label == 2, 1, label), np.where(predicted == 2, 0, predicted)
    batches = (maps.reshape(2, 50, 5) for maps in (label, predicted))
    matrix = sum(confusion(of_label, of_map, classes) for of_label, of_map in zip(*batches, strict=True))
    found = scores(matrix, [f"c{i}" for i in range(classes)])

    known = label != IGNORE
    y, p, all_classes = label[known], predicted[known], np.arange(classes)
    np.testing.assert_array_equal(found["confusion"], confusion_matrix(y, p, labels=all_classes))
    precision, recall, f1, pixels = precision_recall_fscore_support(y, p, labels=all_classes, zero_division=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        iou = sk_iou(y, p, labels=all_classes, average=None)
    iou[np.isnan(f1)] = np.nan  # scikit-learn has 0 for a class that is nowhere
    got = {name: [found["classes"][f"c{i}"][name] for i in range(classes)] for name in ("precision", "recall", "f1", "iou")}
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("iou", iou)):
        np.testing.assert_allclose(got[name], expected, err_msg=name)
    accuracy = [accuracy_score(y == i, p == i) for i in range(classes)]
    np.testing.assert_allclose([found["classes"][f"c{i}"]["accuracy"] for i in range(classes)], accuracy)
    assert [found["classes"][f"c{i}"]["pixels"] for i in range(classes)] == pixels.tolist()
    assert found["mean_f1"] == pytest.approx(np.nanmean(f1))
    assert found["mean_iou"] == pytest.approx(np.nanmean(iou))
    assert found["overall_accuracy"] == pytest.approx(accuracy_score(y, p))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(y, p))
    assert headline(found, "c1") == ("c1 F1", pytest.approx(f1[1]))
