"""What labels of scenes name, and what a task makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from finetune.data.labelled_data import LabelledScenes, SceneData, check_classes, rest_in_words
from finetune.task import IGNORE, MapClass, Task, load_task
from tests.support.rice_scenes import CODES, write_label, write_split_scenes

RICE = replace(load_task("paddy_rice"), sources=("landsat",), frames=4, window_px=32)
BARLEY = MapClass(name="barley", color="#c8a878", labels=("barley",))


def data_with_classes(folder: Path, classes: dict[int, str]) -> SceneData:
    """Three scenes whose labels have these classes."""
    for scene in write_split_scenes(folder).iterdir():
        values = yaml.safe_load((scene / "scene.yaml").read_text())
        values["labels"]["crop_type"]["classes"] = classes
        (scene / "scene.yaml").write_text(yaml.safe_dump(values))
    return SceneData(folder)


def check(data: SceneData, task: Task) -> str:
    training = data.windows("train", task, year=None)
    return check_classes(training, data.labels(task))


def test_names_that_the_first_class_gets_are_said(tmp_path: Path) -> None:
    data = data_with_classes(tmp_path, CODES)
    assert rest_in_words(RICE, data.labels(RICE)) == (
        "class other gets what no class lists: maize (3 of 3 labels), not_cropland (3 of 3 labels)"
    )
    listed = MapClass(name="other", color="#000000", labels=("maize", "not_cropland"))
    assert rest_in_words(replace(RICE, classes=(listed, RICE.classes[1])), data.labels(RICE)) == ""
    near = data_with_classes(tmp_path / "near", CODES | {1: "Paddy rice"}).labels(RICE)
    with pytest.raises(ValueError, match="which is nearly 'paddy_rice'"):
        rest_in_words(RICE, near)


def test_a_class_that_no_label_names_is_a_mistake_and_one_without_pixels_is_said(tmp_path: Path) -> None:
    task = replace(RICE, classes=(*RICE.classes, BARLEY))
    known = data_with_classes(tmp_path / "known", CODES | {4: "barley"})
    assert check(known, RICE) == ""
    assert check(known, task) == "1 of 3 classes have no training pixel and are not learned: barley"
    with pytest.raises(ValueError, match=r"no pixel of class barley; .* \[\['barley'\]\]; they have barley, maize"):
        check(known, replace(task, target="barley"))
    with pytest.raises(ValueError, match=r"no pixel of class barley; .*; they have maize, not_cropland, paddy_rice"):
        check(data_with_classes(tmp_path / "unknown", CODES), task)


def test_scenes_of_200_classes(tmp_path: Path) -> None:
    """More than eight bits with a sign hold."""
    names = [f"crop_{number}" for number in range(200)]
    task = replace(RICE, target=None, classes=tuple(MapClass(name=n, color="#00ff00", labels=(n,)) for n in names))
    data = data_with_classes(tmp_path, {number + 1: name for number, name in enumerate(names)})
    codes = np.random.default_rng(0).integers(0, 201, (64, 64))
    for scene in "acd":
        write_label(tmp_path / scene / "crop_type.tif", codes)
    training = data.windows("train", task, year=None)
    np.testing.assert_array_equal(training.class_pixels(), np.bincount(codes.ravel(), minlength=201)[1:])
    test = data.test_data(task, year=None)
    assert isinstance(test, LabelledScenes)
    np.testing.assert_array_equal(test.labels["d"], np.where(codes == 0, IGNORE, codes - 1))
