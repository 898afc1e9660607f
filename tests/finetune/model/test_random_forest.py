"""The random forest as tensors, against scikit-learn's own predictions, and through the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from sklearn.ensemble import RandomForestClassifier

from data_prep.archive.scene import find_scenes
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_windows import SceneWindows
from finetune.model.model_file import load_model, save_model
from finetune.model.random_forest import RandomForest, rounded_down
from finetune.model.recipe import Recipe, build_model
from finetune.predict import predict
from finetune.task import load_task
from finetune.training import forest as fitting
from tests.support.finetune_runs import code_of_run, run_arguments
from tests.support.rice_scenes import write_rice_scene

BANDS, FRAMES, CLASSES = {"landsat": 2, "modis": 3}, 4, 4
SIZE = (6, 8)


def fitted(classes: tuple[int, ...] = tuple(range(CLASSES))) -> tuple[RandomForest, RandomForestClassifier]:
    """A forest of ours and the one of scikit-learn that it was taken from, which has seen only these classes."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(500, FRAMES * sum(BANDS.values()))).round(1).astype(np.float32)
    labels = rng.choice(classes, 500)
    pixels[:, 3] += labels
    theirs = RandomForestClassifier(20, random_state=0).fit(pixels, labels)
    ours = RandomForest(BANDS, FRAMES, CLASSES, 1)
    ours.plant(theirs)
    return ours, theirs


def random_data(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, FRAMES, bands, *SIZE, generator=generator).mul(10).round() / 10 for name, bands in BANDS.items()}


@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (1, 3)])
def test_probabilities_are_those_of_scikit_learn(classes: tuple[int, ...]) -> None:
    """Pixels of one decimal, so that many lie on a threshold; a class that no label has is never likely."""
    ours, theirs = fitted(classes)
    data = random_data()
    found = ours(data, SIZE).softmax(dim=1)
    for sample, row, col in np.ndindex(2, *SIZE):
        series = torch.cat([data[name][sample, :, :, row, col] for name in BANDS], dim=1)  # (T, C)
        expected = np.zeros(CLASSES)
        expected[theirs.classes_] = theirs.predict_proba(series.reshape(1, -1).numpy())[0]
        np.testing.assert_allclose(found[sample, :, row, col].numpy(), expected, atol=1e-6)


def test_rounding_changes_no_comparison() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=10_000).astype(np.float32)
    thresholds = np.concatenate([(pixels[:-1].astype(float) + pixels[1:]) / 2, pixels + rng.choice([-1e-12, 0, 1e-12], 10_000)])
    assert (rounded_down(thresholds) <= thresholds).all()
    for pixel in pixels[:200]:
        np.testing.assert_array_equal(pixel > rounded_down(thresholds), float(pixel) > thresholds)


def recipe() -> Recipe:
    task = replace(load_task("paddy_rice"), frames=FRAMES, sources=("landsat",))
    sensors = {"landsat": load_sensors()["landsat"]}
    unit = {"landsat": {"mean": [0.0] * 6, "std": [1.0] * 6}}
    return Recipe(
        task=task, sensors=sensors, normalization=unit, pixel=30.0, encoder="random_forest", channels=1, origin="scratch"
    )  # fmt: skip


def test_a_file_holds_the_trees(tmp_path: Path) -> None:
    model = build_model(recipe())
    assert isinstance(model, RandomForest)
    rng = np.random.default_rng(0)
    model.plant(RandomForestClassifier(5).fit(rng.normal(size=(50, FRAMES * 6)), rng.integers(0, 2, 50)))
    save_model(tmp_path / "model.safetensors", model, recipe())
    again, found = load_model(tmp_path)
    assert found == recipe()
    data = {"landsat": torch.randn(1, FRAMES, 6, 16, 16)}
    torch.testing.assert_close(again(data, (16, 16)), model(data, (16, 16)), rtol=0, atol=0)
    model.shares = torch.zeros(len(model.shares), 3)
    save_model(tmp_path / "model.safetensors", model, recipe())
    with pytest.raises(ValueError, match="weights do not fit the recipe"):
        load_model(tmp_path)


def test_the_command_fits_and_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "TREES", 30)
    for seed, (name, split) in enumerate([("a", "train"), ("b", "validation"), ("c", "test")]):
        write_rice_scene(tmp_path / "scenes" / name, split, side=64, seed=seed, field=16)
    arguments = ["--task", "paddy_rice", "--data", str(tmp_path / "scenes"), "--encoder", "random_forest"]
    arguments += ["--override.frames", "8", "--output", str(tmp_path / "run")]
    assert code_of_run(arguments) == 0
    assert "random_forest from scratch, 100 trees" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["encoder"] == "random_forest"
    assert metrics["score"]["value"] > 0.85  # a map of rice everywhere has 0.5
    assert "steps" not in metrics["training"]
    assert (tmp_path / "run" / "report.html").is_file()
    predict(model=tmp_path / "run", input=[tmp_path / "scenes" / "c"], output=tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as again, rasterio.open(tmp_path / "run" / "maps" / "c.tif") as first:
        np.testing.assert_array_equal(again.read(1), first.read(1))
    assert code_of_run(arguments) == 0
    assert "holds this run, finished" in capsys.readouterr().out

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        run_arguments([*arguments[:-1], str(tmp_path / "ranks")])
    assert stopped.value.code == 2
    assert "random_forest is fitted by one process" in capsys.readouterr().err


def test_many_pixels_are_thinned_alike_by_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rice_scene(tmp_path / "a", "train", side=96, seed=0, field=16)
    task = replace(load_task("paddy_rice"), frames=FRAMES, sources=("landsat",), window_px=48)
    windows = SceneWindows(find_scenes(tmp_path), task, load_sensors())
    windows.normalization = {"landsat": windows.statistics("landsat")}
    model = RandomForest({"landsat": 6}, FRAMES, 2, 1)
    whole = fitting.labelled_pixels(model, windows, 0)
    monkeypatch.setattr(fitting, "MOST_PIXELS", 1000)
    thinned, same, other = (fitting.labelled_pixels(model, windows, seed) for seed in (0, 0, 1))
    windows.close()
    assert len(whole[1]) == windows.class_pixels().sum()
    assert 850 < len(thinned[1]) < 1150
    np.testing.assert_array_equal(thinned[0], same[0])
    assert len(thinned[1]) != len(other[1]) or not np.array_equal(thinned[0], other[0])
