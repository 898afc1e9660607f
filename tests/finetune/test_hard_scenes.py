"""Scenes and models that are wrong, small or empty, by the commands: one clear line and exit code 2, or a correct map."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import rasterio
import torch
import yaml
import zarr
from safetensors.torch import load_file

import finetune.predict as predict_module
from common.command_line import run_command
from data_prep.archive.sensor import load_sensors
from finetune.mapping.cog import NO_DATA
from tests.support.archives import Cube, west_of_scene, write_cube
from tests.support.finetune_runs import run_arguments
from tests.support.launching import ROOT
from tests.support.rice_scenes import write_label, write_rice_scene

SENSORS = load_sensors()
SETTINGS = ["--task", "paddy_rice", "--encoder", "unet", "--decoder.channels", "4", "--override.frames", "4"]
SETTINGS += ["--override.window_px", "48", "--training.epochs", "1", "--training.batch_size", "2"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def known_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for name, split in (("a", "train"), ("b", "validation"), ("c", "test")):
        write_rice_scene(folder / name, split, side=64, frames=8, seed=ord(name))
    return folder


@pytest.fixture
def scenes(known_scenes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(known_scenes, tmp_path / "scenes")


@pytest.fixture(scope="module")
def model(known_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "rice"
    assert exit_code(run_arguments, *SETTINGS, "--data", known_scenes, "--output", output) == 0
    return output / "model.safetensors"


def exit_code(command: Callable[[list[str]], None], *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        command([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def predict_arguments(arguments: list[str]) -> None:
    run_command(predict_module.predict, arguments)


def edit(scene: Path, **changes: Any) -> None:
    description = yaml.safe_load((scene / "scene.yaml").read_text())
    (scene / "scene.yaml").write_text(yaml.safe_dump(description | changes))


def rewrite(scene: Path, dates: np.ndarray | slice = slice(None), bands: slice = slice(None), source: str = "") -> None:
    """Write a scene again with some of its dates, or some bands of one source."""
    description = yaml.safe_load((scene / "scene.yaml").read_text())
    for name in ("landsat", "modis"):
        group = zarr.open_group(scene / f"{name}.zarr")
        arrays = {key: array[:] for key, array in group.arrays()}
        quality = next(key for key in arrays if key not in ("reflectance", "time", "x", "y"))
        pixels = arrays["reflectance"][dates]
        cube = Cube(pixels, arrays[quality][dates], arrays["time"][dates].astype("datetime64[D]"))
        sensor = SENSORS[name]
        if name == source:
            cube = replace(cube, pixels=pixels[:, bands])
            description["sources"][name]["bands"] = list(sensor.bands[bands])
        shutil.rmtree(scene / f"{name}.zarr")
        write_cube(scene / f"{name}.zarr", cube, sensor, {"landsat": 30.0, "modis": 480.0}[name], west_of_scene(scene))
    (scene / "scene.yaml").write_text(yaml.safe_dump(description))


def in_crs(scene: Path, crs: str, *sources: str) -> None:
    """Say that sources, and with both of them the label, lie in another CRS at the same numbers."""
    for source in sources:
        zarr.open_group(scene / f"{source}.zarr").attrs["crs"] = crs
    if len(sources) == 2:
        with rasterio.open(scene / "crop_type.tif", "r+") as raster:
            raster.crs = rasterio.crs.CRS.from_user_input(crs)


# ---- what is wrong is said


def label_file_missing(folder: Path) -> None:
    (folder / "b" / "crop_type.tif").unlink()


def label_is_no_raster(folder: Path) -> None:
    (folder / "b" / "crop_type.tif").write_text("paddy_rice")


def class_without_a_name(folder: Path) -> None:
    write_label(folder / "c" / "crop_type.tif", np.full((64, 64), 7))


def label_in_another_crs(folder: Path) -> None:
    with rasterio.open(folder / "a" / "crop_type.tif", "r+") as raster:
        raster.crs = rasterio.crs.CRS.from_epsg(32651)


def source_in_another_crs(folder: Path) -> None:
    in_crs(folder / "a", "EPSG:32651", "modis")


def training_under_clouds(folder: Path) -> None:
    write_rice_scene(folder / "a", "train", side=64, frames=8, cloudy=1.0)


def fewer_bands(folder: Path) -> None:
    rewrite(folder / "c", bands=slice(0, 5), source="modis")


def damaged_scene(folder: Path) -> None:
    (folder / "c" / "scene.yaml").write_text("sources: [landsat")


def one_pixel(folder: Path) -> None:
    write_rice_scene(folder / "c", "test", side=16, frames=8)


WRONG = [
    (label_file_missing, "crop_type.tif does not exist"),
    (label_is_no_raster, "crop_type.tif: cannot be read as a raster"),
    (class_without_a_name, "holds codes [7] that its `classes` do not name; known: {1: 'paddy_rice'"),
    (label_in_another_crs, "scene a: the map's grid is in EPSG:32651, landsat in EPSG:32631; both must have one CRS"),
    (source_in_another_crs, "scene a: the map's grid is in EPSG:32631, modis in EPSG:32651; both must have one CRS"),
    (training_under_clouds, "source landsat has no clear pixel in the training windows"),
    (fewer_bands, "has 5 bands ['b1', 'b2', 'b3', 'b4', 'b5']; source modis needs 7"),
    (damaged_scene, "scene.yaml is not YAML"),
    (one_pixel, "x has 1 coordinate; two are needed"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_fine_tuning_says_what_is_wrong(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], message: str
) -> None:
    spoil(scenes)
    assert exit_code(run_arguments, *SETTINGS, "--data", scenes, "--output", tmp_path / "run") == 2
    errors = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    run = tmp_path / "run"  # what only the pixels tell is found when the windows are stored: they stay for a corrected command
    assert not run.exists() or [path.name for path in run.iterdir()] == ["windows"]


def test_a_task_that_is_no_yaml(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "task.yaml").write_text("name: [rice")
    arguments = [*SETTINGS, "--task", tmp_path / "task.yaml", "--data", scenes, "--output", tmp_path / "run"]
    assert exit_code(run_arguments, *arguments) == 2
    assert "task.yaml is not YAML" in capsys.readouterr().err


def test_a_list_of_classes_that_the_labels_do_not_fit(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task that has a class more than the labels, and one that lacks a class of theirs."""
    known = yaml.safe_load((ROOT / "finetune" / "tasks" / "paddy_rice.yaml").read_text())
    other, rice = known["classes"]
    barley = {"name": "barley", "color": "#c8a878", "labels": ["barley"]}
    cases = {
        "hold no pixel of class barley": [other, rice, barley],
        "holds 'not_cropland' (code 3), which no class of task paddy_rice lists": [{**other, "labels": ["maize"]}, rice],
    }
    for message, classes in cases.items():
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(known | {"classes": classes}))
        arguments = [*SETTINGS, "--task", tmp_path / "task.yaml", "--data", scenes, "--output", tmp_path / "run"]
        assert exit_code(run_arguments, *arguments) == 2
        assert message in capsys.readouterr().err


