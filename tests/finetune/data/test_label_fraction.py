"""Training on a share of the labels: which windows, in which batches, and whole runs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.label_fraction import label_subset
from finetune.data.scene_windows import SceneWindows
from finetune.task import IGNORE, load_task
from finetune.training.losses import balanced_weights
from finetune.training.schedule import Schedule
from tests.support.finetune_runs import run
from tests.support.rice_scenes import write_label, write_rice_scene
from tests.support.window_stores import stored_windows

FRACTIONS = (0.01, 0.05, 0.1, 0.33, 0.5, 1.0)
SCENES = np.repeat(np.arange(5), 20)
OTHER, RICE, BOTH = (np.array([[a, b], [IGNORE, a]], dtype=np.int8) for a, b in ((0, 0), (1, 1), (0, 1)))


def subset(labels: list[np.ndarray], fraction: float, seed: int, target: int | None = 1) -> set[int]:
    kept = label_subset(SCENES, labels, fraction, seed, target)
    assert list(kept) == sorted(set(kept.tolist()))
    return set(kept.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_smaller_fractions_are_part_of_larger_ones_and_spread_over_scenes(seed: int) -> None:
    labels = [BOTH if index % 7 == 0 else OTHER for index in range(100)]
    chosen = [subset(labels, fraction, seed) for fraction in FRACTIONS]
    assert [len(c) for c in chosen] == [1, 5, 10, 33, 50, 100]
    for smaller, larger in pairwise(chosen):
        assert smaller < larger
    for fraction, windows in zip(FRACTIONS, chosen, strict=True):
        counts = np.bincount(SCENES[list(windows)], minlength=5)
        assert np.abs(counts - 20 * fraction).max() < 2  # one by rounding, one for the window with the target


def test_a_scene_of_a_tenth_gives_a_tenth() -> None:
    scenes = np.repeat([0, 1], [180, 20])
    counts = [label_subset(scenes, [BOTH] * 200, 0.3, seed, 1) >= 180 for seed in range(50)]
    assert {int(c.sum()) for c in counts} <= {5, 6, 7}


def test_seeds_draw_differently_and_alike_within_a_scene() -> None:
    draws = np.zeros(100)
    for seed in range(400):
        draws[list(subset([BOTH] * 100, 0.1, seed))] += 1
    # Each window is chosen with probability 0.1: 40 of 400, standard deviation 6.
    assert draws.sum() == 4000
    assert draws.min() > 40 - 27
    assert draws.max() < 40 + 27
    assert subset([BOTH] * 100, 0.1, 3) == subset([BOTH] * 100, 0.1, 3) != subset([BOTH] * 100, 0.1, 4)


@pytest.mark.parametrize("seed", range(10))
def test_the_target_is_in_any_choice_and_not_alone_if_that_can_be(seed: int) -> None:
    rare = [OTHER] * 100
    rare[37] = RICE
    assert subset(rare, 0.01, seed) == {37}
    rare[81] = BOTH
    assert subset(rare, 0.01, seed) == {81}
    assert 81 in subset(rare, 0.1, seed)
    assert subset(rare, 0.01, seed, target=None) == {81}  # no class stands for the task: the window with two of them
    assert len(subset([OTHER] * 100, 0.05, seed)) == 5  # nobody has the target: nothing to ask for


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"--label_fraction is .*; expected a share"):
        label_subset([0, 0], [BOTH, BOTH], fraction, 0)


def test_batches_without_a_least_number_of_steps_are_one_pass() -> None:
    schedule = Schedule(epochs=3, batch_size=8)
    for windows in (2, 7, 8, 9, 30):
        found = schedule.batches(0, windows, np.random.default_rng(5))
        straight = np.array_split(np.random.default_rng(5).permutation(windows), -(-windows // 8))
        assert len(found) == schedule.steps_in_epoch(0, windows) == len(straight)
        for one, other in zip(found, straight, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("windows", [1, 2, 3, 8, 9, 41, 200])
def test_few_windows_are_passed_over_until_the_steps_are_enough(windows: int) -> None:
    schedule = Schedule(epochs=4, batch_size=8, min_steps=50)
    batches = schedule.batches(0, windows, np.random.default_rng(0))
    assert len(batches) == schedule.steps_in_epoch(0, windows) == max(13, -(-windows // 8))
    assert schedule.epochs * len(batches) >= 50
    counts = np.bincount(np.concatenate(batches), minlength=windows)
    assert counts.max() - counts.min() <= 1  # whole passes, and a part of one
    assert counts.min() >= 1
    assert {len(batch) for batch in batches} <= {7, 8}


@pytest.mark.parametrize("windows", [1, 3, 8, 41, 1000])
@pytest.mark.parametrize(("steps", "epochs", "expected"), [(50, 4, [12, 13, 12, 13]), (3, 10, [1, 1, 1])])
def test_exactly_so_many_steps_of_full_batches_however_many_windows(
    windows: int, steps: int, epochs: int, expected: list[int]
) -> None:
    schedule = Schedule(epochs=epochs, batch_size=8, steps=steps)
    found = [schedule.batches(epoch, windows, np.random.default_rng(epoch)) for epoch in range(schedule.num_epochs)]
    assert [len(batches) for batches in found] == expected
    assert schedule.num_steps(windows) == steps
    assert [schedule.first_step(epoch, windows) for epoch in range(len(found))] == [sum(expected[:n]) for n in range(len(found))]
    for batches in found:
        assert {len(batch) for batch in batches} == {8}
        counts = np.bincount(np.concatenate(batches), minlength=windows)
        assert counts.max() - counts.min() <= 1


def test_one_window_fills_its_batch() -> None:
    """Batch normalisation cannot average if the lowest level of a U-Net is one pixel of one window."""
    assert [batch.tolist() for batch in Schedule(epochs=1, batch_size=4).batches(0, 1, np.random.default_rng(0))] == [
        [0, 0, 0, 0]
    ]


def test_numbers_of_steps_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"--training.min_steps is -1"):
        Schedule(min_steps=-1)
    with pytest.raises(ValueError, match=r"--training.steps is 0; expected at least 1"):
        Schedule(steps=0)
    with pytest.raises(ValueError, match=r"--training.min_steps 9 has no effect with --training.steps 5"):
        Schedule(steps=5, min_steps=9)


@pytest.mark.parametrize("is_stored", [True, False])
def test_kept_windows_are_those_of_the_whole_dataset(tmp_path: Path, is_stored: bool) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_rice_scene(tmp_path / name, "train", side=128, seed=seed, frames=6)
    scenes = [load_scene(tmp_path / name) for name in ("a", "b")]
    straight = [SceneWindows(scenes, load_task("paddy_rice"), load_sensors()) for _ in range(2)]
    whole, part = (stored_windows(each, tmp_path / "windows") if is_stored else each for each in straight)
    whole.normalization = part.normalization = {source: whole.statistics(source) for source in ("landsat", "modis")}
    part.keep_share(0.5, seed=3)
    assert (len(whole), len(part)) == (8, 4)
    known = {item["file_name"]: item for item in (whole[index] for index in range(8))}
    for index in range(4):
        item = part[index]
        assert torch.equal(item["label"], known[item["file_name"]]["label"])
        assert torch.equal(item["data"]["landsat"], known[item["file_name"]]["data"]["landsat"])
    assert {window[0] for window in part.windows} == {0, 1}
    whole.keep_share(0.5, seed=4)
    assert whole.windows != part.windows


def test_a_run_with_few_labels_has_the_scores_of_its_maps_with_and_without_them(tmp_path: Path) -> None:
    """One of nine windows holds rice. It is the one that is kept, and the other class, which is then rare, does no harm."""
    for name, split, side in (("a", "train", 192), ("b", "validation", 64), ("c", "test", 64)):
        write_rice_scene(tmp_path / "scenes" / name, split, side=side, frames=8, field=16)
    codes = np.full((192, 192), 3)
    codes[64:128, 128:160] = 1
    write_label(tmp_path / "scenes" / "a" / "crop_type.tif", codes)
    settings = {
        "task": "paddy_rice",
        "encoder": "unet",
        "decoder.channels": 4,
        "override.frames": 4,
        "training.epochs": 2,
        "training.steps": 3,
    }
    settings["training.batch_size"] = 2
    for name, maps in (("with", True), ("without", False)):
        run(data=tmp_path / "scenes", output=tmp_path / name, label_fraction=0.01, maps=maps, **settings)
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("with", "without"))
    assert one == other
    assert one["training"] == {"windows": 1, "of_windows": 9, "pixels": {"other": 2048, "paddy_rice": 2048}, "steps": 3}
    assert (tmp_path / "with" / "maps" / "c.tif").is_file()
    assert (tmp_path / "with" / "report.html").is_file()
    assert {path.name for path in (tmp_path / "without").iterdir() if "events" not in path.name} == {
        "run.json", "metrics.json", "model.safetensors", "last_epoch.pt", "previous_epoch.pt", "README.md", "stac_item.json"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"other settings \(label_fraction\)"):
        run(data=tmp_path / "scenes", output=tmp_path / "without", label_fraction=0.5, maps=False, **settings)


def test_a_class_that_is_left_without_a_pixel_weighs_one(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=64, frames=4)
    write_label(tmp_path / "a" / "crop_type.tif", np.full((64, 64), 3))
    dataset = SceneWindows([load_scene(tmp_path / "a")], load_task("paddy_rice"), load_sensors())
    np.testing.assert_allclose(balanced_weights(dataset).numpy(), [1, 1])
