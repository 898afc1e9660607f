"""Series of a scene: grids that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.notes import collected_notes
from data_prep.archive.scene import Scene, load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries, read_classes
from finetune.task import load_task
from tests.support.archives import days, make_cube, write_scene
from tests.support.rice_scenes import MODIS_PX, write_label, write_rice_scene


def test_grids_that_do_not_nest_are_refused(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=64)
    scene, task = load_scene(tmp_path / "a"), load_task("paddy_rice")
    series = SceneSeries(scene, task, load_sensors())
    assert series.step == MODIS_PX
    with pytest.raises(ValueError, match=r"multiple of 16, for instance --override.window_px 48"):
        series.check_window(50)
    label = tmp_path / "a" / "crop_type.tif"
    write_label(label, np.ones((60, 64), int))
    with pytest.raises(ValueError, match=r"60 x 64 px .* covers another area than every source .* 64 x 64 px"):
        SceneSeries(scene, task, load_sensors())
    write_label(label, np.ones((64, 64), int), west=500_050.0)
    with pytest.raises(ValueError, match="covers another area"):
        SceneSeries(scene, task, load_sensors())
    label.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        SceneSeries(scene, task, load_sensors())


def with_label(folder: Path, **changes: Any) -> Scene:
    """The scene with these entries of its label in scene.yaml; None removes one."""
    values = yaml.safe_load((folder / "scene.yaml").read_text())
    label = values["labels"]["crop_type"] | changes
    values["labels"]["crop_type"] = {key: value for key, value in label.items() if value is not None}
    (folder / "scene.yaml").write_text(yaml.safe_dump(values))
    return load_scene(folder)


def test_class_zero_is_a_class(tmp_path: Path) -> None:
    _, codes = write_rice_scene(tmp_path / "a", "train", side=64)
    write_label(tmp_path / "a" / "crop_type.tif", codes == 1)
    scene = with_label(tmp_path / "a", classes={0: "no_crop", 1: "paddy_rice"}, nodata=None)
    classes = read_classes(SceneSeries(scene, load_task("paddy_rice"), load_sensors()))
    np.testing.assert_array_equal(classes, codes == 1)


def two_years(folder: Path) -> Path:
    """A scene with images of 2021, and more of 2022."""
    dates = np.concatenate([days(2021, 14), days(2022, 20)])
    labels = {"crop_type": {"path": "crop_type.tif", "classes": {1: "paddy_rice"}, "nodata": 0}}
    cube = make_cube(load_sensors()["landsat"], 64, dates, np.random.default_rng(0))
    write_scene(folder, {"landsat": cube}, {"landsat": 30.0}, labels=labels)
    write_label(folder / "crop_type.tif", np.ones((64, 64), int))
    return folder


def test_the_season_is_that_of_the_label(tmp_path: Path) -> None:
    task = replace(load_task("paddy_rice"), sources=("landsat",))
    folder = two_years(tmp_path / "a")
    with collected_notes() as notes:
        assert SceneSeries(load_scene(folder), task, load_sensors()).year == 2022
    (found,) = notes
    assert "scene a: has many images of the seasons that end in 2021 and 2022; 2022 is used" in found
    scene = with_label(folder, year=2021)
    with collected_notes() as notes:
        assert SceneSeries(scene, task, load_sensors()).year == 2021
        assert SceneSeries(scene, task, load_sensors(), pixel_size=30.0, year=2022).year == 2022, "a map may be of any year"
    assert notes == []
    with pytest.raises(ValueError, match=r"scene a: its label 'crop_type' is of 2021, as scene.yaml states, but --year is 2022"):
        SceneSeries(scene, task, load_sensors(), year=2022)
