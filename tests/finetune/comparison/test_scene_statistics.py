"""Intervals of differences over test scenes, against SciPy's bootstrap of scores that are those of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from finetune.comparison.scene_statistics import interval_over_scenes, scene_counts
from finetune.comparison.seed_statistics import Outcome, TaskComparison
from finetune.scoring.map_scores import MapScores
from finetune.task import load_task

SCENES, SEEDS, PIXELS = 12, 3, 60


def made_up_maps(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels (scenes, pixels) and maps (seeds, scenes, pixels) of two encoders, whose chance to be right varies over scenes."""
    labels = rng.integers(0, classes, (SCENES, PIXELS))
    maps = {}
    for encoder, skill in (("pretrained", 0.7), ("unet", 0.55)):
        right = rng.random((SEEDS, SCENES, PIXELS)) < np.clip(skill + rng.normal(0, 0.15, (SCENES, 1)), 0, 1)
        maps[encoder] = np.where(right, labels, rng.integers(0, classes, right.shape))
    return labels, maps


def metrics_of(task_name: str, labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """The parts of metrics.json that count, by the code that writes them."""
    task = load_task(task_name)
    scores = MapScores(task)
    for number, (label, one) in enumerate(zip(labels, predicted, strict=True)):
        scores.add(f"scene {number}", label.reshape(6, 10), one.reshape(6, 10).astype(np.uint8))
    result = scores.result()
    value = result["mean_f1"] if task.target is None else result["classes"][task.target]["f1"]
    return {"score": {"name": "F1", "class": task.target, "value": value}, "test": result, "training": {}}


@pytest.mark.parametrize("task_name", ["cropland", "early_season"])  # with and without a target
def test_interval_is_that_of_scipy(task_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "finetune.scoring.map_scores.with_intervals", lambda counts, scores: scores(sum(counts))
    )  # they take time
    task = load_task(task_name)
    names = [c.name for c in task.classes]
    labels, maps = made_up_maps(np.random.default_rng(1), len(names))
    found = [
        Outcome(task=task_name, title="", encoder=name, label_fraction=1.0, seed=seed, metrics=metrics_of(task_name, labels, one))
        for name, of_seeds in maps.items()
        for seed, one in enumerate(of_seeds)
    ]
    gain = TaskComparison(found).gain("unet", 1.0)
    assert gain.over_scenes is not None

    counted = range(len(names)) if task.target is None else [names.index(task.target)]

    def score(truth: np.ndarray, predicted: np.ndarray) -> float:
        pairs = [(truth == c, predicted == c) for c in counted]
        return float(np.mean([2 * (one & two).sum() / (one.sum() + two.sum()) for one, two in pairs]))

    def difference(scenes: np.ndarray) -> float:
        chosen = labels[scenes].ravel()
        differences = [
            score(chosen, maps["pretrained"][seed][scenes].ravel()) - score(chosen, maps["unet"][seed][scenes].ravel())
            for seed in range(SEEDS)
        ]
        return float(np.mean(differences))

    truth, predicted = labels.ravel(), maps["unet"][0].ravel()
    assert score(truth, predicted) == pytest.approx(f1_score(truth, predicted, labels=list(counted), average="macro"))
    assert gain.mean == pytest.approx(difference(np.arange(SCENES)))
    expected = stats.bootstrap(
        (np.arange(SCENES),), difference, vectorized=False, n_resamples=600, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = expected.high - expected.low
    assert gain.over_scenes == pytest.approx((expected.low, expected.high), abs=0.1 * width)


def test_no_interval_without_counts_with_one_scene_or_with_different_scenes() -> None:
    def run(*scenes: str) -> dict[str, Any]:
        pixels = {scene: {"correct": [3, 1], "labelled": [4, 2], "predicted": [4, 2]} for scene in scenes}
        return {"score": {"class": None}, "test": {"classes": {"a": {}, "b": {}}, "scene_pixels": pixels}}

    both, one, other = (scene_counts(run(*scenes)) for scenes in ("ab", "a", "ac"))
    assert interval_over_scenes([(both, both)]) == (0.0, 0.0)
    assert interval_over_scenes([(one, one)]) is None
    assert interval_over_scenes([(both, both), (both, other)]) is None
    assert scene_counts({"test": {}}) is None
    assert interval_over_scenes([(both, None)]) is None
    assert interval_over_scenes([]) is None
