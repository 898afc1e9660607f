"""Losses of a map against numpy, pixel by pixel, and against what scikit-learn and torchmetrics call the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss
from torchmetrics.functional.segmentation import dice_score

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_windows import SceneWindows
from finetune.task import IGNORE, LOSSES, load_task, task_from_dict
from finetune.training.losses import MapLoss, balanced_weights, cross_entropy, dice, focal
from tests.support.rice_scenes import write_label, write_rice_scene

CLASSES = 4
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def example(seed: int, classes: tuple[int, ...] = (IGNORE, 0, 1, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (2, 4, 5, 6) float64 and labels (2, 5, 6); class 2 is never labelled."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(0, 2, (2, CLASSES, 5, 6))).requires_grad_()
    return scores, torch.from_numpy(rng.choice(classes, (2, 5, 6)))


def labelled(scores: torch.Tensor, label: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (pixels, K) and labels (pixels,) of the labelled pixels, one at a time."""
    rows, truth = [], []
    values, codes = scores.detach().numpy(), label.numpy()
    for sample, row, col in np.ndindex(codes.shape):
        if codes[sample, row, col] != IGNORE:
            powers = np.exp(values[sample, :, row, col])
            rows.append(powers / powers.sum())
            truth.append(codes[sample, row, col])
    return np.array(rows), np.array(truth)


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_what_they_are_pixel_by_pixel(seed: int) -> None:
    scores, label = example(seed)
    probability, truth = labelled(scores, label)
    of_truth = probability[np.arange(len(truth)), truth]
    everything = list(range(CLASSES))
    assert cross_entropy(scores, label).item() == pytest.approx(log_loss(truth, probability, labels=everything))
    weighted = log_loss(truth, probability, labels=everything, sample_weight=WEIGHTS.numpy()[truth])
    assert cross_entropy(scores, label, WEIGHTS).item() == pytest.approx(weighted)
    assert focal(scores, label).item() == pytest.approx(np.mean([-((1 - p) ** 2) * math.log(p) for p in of_truth]))
    assert focal(scores, label, gamma=0.5).item() == pytest.approx(np.mean([-math.sqrt(1 - p) * math.log(p) for p in of_truth]))
    assert focal(scores, label, gamma=0).item() == pytest.approx(cross_entropy(scores, label).item())
    coefficients = []
    for k in (0, 1, 3):
        overlap = sum(2 * p for p, g in zip(probability[:, k], truth, strict=True) if g == k)
        coefficients.append(overlap / (sum(p * p for p in probability[:, k]) + sum(g == k for g in truth)))
    assert dice(scores, label).item() == pytest.approx(1 - np.mean(coefficients))


def test_dice_of_a_certain_map_is_the_f1_that_others_compute() -> None:
    _, label = example(0, (IGNORE, 0, 1, 2, 3))
    predicted = torch.from_numpy(np.random.default_rng(1).integers(0, CLASSES, label.shape))
    certain = 1000.0 * torch.nn.functional.one_hot(predicted, CLASSES).movedim(-1, 1)
    known = label != IGNORE
    expected = f1_score(label[known], predicted[known], average="macro")
    assert 1 - dice(certain, label).item() == pytest.approx(expected)
    theirs = dice_score(predicted[known][None], label[known][None], CLASSES, average="macro", input_format="index")
    assert 1 - dice(certain, label).item() == pytest.approx(theirs.item())


def test_torch_has_the_same_cross_entropy() -> None:
    scores, label = example(2)
    for weights in (None, WEIGHTS):
        theirs = torch.nn.functional.cross_entropy(scores, label, weight=weights, ignore_index=IGNORE)
        torch.testing.assert_close(cross_entropy(scores, label, weights), theirs)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_and_none_comes_from_pixels_without_label(name: str) -> None:
    scores, label = example(4)
    loss = MapLoss({name: 1.0}, WEIGHTS)
    assert torch.autograd.gradcheck(lambda x: loss(x, label), scores)
    loss(scores, label).backward()
    without = (label == IGNORE)[:, None].expand_as(scores)
    assert (scores.grad[without] == 0).all()
    assert (scores.grad[~without] != 0).any()
    other = torch.where(without, torch.full_like(scores, 50.0), scores)
    torch.testing.assert_close(loss(other, label), loss(scores, label))


@pytest.mark.parametrize("terms", [*({name: 1.0} for name in LOSSES), dict.fromkeys(LOSSES, 1.0)])
def test_a_batch_without_labels_is_nothing_and_not_nan(terms: dict[str, float]) -> None:
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = MapLoss(terms, torch.ones(3))(scores, torch.full((2, 4, 4), IGNORE))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_certain_mistakes_stay_finite() -> None:
    scores = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    for label in (0, 1):
        loss = MapLoss(dict.fromkeys(LOSSES, 1.0), torch.ones(2))(scores, torch.tensor([[[label]]]))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(scores.grad).all()


def test_sums_are_weighted() -> None:
    scores, label = example(5)
    found = MapLoss({"dice": 0.5, "balanced_cross_entropy": 2.0, "focal": 3.0}, WEIGHTS)(scores, label)
    expected = 0.5 * dice(scores, label) + 2 * cross_entropy(scores, label, WEIGHTS) + 3 * focal(scores, label)
    torch.testing.assert_close(found, expected)


def test_a_task_states_its_losses() -> None:
    rice = load_task("paddy_rice")
    assert rice.loss_terms == {"cross_entropy": 1.0}
    both = task_from_dict(json.loads(json.dumps(replace(rice, loss={"dice": 1, "focal": 0.5}).to_dict())))
    assert both.loss_terms == {"dice": 1, "focal": 0.5}


@pytest.mark.parametrize("loss", ["hinge", {}, {"hinge": 1}, {"dice": 0}, {"dice": -1}, {"dice": "much"}, ["dice"], None])
def test_unknown_losses_are_refused(loss: Any) -> None:
    values = load_task("paddy_rice").to_dict() | {"loss": loss}
    with pytest.raises(
        ValueError, match="expected one of cross_entropy, balanced_cross_entropy, dice, focal, or weights above 0"
    ):
        task_from_dict(values)


def test_balanced_weights_make_rare_classes_count(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=64)
    codes = np.full((64, 64), 3)
    codes[:8, :8] = 1
    write_label(tmp_path / "a" / "crop_type.tif", codes)
    dataset = SceneWindows([load_scene(tmp_path / "a")], load_task("paddy_rice"), load_sensors())
    weights = balanced_weights(dataset).numpy()
    assert weights[1] / weights[0] == pytest.approx(((64 * 64 - 64) / 64) ** 0.5, rel=1e-5)
    assert weights @ dataset.class_pixels() == pytest.approx(64 * 64)
