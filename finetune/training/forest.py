"""Fitting a random forest to labelled windows, by scikit-learn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.errors import while_running
from finetune.data.window_dataset import LabelledWindows
from finetune.model.model_file import MODEL_FILE, save_model
from finetune.model.random_forest import RandomForest
from finetune.task import IGNORE
from finetune.training.checkpoint import Progress
from finetune.training.loop import TrainingJob
from finetune.training.window_scores import score_windows

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TREES = 100  # scikit-learn's default
MOST_PIXELS = 200_000  # more pixels of the same fields teach little
# Drawn for each tree: on new landscapes trees of fewer pixels were better (docs/results/tasks.md), and grow six times as fast.
PIXELS_OF_A_TREE = 20_000
_WINDOWS_AT_A_TIME = 16


def fit_forest(job: TrainingJob, device: torch.device) -> Progress:
    """Fit the forest of `job` to the labelled pixels of its training windows, and score it on the validation windows.

    Windows are read as in evaluation: without augmentation, the clearest image of each period. There is one epoch and nothing to
    resume; started again, it is fitted again. Raises InfrastructureError when windows cannot be read or the model cannot be
    written.
    """
    forest = job.model
    assert isinstance(forest, RandomForest)
    with while_running("reading the training windows"):
        pixels, classes = labelled_pixels(forest, job.training, job.seed)
    forest.plant(forest_classifier(len(pixels), job.seed).fit(pixels, classes))
    forest.to(device)
    with while_running("reading the validation windows"):
        scores = score_windows(forest, job.validation, job.schedule.batch_size, device, job.loss.to(device))
    job.lock.check()
    with while_running(f"writing {job.output / MODEL_FILE}"):
        save_model(job.output / MODEL_FILE, forest, job.recipe)
    return Progress(epoch=1, best_epoch=1, best=scores)


def forest_classifier(pixels: int, seed: int) -> RandomForestClassifier:
    """A forest that is to be fitted to so many pixels."""
    from sklearn.ensemble import RandomForestClassifier  # imported here because it takes a second

    return RandomForestClassifier(
        TREES,
        class_weight="balanced",
        max_samples=min(PIXELS_OF_A_TREE, pixels),
        random_state=seed,
        n_jobs=len(os.sched_getaffinity(0)),
    )


def labelled_pixels(forest: RandomForest, windows: LabelledWindows, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Series float32 (P, T * C) and class int64 (P,) of labelled pixels, at most `MOST_PIXELS`, drawn by `seed`."""
    labelled = sum(int((label != IGNORE).sum()) for label in windows.labels)
    share, rng = min(1.0, MOST_PIXELS / max(labelled, 1)), np.random.default_rng(seed)
    series, classes = [], []
    for start in range(0, len(windows), _WINDOWS_AT_A_TIME):
        batch = windows.batch(range(start, min(start + _WINDOWS_AT_A_TIME, len(windows))))
        label = batch["label"]
        chosen = (label != IGNORE) & torch.from_numpy(rng.random(tuple(label.shape)) < share)
        columns = forest.series(batch["data"], (label.shape[-2], label.shape[-1]))
        series.append(columns.permute(0, 2, 3, 1)[chosen].numpy())
        classes.append(label[chosen].numpy())
    return np.concatenate(series), np.concatenate(classes)
