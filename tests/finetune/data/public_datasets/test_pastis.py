"""PASTIS is read as its files say: numbers, dates, folds, what was not seen and what is not labelled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.archive.sensor import load_sensors
from finetune.data.labelled_data import check_classes
from finetune.data.opening import open_data
from finetune.data.sample_windows import SampleWindows
from finetune.import_dataset import import_dataset
from finetune.task import IGNORE, Task, load_task
from tests.support.finetune_runs import run
from tests.support.public_datasets import SIDE, write_pastis

# Where each band of the sensor lies in the files: B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12.
IN_FILE = {"B02": 0, "B03": 1, "B04": 2, "B05": 3, "B06": 4, "B07": 5, "B08": 6, "B8A": 7, "B11": 8, "B12": 9}


@pytest.fixture
def patches(tmp_path: Path) -> dict[int, dict[str, Any]]:
    return write_pastis(tmp_path / "PASTIS")


@pytest.fixture
def data(patches: dict[int, dict[str, Any]], tmp_path: Path) -> Path:
    assert patches
    import_dataset("pastis", tmp_path / "PASTIS", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def task(data: Path) -> Task:
    return load_task(str(data / "task.yaml"))


def windows(data: Path, task: Task, split: str) -> SampleWindows:
    found = open_data(data).windows(split, task, augmentation=None, year=None)
    assert isinstance(found, SampleWindows)
    return found


def test_folds_are_splits_and_lie_apart(data: Path, task: Task) -> None:
    names = {split: windows(data, task, split).names for split in ("train", "validation", "test")}
    assert names == {
        "train": ["t31tfm_10007", "t31tfm_10014", "t31tfm_10021"],
        "validation": ["t31tfm_10028"],
        "test": ["t31tfm_10035"],
    }


@pytest.mark.usefixtures("patches")
def test_other_folds_can_be_held_out(tmp_path: Path) -> None:
    import_dataset("pastis", tmp_path / "PASTIS", tmp_path / "other", validation_folds=[1], test_folds=[2, 3])
    task = load_task(str(tmp_path / "other/task.yaml"))
    assert windows(tmp_path / "other", task, "test").names == ["t31tfm_10014", "t31tfm_10021"]
    assert windows(tmp_path / "other", task, "validation").names == ["t31tfm_10007"]


def test_numbers_dates_and_labels_are_those_of_the_files(data: Path, task: Task, patches: dict[int, dict[str, Any]]) -> None:
    test = windows(data, task, "test")
    patch, sensor = patches[10_035], load_sensors()["sentinel2"]
    assert len(test) == 1
    window = test.window(0)
    stack = window.stacks["sentinel2"]
    dates = [np.datetime64(f"{str(day)[:4]}-{str(day)[4:6]}-{str(day)[6:]}") for day in patch["dates"]]
    first, end = np.datetime64("2018-10-01"), np.datetime64("2019-10-01")
    inside = [index for index, day in enumerate(dates) if first <= day < end]
    expected = patch["pixels"][inside][:, [IN_FILE[band] for band in sensor.bands]]
    seen = (expected > 0).all(axis=1)
    assert (~seen[0, -4:, -4:]).all()
    assert not seen[1, 0, 5]
    assert stack.pixels.dtype == np.uint16
    size = np.s_[..., :SIDE, :SIDE]
    assert np.array_equal(stack.valid[size], seen)
    assert np.array_equal(stack.pixels[size], np.where(seen[:, None], expected, 0))
    assert window.year == 2019
    assert np.allclose(window.seasons["sentinel2"].days, [(dates[i] - first).astype(int) + 0.5 for i in inside])
    label = window.label[:SIDE, :SIDE]
    assert np.array_equal(label, np.where(patch["codes"] == 19, IGNORE, patch["codes"].astype(int)))


def test_classes_are_grouped_by_their_names(data: Path, tmp_path: Path, patches: dict[int, dict[str, Any]]) -> None:
    values = yaml.safe_load((data / "task.yaml").read_text())
    values["classes"] = [
        {"name": "other", "color": "#aaaaaa"},
        {"name": "cereal", "color": "#ffcc00", "labels": ["soft_winter_wheat", "corn"]},
    ]
    (tmp_path / "cereal.yaml").write_text(yaml.safe_dump(values))
    task = load_task(str(tmp_path / "cereal.yaml"))
    label = windows(data, task, "test").window(0).label[:SIDE, :SIDE]
    codes = patches[10_035]["codes"]
    assert np.array_equal(label, np.where(codes == 19, IGNORE, np.isin(codes, [2, 3])))
    opened = open_data(data)
    assert check_classes(windows(data, task, "train"), opened.labels(task)) == ""


def test_the_task_has_all_classes_and_no_void(task: Task) -> None:
    names = [c.name for c in task.classes]
    assert (len(names), names[0], names[-1]) == (19, "background", "sorghum")
    assert len({c.color for c in task.classes}) == 19


def test_a_changed_label_is_another_run(data: Path, task: Task, tmp_path: Path) -> None:
    before = open_data(data).fingerprint(task)
    path = tmp_path / "PASTIS/ANNOTATIONS/TARGET_10007.npy"
    target = np.load(path)
    target[0, 5, 5] = 4
    np.save(path, target)
    assert open_data(data).fingerprint(task) != before


def test_it_trains(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"override.frames": 4, "override.window_px": 16, "maps": False}
    assert run(task=str(data / "task.yaml"), data=data, output=tmp_path / "run", encoder="random_forest", **options) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test"]["classes"]["corn"]["f1"] > 0.9, "the crop shows in the near infrared"
    assert metrics["training_origin"] == {"years": {"2019": 3}, "regions": {}, "samples": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "metadata.geojson").unlink(), "no metadata.geojson in"),
        (lambda folder: (folder / "metadata.geojson").write_text("{}"), "is not that of PASTIS"),
        (lambda folder: (folder / "DATA_S2/S2_10007.npy").unlink(), r"1 files of 5 patches are missing, first .*S2_10007\.npy"),
        (lambda folder: _twice(folder / "metadata.geojson"), "describes 10 patches, 5 different ones"),
    ],
)
@pytest.mark.usefixtures("patches")
def test_what_is_missing_is_named_before_anything_is_written(tmp_path: Path, change: Any, message: str) -> None:
    change(tmp_path / "PASTIS")
    with pytest.raises(ValueError, match=message):
        import_dataset("pastis", tmp_path / "PASTIS", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def _twice(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"features": content["features"] * 2}))


def test_folds_that_are_not_there_are_named(tmp_path: Path) -> None:
    write_pastis(tmp_path / "PASTIS", folds=4)
    with pytest.raises(ValueError, match=r"no patch is of fold 5; there are \[1, 2, 3, 4\]"):
        import_dataset("pastis", tmp_path / "PASTIS", tmp_path / "data")
    with pytest.raises(ValueError, match="must hold a fold each, and none twice"):
        import_dataset("pastis", tmp_path / "PASTIS", tmp_path / "data", validation_folds=[4], test_folds=[4])
    with pytest.raises(ValueError, match="no patch is left for train"):
        import_dataset("pastis", tmp_path / "PASTIS", tmp_path / "data", validation_folds=[1, 2], test_folds=[3, 4])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04nonsense", "is no array of numpy, or not all of it"),
        (b"", "is no array of numpy, or not all of it"),
    ],
)
def test_a_damaged_file_is_named(data: Path, task: Task, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "PASTIS/DATA_S2/S2_10035.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        windows(data, task, "test")


def test_a_cut_file_is_named(data: Path, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "PASTIS/DATA_S2/S2_10035.npy"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="is no array of numpy, or not all of it"):
        windows(data, task, "test")


def test_dates_that_do_not_fit_the_images_are_named(data: Path, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "PASTIS/DATA_S2/S2_10035.npy"
    np.save(path, np.load(path)[1:])
    with pytest.raises(ValueError, match=r"holds 6 images, and metadata.geojson states 7 dates"):
        windows(data, task, "test")


def test_a_pickle_is_never_read(data: Path, task: Task, tmp_path: Path) -> None:
    np.save(tmp_path / "PASTIS/ANNOTATIONS/TARGET_10035.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is no array of numpy"):
        windows(data, task, "test")


def test_another_label_or_source_is_named(data: Path, task: Task) -> None:
    with pytest.raises(ValueError, match=r"give --override\.label crop_type"):
        windows(data, replace(task, label="crop_type_10m"), "test")
    with pytest.raises(ValueError, match="PASTIS has sentinel2 images, and task pastis reads modis"):
        windows(data, replace(task, sources=("modis",)), "test")
