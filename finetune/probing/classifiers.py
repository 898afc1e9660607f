"""Classifiers of scikit-learn on embeddings, and the choice of their settings by the validation pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from finetune.scoring.headline import headline
from finetune.scoring.metrics import confusion, scores_for_choosing
from finetune.task import Task
from finetune.training.forest import forest_classifier

Kind = Literal["knn", "logistic", "forest"]
TITLES: dict[Kind, str] = {"knn": "nearest neighbours", "logistic": "logistic regression", "forest": "random forest"}
# Distances to all training pixels are computed for each pixel of a map.
MOST_NEIGHBOURS_PX = 10_000
# Inverse strength of the penalty; the best on the validation pixels is used.
PENALTIES = (0.01, 1.0, 100.0)
MOST_ITERATIONS = 1000
_PIXELS_AT_A_TIME = 65_536


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """Labelled pixels.

    Attributes:
        embeddings: float32 (P, D).
        classes: class indices, int64 (P,).
    """

    embeddings: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A fitted classifier.

    Attributes:
        kind: which.
        settings: its settings, as plain values.
        classifier: scikit-learn's.
        validation: its scores on the validation pixels, from `metrics.scores`.
    """

    kind: Kind
    settings: dict[str, Any]
    classifier: Any
    validation: dict[str, Any]

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        """Class indices int64 (P,) of embeddings (P, D)."""
        parts = [embeddings[first : first + _PIXELS_AT_A_TIME] for first in range(0, len(embeddings), _PIXELS_AT_A_TIME)]
        return np.concatenate([self.classifier.predict(part) for part in parts]) if parts else np.empty(0, np.int64)


def fit_probe(kind: Kind, training: Pixels, validation: Pixels, task: Task, k: int, seed: int) -> Probe:
    """Fit a probe of one kind; of several settings the one with the best headline score on the validation pixels.

    Raises ValueError when the training pixels are all of one class.
    """
    if len(np.unique(training.classes)) < 2:
        only = task.classes[int(training.classes[0])].name if len(training) else "none"
        raise ValueError(f"the training pixels are all of class {only}; take a larger --label_fraction or another --seed")
    names = [c.name for c in task.classes]
    best: Probe | None = None
    best_score = -np.inf
    for settings, classifier, used in _candidates(kind, training, k, seed):
        fitted = classifier.fit(used.embeddings, used.classes)
        probe = Probe(kind=kind, settings=settings, classifier=fitted, validation={})
        predicted = probe.predict(validation.embeddings)
        found = scores_for_choosing(confusion(validation.classes[None], predicted[None], len(names)), names)
        score = float(np.nan_to_num(headline(found, task.target)[1], nan=-1.0))
        if best is None or score > best_score:
            best, best_score = Probe(kind=kind, settings=settings, classifier=fitted, validation=found), score
    assert best is not None
    return best


def _candidates(kind: Kind, training: Pixels, k: int, seed: int) -> Iterator[tuple[dict[str, Any], Any, Pixels]]:
    """Settings, a classifier that is not fitted, and the pixels to fit it to."""
    from sklearn.linear_model import LogisticRegression  # imported here because it takes a second
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    match kind:
        case "knn":
            used = _some(training, MOST_NEIGHBOURS_PX, seed)
            neighbours = min(k, len(used))
            yield {"k": neighbours, "pixels": len(used)}, KNeighborsClassifier(neighbours, algorithm="brute"), used
        case "logistic":
            for penalty in PENALTIES:
                regression = LogisticRegression(C=penalty, max_iter=MOST_ITERATIONS)
                yield {"C": penalty, "pixels": len(training)}, make_pipeline(StandardScaler(), regression), training
        case "forest":
            yield {"pixels": len(training)}, forest_classifier(len(training), seed), training


def _some(pixels: Pixels, most: int, seed: int) -> Pixels:
    """At most so many of the pixels, drawn by `seed`."""
    if len(pixels) <= most:
        return pixels
    chosen = np.sort(np.random.default_rng(seed).choice(len(pixels), most, replace=False))
    return Pixels(embeddings=pixels.embeddings[chosen], classes=pixels.classes[chosen])
