"""Intervals over scenes against scipy's bootstrap."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

import finetune.scoring.bootstrap as bootstrap_module
from common.json_files import without_nan
from finetune.scoring.bootstrap import interval, sums_of_draws, with_intervals
from finetune.scoring.headline import headline_interval
from finetune.scoring.metrics import scores
from finetune.scoring.score_text import percent_interval

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_is_that_of_scipy(level: float) -> None:
    hits, total = RNG.integers(0, 50, 9), RNG.integers(50, 100, 9)
    found = interval(np.stack([hits, total], axis=1), lambda s: s[0] / s[1], level, 500, seed=3)
    expected = bootstrap(
        (hits, total),
        lambda h, t, axis: h.sum(axis) / t.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=500,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose(found, [expected.low, expected.high], rtol=1e-12)


def test_draws_that_are_added_up_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = RNG.integers(0, 1000, (7, 3, 3))
    at_once = sums_of_draws(counts, 100, seed=5)
    drawn = np.random.default_rng(5).integers(0, 7, (100, 7))
    np.testing.assert_array_equal(at_once, counts[drawn].sum(axis=1))
    monkeypatch.setattr(bootstrap_module, "DRAWN_AT_ONCE", 20)
    np.testing.assert_array_equal(sums_of_draws(counts, 100, seed=5), at_once)


def test_scores_of_drawn_scenes_are_those_of_their_pixels() -> None:
    scenes = [(RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)) for _ in range(5)]
    matrices = [confusion_matrix(*scene, labels=range(3)) for scene in scenes]
    found = with_intervals(matrices, partial(scores, classes=["a", "b", "c"]), resamples=60, seed=2)
    # The draws themselves, pixel by pixel.
    f1, kappa = [], []
    for drawn in np.random.default_rng(2).integers(0, 5, (60, 5)):
        label, predicted = (np.concatenate([scenes[i][part] for i in drawn]) for part in (0, 1))
        f1.append(f1_score(label, predicted, average=None))
        kappa.append(cohen_kappa_score(label, predicted))
    np.testing.assert_allclose(found["intervals"]["kappa"], np.percentile(kappa, (2.5, 97.5)))
    ends = np.percentile(f1, (2.5, 97.5), axis=0)
    np.testing.assert_allclose([found["intervals"]["classes"][name]["f1"] for name in "abc"], ends.T)
    # Scores are those of all scenes, and counts get no interval.
    assert found["kappa"] == scores(sum(matrices), ["a", "b", "c"])["kappa"]
    assert found["pixels"] == 1000
    assert "pixels" not in found["intervals"]
    assert found["bootstrap"] == {"scenes": 5, "level": 0.95, "resamples": 60, "seed": 2}


def test_one_scene_has_no_interval() -> None:
    matrix = np.array([[5, 1], [2, 7]])
    assert interval([matrix], np.trace) is None
    found = with_intervals([matrix], partial(scores, classes=["a", "b"]))
    assert found["intervals"] is None
    assert found["bootstrap"]["scenes"] == 1
    assert found["overall_accuracy"] == 12 / 15


def test_a_score_that_one_scene_defines_has_no_interval() -> None:
    for scenes in (2, 3, 5, 12):
        labelled = np.zeros((scenes, 2), dtype=int)
        labelled[:2] = [[8, 10], [5, 10]]
        with np.errstate(invalid="ignore"):
            two = interval(labelled, lambda s: s[0] / s[1])
            one = interval(np.where(np.arange(scenes)[:, None] == 0, labelled, 0), lambda s: s[0] / s[1])
        np.testing.assert_allclose(two, [0.5, 0.8])
        assert np.isnan(one).all()
    # In a dictionary each score by itself; JSON gets null, a table nothing.
    matrices = np.array([[[9, 1], [0, 0]], [[8, 2], [3, 7]], [[7, 3], [0, 0]]])
    found = with_intervals(matrices, partial(scores, classes=["a", "b"]))
    assert math.isnan(found["intervals"]["classes"]["b"]["recall"][0])
    assert without_nan(found)["intervals"]["classes"]["b"]["recall"] == [None, None]
    assert found["intervals"]["classes"]["b"]["precision"][0] == 0
    assert percent_interval([None, None]) == percent_interval(None) == ""


def test_intervals_hold_the_truth_as_often_as_the_docstring_says() -> None:
    rng = np.random.default_rng(0)
    for scenes, expected in ((3, 0.75), (20, 0.93)):
        held = 0
        for seed in range(300):
            values = rng.normal(size=scenes)
            low, high = interval(values, lambda s, n=scenes: s / n, resamples=300, seed=seed)
            held += low <= 0 <= high
        assert held / 300 == pytest.approx(expected, abs=0.06)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="at least one scene, got none"):
        interval([], np.sum)
    with pytest.raises(ValueError, match="level is 95"):
        interval([1, 2], np.sum, level=95)


def test_the_headline_has_the_interval_of_its_score() -> None:
    matrices = np.array([[[9, 1], [2, 8]], [[8, 2], [3, 7]]])
    found = with_intervals(matrices, partial(scores, classes=["a", "b"]))
    assert headline_interval(found, "b") == found["intervals"]["classes"]["b"]["f1"]
    assert headline_interval(found, None) == found["intervals"]["mean_f1"]
    assert headline_interval(scores(matrices[0], ["a", "b"]), "b") is None