def lacks_a_source(scene: Path) -> None:
    sources = yaml.safe_load((scene / "scene.yaml").read_text())["sources"]
    edit(scene, sources={"landsat": sources["landsat"]})


def lacks_bands(scene: Path) -> None:
    rewrite(scene, bands=slice(0, 5), source="modis")


def torn(scene: Path) -> None:
    in_crs(scene, "EPSG:32651", "modis")


def out_of_season(scene: Path) -> None:
    rewrite(scene, dates=np.array([0]))


WRONG_SCENES = [
    (lacks_a_source, "has no modis, which the task needs; it has landsat"),
    (lacks_bands, "source modis needs 7 and misses ['b6', 'b7']"),
    (torn, "both must have one CRS"),
    (out_of_season, "no image of landsat between"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG_SCENES)
def test_mapping_says_what_is_wrong(
    model: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    spoil(scenes / "c")
    arguments = ["--model", model, "--input", scenes / "c", "--output", tmp_path / "new" / "map.tif"]
    assert exit_code(predict_arguments, *arguments) == 2
    errors = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "new").exists()


# ---- what is small, elsewhere or empty is mapped


def mapped(model: Path, scene: Path, output: Path) -> np.ndarray:
    assert exit_code(predict_arguments, "--model", model, "--input", scene, "--output", output) == 0
    assert min(matplotlib.image.imread(output.with_suffix(".png")).shape[:2]) > 200
    with rasterio.open(output) as raster:
        values: np.ndarray = raster.read(1)
    return values


@pytest.mark.slow
def test_the_models_file_alone_makes_the_map(model: Path, known_scenes: Path, tmp_path: Path) -> None:
    """Moved away from its run, by the command from an empty folder."""
    (tmp_path / "alone").mkdir()
    shutil.copy(model, tmp_path / "alone" / "model.safetensors")
    run = shutil.copytree(model.parent, tmp_path / "run")
    expected = mapped(run, known_scenes / "c", tmp_path / "expected.tif")
    shutil.rmtree(run)
    done = subprocess.run(
        [sys.executable, ROOT / "finetune/predict.py", "--model", ".", "--input", known_scenes / "c", "--output", "map.tif"],
        cwd=tmp_path / "alone",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "alone" / "map.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), expected)
        assert raster.tags(1)["class_1"] == "paddy_rice"


def test_a_scene_in_another_zone_is_mapped_in_its_own(model: Path, scenes: Path, tmp_path: Path) -> None:
    here = mapped(model, scenes / "c", tmp_path / "here.tif")
    in_crs(scenes / "c", "EPSG:32651", "landsat", "modis")
    there = mapped(model, scenes / "c", tmp_path / "there.tif")
    np.testing.assert_array_equal(here, there)
    with rasterio.open(tmp_path / "there.tif") as raster, rasterio.open(scenes / "c" / "crop_type.tif") as label:
        assert raster.crs.to_epsg() == 32651
        assert raster.transform == label.transform


def test_a_scene_with_gaps_is_mapped(model: Path, scenes: Path, tmp_path: Path) -> None:
    """Two dates left, and most periods without any."""
    rewrite(scenes / "c", dates=np.array([3, 6]))
    values = mapped(model, scenes / "c", tmp_path / "map.tif")
    group = zarr.open_group(scenes / "c" / "landsat.zarr")
    clear = (group["Fmask"][:] != 2).any(axis=0)
    assert clear.any()
    np.testing.assert_array_equal(values == NO_DATA, ~clear)


def test_a_scene_under_clouds_is_a_map_without_data(model: Path, scenes: Path, tmp_path: Path) -> None:
    write_rice_scene(scenes / "c", "test", side=64, frames=8, cloudy=1.0)
    assert (mapped(model, scenes / "c", tmp_path / "map.tif") == NO_DATA).all()


def test_a_tiny_scene_is_mapped(model: Path, scenes: Path, tmp_path: Path) -> None:
    write_rice_scene(scenes / "c", "test", side=32, frames=8, cloudy=0.0)
    values = mapped(model, scenes / "c", tmp_path / "map.tif")
    assert values.shape == (32, 32)
    assert (values != NO_DATA).all()


def finished(scenes: Path, output: Path) -> dict[str, Any]:
    assert exit_code(run_arguments, *SETTINGS, "--data", scenes, "--output", output) == 0
    assert all(torch.isfinite(weight).all() for weight in load_file(output / "model.safetensors").values())
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return metrics


def test_fine_tuning_with_scenes_smaller_than_a_window(scenes: Path, tmp_path: Path) -> None:
    for seed, (name, split) in enumerate((("a", "train"), ("b", "validation"), ("c", "test"))):
        write_rice_scene(scenes / name, split, side=32, seed=seed, frames=8, field=4)
    metrics = finished(scenes, tmp_path / "run")
    assert metrics["test"]["pixels"] <= 32 * 32 - 1
    with rasterio.open(tmp_path / "run" / "maps" / "c.tif") as raster:
        assert raster.shape == (32, 32)


def test_fine_tuning_where_validation_and_test_are_under_clouds(scenes: Path, tmp_path: Path) -> None:
    for name, split in (("b", "validation"), ("c", "test")):
        write_rice_scene(scenes / name, split, side=64, frames=8, cloudy=1.0)
    metrics = finished(scenes, tmp_path / "run")
    assert metrics["test"]["pixels"] == 0
    assert metrics["score"]["value"] is None
    with rasterio.open(tmp_path / "run" / "maps" / "c.tif") as raster:
        assert (raster.read(1) == NO_DATA).all()


def test_fine_tuning_with_scenes_in_different_zones_and_with_gaps(scenes: Path, tmp_path: Path) -> None:
    rewrite(scenes / "a", dates=np.array([2, 5, 6]))
    in_crs(scenes / "a", "EPSG:32651", "landsat", "modis")
    metrics = finished(scenes, tmp_path / "run")
    assert 0 <= metrics["score"]["value"] <= 1
