"""Fields of The World is read as its files say, and what they do not say is asked for."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from finetune.data.opening import open_data
from finetune.data.sample_windows import SampleWindows
from finetune.import_dataset import import_dataset
from finetune.task import IGNORE, Task, load_task
from tests.support.finetune_runs import run
from tests.support.public_datasets import SIDE, write_fields


@pytest.fixture
def chips(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return write_fields(tmp_path / "ftw")


@pytest.fixture
def data(chips: dict[str, dict[str, Any]], tmp_path: Path) -> Path:
    assert chips
    import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "data", countries=["austria"], offset=-1000)
    return tmp_path / "data"


@pytest.fixture
def task(data: Path) -> Task:
    return load_task(str(data / "task.yaml"))


def windows(data: Path, task: Task, split: str) -> SampleWindows:
    found = open_data(data).windows(split, task, augmentation=None, year=None)
    assert isinstance(found, SampleWindows)
    return found


def test_splits_are_those_of_the_chips(data: Path, task: Task) -> None:
    names = {split: windows(data, task, split).names for split in ("train", "validation", "test")}
    assert names == {"train": ["austria_g1", "austria_g2"], "validation": ["austria_g3"], "test": ["austria_g4"]}


def test_numbers_and_labels_are_those_of_the_files(data: Path, task: Task, chips: dict[str, dict[str, Any]]) -> None:
    window = windows(data, task, "test").window(0)
    stack, chip = window.stacks["sentinel2_rgbn"], chips["g4"]
    stored = np.stack([chip["window_a"], chip["window_b"]]).astype(int)
    seen = (stored > 0).all(axis=1)
    assert not seen[:, -1, -1].any()
    expected = np.where(seen[:, None], np.maximum(stored - 1000, 1), 0)
    size = np.s_[..., :SIDE, :SIDE]
    assert np.array_equal(stack.valid[size], seen)
    assert np.array_equal(stack.pixels[size], expected)
    label = np.where(chip["semantic_3class"] == 3, IGNORE, chip["semantic_3class"].astype(int))
    assert np.array_equal(window.label[:SIDE, :SIDE], label)
    season = window.seasons["sentinel2_rgbn"]
    assert season.choose(stack.valid).tolist() == [0, 1], "each image is one frame, in the order of the windows"


def test_numbers_without_an_offset(chips: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "plain", countries=["austria"], offset=0)
    task = load_task(str(tmp_path / "plain/task.yaml"))
    stack = windows(tmp_path / "plain", task, "test").window(0).stacks["sentinel2_rgbn"]
    assert np.array_equal(stack.pixels[1, :, 3, 4], chips["g4"]["window_b"][:, 3, 4])


def test_two_classes(data: Path, task: Task, chips: dict[str, dict[str, Any]]) -> None:
    two = replace(task, label="semantic_2class", classes=task.classes[:2])
    label = windows(data, two, "test").window(0).label[:SIDE, :SIDE]
    assert np.array_equal(label, chips["g4"]["semantic_2class"])


def test_chips_without_imagery_are_listed(
    tmp_path: Path, chips: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert chips
    (tmp_path / "ftw/austria/s2_images/window_b/g2.tif").unlink()
    import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "data", countries=["austria"], offset=0)
    assert "1 chips lack an image or a label" in capsys.readouterr().out
    with (tmp_path / "data/left_out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["country", "chip", "split"], ["austria", "g2", "train"]]
    task = load_task(str(tmp_path / "data/task.yaml"))
    assert windows(tmp_path / "data", task, "train").names == ["austria_g1"]


def test_a_changed_label_or_offset_is_another_run(data: Path, task: Task, tmp_path: Path) -> None:
    before = open_data(data).fingerprint(task)
    import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "plain", countries=["austria"], offset=0)
    assert open_data(tmp_path / "plain").fingerprint(task) != before
    with rasterio.open(tmp_path / "ftw/austria/label_masks/semantic_3class/g1.tif", "r+") as raster:
        raster.write(1 - (raster.read() > 0).astype(np.uint8))
    assert open_data(data).fingerprint(task) != before


def test_it_trains(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"override.window_px": 16, "maps": False}
    assert run(task=str(data / "task.yaml"), data=data, output=tmp_path / "run", encoder="random_forest", **options) == 0


@pytest.mark.usefixtures("chips")
def test_what_the_files_do_not_say_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --countries, and --offset, as its files do not say it"):
        import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "data", countries=["austria"])
    with pytest.raises(ValueError, match=r"no .*chips_belgium\.parquet: expected the unpacked folder"):
        import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "data", countries=["belgium"], offset=0)
    with pytest.raises(ValueError, match="--kind fields_of_the_world knows no --column"):
        import_dataset("fields_of_the_world", tmp_path / "ftw", tmp_path / "data", countries=["austria"], offset=0, column="a")
    assert not (tmp_path / "data").exists()


def test_files_of_another_form_are_named(data: Path, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "ftw/austria/s2_images/window_a/g4.tif"
    with rasterio.open(path) as raster:
        profile, pixels = raster.profile, raster.read()
    with rasterio.open(path, "w", **(profile | {"count": 3})) as raster:
        raster.write(pixels[:3])
    test = windows(data, task, "test")
    with pytest.raises(ValueError, match=r"has bands, rows and columns \(3, 32, 32\); expected \(4, 32, 32\)"):
        test.window(0)
    with rasterio.open(path, "w", **(profile | {"dtype": "float32"})) as raster:
        raster.write(pixels / 1e4)
    with pytest.raises(ValueError, match="holds float32; expected whole numbers as the product stores them"):
        test.window(0)
    path.write_bytes(b"II*\0nonsense")
    with pytest.raises(ValueError, match=r"g4\.tif cannot be read"):
        test.window(0)


def test_a_wrong_description_is_named(data: Path) -> None:
    path = data / "public_dataset.yaml"
    text = path.read_text()
    path.write_text(text.replace("offset: -1000", "offset: about a thousand"))
    with pytest.raises(ValueError, match="offset is 'about a thousand'; expected a whole number"):
        open_data(data)
    path.write_text(text.replace("fields_of_the_world", "eurosat"))
    with pytest.raises(ValueError, match="kind is 'eurosat'; expected pastis or fields_of_the_world"):
        open_data(data)
    path.write_text(text + "flavour: sweet\n")
    with pytest.raises(ValueError, match=r"has the keys .* found"):
        open_data(data)
