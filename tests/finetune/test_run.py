"""Fine-tuning and mapping as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import rasterio
import torch
import yaml
from sklearn.metrics import f1_score

import finetune.training.loop as loop_module
from common.command_line import run_command
from data_prep.archive.sensor import load_sensors
from finetune.mapping.cog import NO_DATA
from finetune.model.crop_mapper import CropMapper
from finetune.model.model_file import load_model
from finetune.predict import predict
from pretrain.model import EncoderConfig, build_encoder, save_encoder
from tests.support.archives import days, make_cube, write_scene
from tests.support.finetune_runs import run, run_arguments
from tests.support.rice_scenes import write_label, write_rice_scene

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.1)
SETTINGS: dict[str, Any] = {
    "task": "paddy_rice",
    "encoder": SMALL,
    "decoder.channels": 16,
    "override.frames": 8,
    "training.batch_size": 4,
    "training.epochs": 25,
    "training.learning_rate": 2e-3,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, split, side) in enumerate(
        [("a", "train", 192), ("b", "train", 192), ("c", "validation", 64), ("d", "test", 112)]
    ):
        write_rice_scene(folder / name, split, side=side, seed=seed, field=16)
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "rice"
    run(data=scenes, output=output, **SETTINGS)
    return output


def test_it_learns_what_the_seasons_tell_apart(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["score"]["name"] == "paddy rice F1"
    # A map of rice everywhere has F1 0.5; the chance of a lucky run above 0.85 is nil.
    assert metrics["score"]["value"] > 0.85
    assert metrics["history"][-1]["loss"] < 0.5 * metrics["history"][0]["loss"]
    assert max(epoch["mean_f1"] for epoch in metrics["history"]) == metrics["validation"]["mean_f1"]
    assert metrics["history"][metrics["best_epoch"] - 1]["mean_f1"] == metrics["validation"]["mean_f1"]
    assert any(file.name.startswith("events") for file in trained.iterdir())


def test_map_lies_where_the_label_lies_and_says_what_it_shows(trained: Path, scenes: Path) -> None:
    with rasterio.open(trained / "maps" / "d.tif") as found, rasterio.open(scenes / "d" / "crop_type.tif") as label:
        assert (found.crs, found.transform, found.shape) == (label.crs, label.transform, label.shape)
        assert (found.nodata, found.dtypes) == (NO_DATA, ("uint8",))
        assert found.colormap(1)[1] == (0x1F, 0x78, 0xB4, 255)
        assert {k: v for k, v in found.tags(1).items() if k.startswith("class_")} == {"class_0": "other", "class_1": "paddy_rice"}
        classes, codes = found.read(1), label.read(1)
    metrics = json.loads((trained / "metrics.json").read_text())
    scored = (codes != 0) & (classes != NO_DATA)
    assert metrics["test"]["pixels"] == scored.sum()
    assert metrics["score"]["value"] == pytest.approx(f1_score(codes[scored] == 1, classes[scored] == 1))
    picture = np.round(255 * matplotlib.image.imread(trained / "maps" / "d.png")[..., :3])
    rice = (picture == (0x1F, 0x78, 0xB4)).all(axis=-1).mean()
    assert rice > 0.02, "the map and the label show rice in its colour"


def test_predict_needs_the_model_alone_and_makes_the_same_map(trained: Path, scenes: Path, tmp_path: Path) -> None:
    model = tmp_path / "somewhere" / "rice.safetensors"
    model.parent.mkdir()
    model.write_bytes((trained / "model.safetensors").read_bytes())
    predict(model=model, input=[scenes / "d"], output=tmp_path / "maps" / "map.tif")
    with rasterio.open(tmp_path / "maps" / "map.tif") as again, rasterio.open(trained / "maps" / "d.tif") as first:
        np.testing.assert_array_equal(again.read(1), first.read(1))
    assert sorted(os.listdir(tmp_path / "maps")) == ["map.png", "map.tif", "map.tif.aux.xml"]


def test_finished_run_is_not_repeated_and_other_settings_are_refused(
    trained: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    run(data=scenes, output=trained, **SETTINGS)
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*")} == before
    printed = capsys.readouterr().out
    assert "finished" in printed
    assert "paddy_rice" in printed
    with pytest.raises(ValueError, match=r"other settings \(learning_rate\)"):
        run(data=scenes, output=trained, **(SETTINGS | {"training.learning_rate": 1e-3}))


def test_interrupted_run_continues_to_the_same_weights(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"training.epochs": 3}
    run(data=scenes, output=tmp_path / "straight", **settings)
    score_windows, calls = loop_module.score_windows, []

    def killed(*arguments: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score_windows(*arguments)

    monkeypatch.setattr(loop_module, "score_windows", killed)
    with pytest.raises(KeyboardInterrupt):
        run(data=scenes, output=tmp_path / "broken", **settings)
    assert not (tmp_path / "broken" / "metrics.json").exists()
    monkeypatch.setattr(loop_module, "score_windows", score_windows)
    run(data=scenes, output=tmp_path / "broken", **settings)
    assert "continuing after epoch 2" in capsys.readouterr().out
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "broken"))
    assert one == other
    weights = [load_model(tmp_path / name)[0].state_dict() for name in ("straight", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_gives_weights_and_normalisation(scenes: Path, tmp_path: Path) -> None:
    encoder = build_encoder(replace(SMALL, sources={"landsat": 6, "modis": 7, "sentinel2": 10}))
    encoder.normalization = {
        name: {"mean": [1000.0 + i for i in range(bands)], "std": [500.0] * bands}
        for name, bands in encoder.config.sources.items()
    }
    (tmp_path / "tiny").mkdir()
    save_encoder(encoder, tmp_path / "tiny" / "encoder.safetensors")
    # A learning rate of nothing: the weights of the finished model are those it began with.
    settings = SETTINGS | {"training.epochs": 1, "training.learning_rate": 1e-30}
    run(data=scenes, output=tmp_path / "run", checkpoint=tmp_path / "tiny", **settings)
    model, recipe = load_model(tmp_path / "run")
    assert recipe.normalization == {name: encoder.normalization[name] for name in ("landsat", "modis")}
    for name, weight in encoder.state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], weight)


def test_sentinel2_at_ten_metres_by_override(tmp_path: Path) -> None:
    """A label on another grid and another source need no change but two options."""
    rng = np.random.default_rng(0)
    for name, split in (("a", "train"), ("b", "validation"), ("c", "test")):
        cube = make_cube(load_sensors()["sentinel2"], 64, days(2021, 18), rng)
        classes = {1: "paddy_rice", 3: "not_cropland"}
        labels = {"crop_type_10m": {"path": "fine.tif", "classes": classes, "nodata": 0}}
        write_scene(tmp_path / name, {"sentinel2": cube}, {"sentinel2": 10.0}, split=split, labels=labels)
        write_label(tmp_path / name / "fine.tif", rng.choice([1, 3], (64, 64)), gsd=10.0)
    changes = {"override.sources": ["sentinel2"], "override.label": "crop_type_10m", "training.epochs": 1}
    run(data=tmp_path, output=tmp_path / "run", **(SETTINGS | changes))
    with rasterio.open(tmp_path / "run" / "maps" / "c.tif") as found, rasterio.open(tmp_path / "c" / "fine.tif") as label:
        assert (found.transform, found.shape) == (label.transform, label.shape)


def edit(scene: Path, **changes: Any) -> None:
    description = yaml.safe_load((scene / "scene.yaml").read_text()) | changes
    (scene / "scene.yaml").write_text(yaml.safe_dump(description))


def without_source(folder: Path) -> list[str]:
    sources = yaml.safe_load((folder / "b" / "scene.yaml").read_text())["sources"]
    edit(folder / "b", sources={"landsat": sources["landsat"]})
    return []


def without_label(folder: Path) -> list[str]:
    edit(folder / "c", labels={})
    return []


def smaller_label(folder: Path) -> list[str]:
    write_label(folder / "c" / "crop_type.tif", np.ones((60, 64), int))
    return []


def no_test_scene(folder: Path) -> list[str]:
    edit(folder / "c", split="train")
    return []


def other_bands(folder: Path) -> list[str]:
    encoder = build_encoder(replace(SMALL, sources={"landsat": 6, "modis": 5}))
    save_encoder(encoder, folder / "encoder.safetensors")
    return ["--checkpoint", str(folder / "encoder.safetensors")]


def other_source(folder: Path) -> list[str]:
    save_encoder(build_encoder(replace(SMALL, sources={"landsat": 6})), folder / "encoder.safetensors")
    return ["--checkpoint", str(folder / "encoder.safetensors")]


def damaged(folder: Path) -> list[str]:
    (folder / "encoder.safetensors").write_bytes(b"\x10" * 100)
    return ["--checkpoint", str(folder / "encoder.safetensors")]


def no_rice(folder: Path) -> list[str]:
    for name in ("a", "b", "c"):
        write_label(folder / name / "crop_type.tif", np.full((64, 64), 2))
    return []


BAD_INPUT = [
    (lambda _: ["--task", "paddy_rize"], "unknown task 'paddy_rize', did you mean paddy_rice? known tasks: cropland, "),
    (lambda _: ["--epochz", "3"], "did you mean training.epochs?"),
    (lambda _: ["--override.sources", "[landsat, radar]"], "unknown source radar; known: hls_s30, landsat, modis, sentinel2"),
    (lambda _: ["--override.sources", "[sentinel2]"], "has no sentinel2, which the task needs; it has landsat, modis"),
    (lambda _: ["--override.label", "crops"], "has no label 'crops'; it has crop_type"),
    (lambda _: ["--override.window_px", "40"], "window_px must be a multiple of 16"),
    (lambda _: ["--year", "2017"], "no image of landsat between 2017-04-01"),
    (lambda _: ["--training.epochs", "0"], "epochs and batch_size must be at least 1"),
    (lambda folder: ["--checkpoint", str(folder / "nothing")], "no encoder at"),
    (without_source, "scene b has no modis, which the task needs"),
    (without_label, "scene c has no label 'crop_type'; it has none"),
    (smaller_label, "covers another area than every source"),
    (no_test_scene, "no scenes of split test"),
    (other_bands, "knows modis with 5 bands; here it has 7"),
    (other_source, "was pretrained on landsat, not on modis"),
    (damaged, "is not a whole encoder file"),
    (no_rice, "hold no pixel of class paddy_rice"),
]


@pytest.fixture(scope="module")
def three_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for name, split in (("a", "train"), ("b", "validation"), ("c", "test")):
        write_rice_scene(folder / name, split, side=64, frames=4)
    return folder


@pytest.mark.parametrize(("spoil", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    three_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, message: str
) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(three_scenes, folder)
    output = tmp_path / "run"
    arguments = ["--task", "paddy_rice", "--data", str(folder), "--output", str(output), *spoil(folder)]
    with pytest.raises(SystemExit) as stopped:
        run_arguments(arguments)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "map.png"}, "give a name that ends in .tif"),
        ({"model": "nowhere"}, "no model at"),
        ({"model": "scene"}, "is no model of finetune/run.py"),
        ({"input": "nowhere"}, "no scene.yaml in"),
        ({"overlap": "1"}, "expected a share from 0 to 0.9"),
        ({"device": "tpu"}, "expected auto, cpu or cuda"),
    ],
)
def test_bad_input_of_predict(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, str], message: str
) -> None:
    save_encoder(build_encoder(replace(SMALL, sources={"landsat": 6})), tmp_path / "encoder.safetensors")
    known = {"model": str(trained), "input": str(scenes / "d"), "output": str(tmp_path / "new" / "map.tif")}
    if arguments.get("model") == "scene":
        arguments = {"model": str(tmp_path / "encoder.safetensors")}
    with pytest.raises(SystemExit) as stopped:
        run_command(predict, [part for key, value in (known | arguments).items() for part in (f"--{key}", value)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_model_of_other_weights_is_refused(trained: Path, tmp_path: Path) -> None:
    model, recipe = load_model(trained)
    wider = CropMapper(model.encoder, recipe.task.sources, recipe.task.frames, 2, recipe.channels + 2)
    loop_module.save_model(tmp_path / "model.safetensors", wider, recipe)
    with pytest.raises(ValueError, match="weights do not fit the recipe"):
        load_model(tmp_path)
