"""Classifiers on embeddings, and the choice of their settings."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from finetune.probing import classifiers
from finetune.probing.classifiers import Kind, Pixels, fit_probe
from finetune.task import load_task

TASK = load_task("paddy_rice")


def pixels_of(seed: int, count: int = 400, noise: float = 1.0) -> Pixels:
    """Two classes that differ in two of six dimensions, the second of which is small."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, count)
    embeddings = rng.normal(size=(count, 6)) * noise
    embeddings[:, 0] += 2 * classes
    embeddings[:, 1] = 0.01 * (embeddings[:, 1] + 2 * classes)
    return Pixels(embeddings=embeddings.astype(np.float32), classes=classes)


@pytest.mark.parametrize("kind", ["knn", "logistic", "forest"])
def test_probes_learn(kind: Kind) -> None:
    training, validation, test = pixels_of(0), pixels_of(1), pixels_of(2)
    probe = fit_probe(kind, training, validation, TASK, k=5, seed=0)
    predicted = probe.predict(test.embeddings)
    assert (predicted == test.classes).mean() > 0.7
    expected = f1_score(validation.classes, probe.predict(validation.embeddings))
    assert probe.validation["classes"]["paddy_rice"]["f1"] == pytest.approx(expected)


def test_neighbours_and_regression_are_those_of_scikit_learn() -> None:
    training, validation = pixels_of(0), pixels_of(1)
    probe = fit_probe("knn", training, validation, TASK, k=7, seed=0)
    expected = KNeighborsClassifier(7).fit(training.embeddings, training.classes).predict(validation.embeddings)
    np.testing.assert_array_equal(probe.predict(validation.embeddings), expected)
    assert probe.settings == {"k": 7, "pixels": 400}
    probe = fit_probe("logistic", training, validation, TASK, k=7, seed=0)
    scaler = StandardScaler().fit(training.embeddings)
    predictions = {
        penalty: LogisticRegression(C=penalty, max_iter=1000)
        .fit(scaler.transform(training.embeddings), training.classes)
        .predict(scaler.transform(validation.embeddings))
        for penalty in classifiers.PENALTIES
    }
    best = max(predictions, key=lambda penalty: f1_score(validation.classes, predictions[penalty]))
    assert probe.settings["C"] == best
    np.testing.assert_array_equal(probe.predict(validation.embeddings), predictions[best])


def test_neighbours_are_looked_for_among_a_draw_of_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "MOST_NEIGHBOURS_PX", 50)
    monkeypatch.setattr(classifiers, "_PIXELS_AT_A_TIME", 64)
    first, second, other = (fit_probe("knn", pixels_of(0), pixels_of(1), TASK, 5, seed) for seed in (0, 0, 1))
    assert first.settings["pixels"] == 50
    test = pixels_of(2, noise=2.0).embeddings
    np.testing.assert_array_equal(first.predict(test), second.predict(test))
    assert (first.predict(test) != other.predict(test)).any()


def test_few_pixels_have_few_neighbours() -> None:
    training = pixels_of(0, 4)
    training.classes[:] = [0, 1, 0, 1]
    assert fit_probe("knn", training, pixels_of(1), TASK, k=5, seed=0).settings["k"] == 4


def test_pixels_of_one_class_teach_nothing() -> None:
    training = Pixels(embeddings=np.zeros((5, 2), np.float32), classes=np.ones(5, int))
    with pytest.raises(ValueError, match="the training pixels are all of class paddy_rice"):
        fit_probe("logistic", training, pixels_of(1), TASK, k=5, seed=0)


def test_a_prediction_of_no_pixel_is_empty() -> None:
    probe = fit_probe("knn", pixels_of(0), pixels_of(1), TASK, k=5, seed=0)
    assert probe.predict(np.zeros((0, 6), np.float32)).shape == (0,)
