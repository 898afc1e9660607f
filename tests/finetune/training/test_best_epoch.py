"""The epoch that is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from data_prep.archive.scene import load_scene
from finetune.data.scene_windows import SceneWindows
from finetune.model.model_file import load_model
from finetune.scoring.metrics import scores, scores_for_choosing
from finetune.task import load_task
from finetune.training.best_epoch import BestEpochCriterion, best_epoch_criterion, usable_criterion
from tests.support.finetune_runs import run
from tests.support.rice_scenes import write_label, write_rice_scene

RICE = load_task("paddy_rice")


def found(loss: float, matrix: list[list[int]]) -> dict[str, Any]:
    return scores(np.array(matrix), ["other", "paddy_rice"]) | {"loss": loss}


# The first finds all rice and calls much rice that is none; the second the other way round; the third has the lowest loss.
EPOCHS = [found(0.6, [[60, 30], [0, 10]]), found(0.5, [[90, 0], [6, 4]]), found(0.2, [[80, 10], [5, 5]])]


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("mean_f1", 1),
        ("overall_accuracy", 1),
        ("loss", 2),
        ("paddy_rice.recall", 0),
        ("paddy_rice.precision", 1),
        ("other.precision", 0),
        ("last", None),
    ],
)
def test_the_best_epoch_by_each_score(name: str, best: int | None) -> None:
    criterion = best_epoch_criterion(name, RICE)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        kept: dict[str, Any] = {}
        for epoch in order:
            if criterion.is_better(EPOCHS[epoch], kept):
                kept = EPOCHS[epoch]
        assert kept is EPOCHS[order[-1] if best is None else best]


@pytest.mark.parametrize("name", ["mean_f1", "loss"])
def test_a_score_that_is_not_defined_is_the_worst_and_still_better_than_none(name: str) -> None:
    criterion = BestEpochCriterion(name)
    nothing = found(math.nan, [[0, 0], [0, 0]])
    assert criterion.is_better(nothing, {})
    assert criterion.is_better(EPOCHS[0], nothing)
    assert not criterion.is_better(nothing, EPOCHS[0])
    assert not criterion.is_better(EPOCHS[0], EPOCHS[0]), "the first of equals is kept"


@pytest.mark.parametrize("name", ["f1", "accuracy", "maize.f1", "paddy_rice.pixels", "paddy_rice", ""])
def test_unknown_scores_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"mean_f1, mean_iou, overall_accuracy, kappa, loss, last, other.f1, .*paddy_rice.f1"):
        best_epoch_criterion(name, RICE)


@pytest.mark.slow
def test_a_run_keeps_the_epoch_of_the_lowest_loss(tmp_path: Path) -> None:
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(tmp_path / name, split, side=64 if split == "test" else 112, seed=seed, field=16)
    # A learning rate that overshoots: the loss rises and falls.
    settings: dict[str, Any] = {
        "override.frames": 8,
        "training.epochs": 6,
        "training.batch_size": 3,
        "decoder.channels": 8,
        "training.learning_rate": 2e-2,
    }
    run(task="paddy_rice", data=tmp_path, output=tmp_path / "run", encoder="temporal_cnn", best="loss", **settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losses = [epoch["validation_loss"] for epoch in metrics["history"]]
    assert metrics["best_epoch"] == int(np.argmin(losses)) + 1
    assert metrics["validation"]["loss"] == min(losses) < max(losses)
    # The model that was kept has that loss over all labelled pixels of the validation scene, whatever the batches were.
    model, recipe = load_model(tmp_path / "run")
    dataset = SceneWindows([load_scene(tmp_path / "c")], recipe.task, recipe.sensors)
    dataset.normalization = recipe.normalization
    batch = dataset.batch(range(len(dataset)))
    with torch.no_grad():
        probability = model(batch["data"], (64, 64)).double().softmax(dim=1).movedim(1, -1)
    known = batch["label"] >= 0
    assert metrics["validation"]["loss"] == pytest.approx(log_loss(batch["label"][known], probability[known]), rel=1e-4)
    with pytest.raises(ValueError, match=r"other settings \(best\)"):
        run(task="paddy_rice", data=tmp_path, output=tmp_path / "run", encoder="temporal_cnn", **settings)


def test_without_the_target_class_the_scores_choose_the_map_that_has_none_of_it() -> None:
    """Why the last epoch is kept then: whoever maps the class at all loses by it, in every score."""
    never, sometimes = found(0.1, [[100, 0], [0, 0]]), found(0.3, [[90, 10], [0, 0]])
    for name in ("mean_f1", "mean_iou", "overall_accuracy", "loss"):
        assert BestEpochCriterion(name).is_better(never, sometimes)


def test_stray_pixels_of_a_class_without_labels_do_not_choose_an_epoch() -> None:
    names = ["other", "paddy_rice", "nowhere"]
    worse, stray = [[70, 30, 0], [30, 70, 0], [0, 0, 0]], [[80, 19, 1], [20, 80, 0], [0, 0, 0]]
    choosing = [scores_for_choosing(np.array(matrix), names) for matrix in (worse, stray)]
    assert BestEpochCriterion("mean_f1").is_better(choosing[1], choosing[0])
    assert BestEpochCriterion("mean_iou").is_better(choosing[1], choosing[0])
    tested = [scores(np.array(matrix), names) for matrix in (worse, stray)]
    assert tested[1]["mean_f1"] < tested[0]["mean_f1"], "which is why"
    assert choosing[1]["mean_f1"] == pytest.approx(np.mean([tested[1]["classes"][name]["f1"] for name in names[:2]]))


@pytest.mark.parametrize(
    ("task", "name", "absent", "by", "note"),
    [
        ("paddy_rice", "mean_f1", (), "mean_f1", ""),
        ("paddy_rice", "mean_f1", ("paddy_rice",), "last", "no validation window holds paddy_rice, so that no score"),
        ("paddy_rice", "loss", ("paddy_rice",), "last", "no validation window holds paddy_rice, so that no score"),
        ("paddy_rice", "last", ("paddy_rice",), "last", ""),
        ("paddy_rice", "other.recall", ("paddy_rice",), "other.recall", "no validation window holds paddy_rice: how well"),
        ("paddy_rice", "other.recall", ("other",), "last", "no validation window holds other, so that no score"),
        ("lulc", "mean_iou", ("water", "maize"), "mean_iou", "no validation window holds maize, water: how well"),
        ("lulc", "water.f1", ("water", "maize"), "last", "to have it chosen by water.f1"),
    ],
)
def test_classes_that_no_validation_window_holds(task: str, name: str, absent: tuple[str, ...], by: str, note: str) -> None:
    about = load_task(task)
    pixels = np.array([0 if c.name in absent else 7 for c in about.classes])
    criterion, said = usable_criterion(best_epoch_criterion(name, about), about, pixels)
    assert criterion.name == by
    assert note in said
    assert bool(note) == bool(said)


def test_a_run_without_rice_to_validate_on_keeps_the_last_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        _, codes = write_rice_scene(tmp_path / name, split, side=64, seed=seed, frames=8)
        if split == "validation":
            write_label(tmp_path / name / "crop_type.tif", np.where(codes == 1, 2, codes))
    settings: dict[str, Any] = {
        "override.frames": 4,
        "training.epochs": 5,
        "training.batch_size": 1,
        "decoder.channels": 4,
        "training.learning_rate": 3e-2,
    }
    run(task="paddy_rice", data=tmp_path, output=tmp_path / "run", encoder="temporal_cnn", **settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["best_epoch"], metrics["best_epoch_by"]) == (5, "last")
    assert metrics["validation"]["loss"] == metrics["history"][-1]["validation_loss"]
    assert "no validation window holds paddy_rice" in capsys.readouterr().out
