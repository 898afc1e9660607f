"""CropHarvest as a table: numbers, dates and classes of tiny files in the layout of the data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pytest
import yaml
from shapely import Point

from common.command_line import run_command
from data_prep.archive.label import Label
from finetune.data.opening import open_data
from finetune.data.public_datasets.tasks import harvest_task_values
from finetune.import_dataset import import_dataset
from finetune.task import load_task, task_from_dict
from tests.support.finetune_runs import run

# A column of the files for each band, in the order of the sensor's bands: counted by hand from the engineer of the data set.
COLUMN_OF_BAND = {
    "B02": 2, "B03": 3, "B04": 4, "B08": 8, "B05": 5, "B06": 6, "B07": 7, "B8A": 9, "B11": 11, "B12": 12,
}  # fmt: skip
POINTS = 60
END = date(2021, 2, 1)


def write_files(folder: Path, numbers: str = "index") -> np.ndarray:
    """Points around the globe with arrays of random numbers; returns the arrays (points, 12, 18). Every tenth has none."""
    rng = np.random.default_rng(0)
    arrays = rng.uniform(200, 4000, (POINTS, 12, 18))
    classes = [("cereals", "maize"), ("vegetables_melons", "cassava"), (None, None)]
    rows: dict[str, list[Any]] = {name: [] for name in (numbers, "dataset", "is_crop", "label", "classification_label")}
    (folder / "features" / "arrays").mkdir(parents=True)
    for point in range(POINTS):
        group, crop = classes[point % 3]
        values = {numbers: point, "dataset": "geowiki", "is_crop": int(crop is not None), "label": crop}
        for name, value in (values | {"classification_label": group}).items():
            rows[name].append(value)
        if point % 10 != 9:
            with h5py.File(folder / "features" / "arrays" / f"{point}_geowiki.h5", "w") as file:
                file["array"] = arrays[point]
    lon, lat = rng.uniform(-170, 170, POINTS), rng.uniform(-50, 50, POINTS)
    places = {"lon": lon, "lat": lat, "export_end_date": [f"{END}T00:00:00"] * POINTS}
    table = geopandas.GeoDataFrame(rows | places, geometry=[Point(*at) for at in zip(lon, lat, strict=True)], crs="EPSG:4326")
    table.to_file(folder / "labels.geojson")
    return arrays


def imported(folder: Path, output: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run_command(import_dataset, ["--kind", "cropharvest", "--input", str(folder), "--output", str(output), *options])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("numbers", ["index", "dataset_index"])
def test_numbers_and_dates_are_those_of_the_files(tmp_path: Path, numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = write_files(tmp_path / "files", numbers)
    assert imported(tmp_path / "files", tmp_path / "data") == 0
    assert "18 points without a class, 6 without an array" in capsys.readouterr().out
    task = load_task(str(tmp_path / "data" / "task.yaml"))
    assert [c.name for c in task.classes] == ["cereals", "vegetables_melons"]
    windows = open_data(tmp_path / "data" / "table.yaml").windows("train", task, year=None)
    assert len(windows) > 10
    found = {window.stacks["sentinel2_toa"].pixels.tobytes() for window in (windows.window(n) for n in range(len(windows)))}
    expected = {
        np.ascontiguousarray(np.rint(one[:, list(COLUMN_OF_BAND.values())]).astype(np.uint16)[..., None, None]).tobytes()
        for one in arrays
    }
    assert len(found) == len(windows)
    assert found <= expected
    first = windows.window(0)
    noons = [(END - timedelta(days=360 - 30 * step) - date(2020, 2, 1)).days + 0.5 for step in range(12)]
    np.testing.assert_array_equal(first.seasons["sentinel2_toa"].days, noons)
    assert first.stacks["sentinel2_toa"].valid.all()


def test_it_trains(tmp_path: Path) -> None:
    write_files(tmp_path / "files")
    assert imported(tmp_path / "files", tmp_path / "data", "--column", "is_crop") == 0
    data = tmp_path / "data"
    assert [c["name"] for c in yaml.safe_load((data / "task.yaml").read_text())["classes"]] == ["crop", "not_crop"]
    assert run(task=str(data / "task.yaml"), data=data / "table.yaml", output=tmp_path / "run", encoder="random_forest") == 0


def without_column(folder: Path) -> None:
    geopandas.read_file(folder / "labels.geojson").drop(columns="export_end_date").to_file(folder / "labels.geojson")


def without_dates(folder: Path) -> None:
    table = geopandas.read_file(folder / "labels.geojson")
    table["export_end_date"] = "soon"
    table.to_file(folder / "labels.geojson")


def with_array(array: np.ndarray) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder / "features" / "arrays" / "0_geowiki.h5", "w") as file:
            file["array"] = array

    return change


def cut_array(folder: Path) -> None:
    path = folder / "features" / "arrays" / "0_geowiki.h5"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_column, "has no column export_end_date"),
        (without_dates, "export_end_date of 60 points is no date"),
        (with_array(np.zeros((12, 19))), r"0_geowiki.h5: the array has shape \(12, 19\); expected \(12, 18\)"),
        (with_array(np.full((12, 18), 1e6)), "hold 1e\\+06 to 1e\\+06; expected reflectance times 10,000"),
        (cut_array, "0_geowiki.h5 cannot be read as an array of CropHarvest"),
        (lambda folder: shutil.rmtree(folder / "features"), "has no array of a point of labels.geojson"),
        (lambda folder: (folder / "labels.geojson").unlink(), "labels.geojson is missing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    write_files(tmp_path / "files")
    change(tmp_path / "files")
    with pytest.raises(ValueError, match=message):
        import_dataset(kind="cropharvest", input=tmp_path / "files", output=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_another_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of label, classification_label, is_crop"):
        import_dataset(kind="cropharvest", input=tmp_path, output=tmp_path / "data", column="crop")


def test_a_task_of_many_crops_names_them_all() -> None:
    """One that is nearly another, or is called as the class of the rest would be, is no mistake of the user's."""
    names = ["maize", "other", *(f"crop {number}" for number in range(25)), "Maize"]
    task = task_from_dict(harvest_task_values(names))
    assert [c.name for c in task.classes] == ["all_others", *names[:19]]
    assert [name for c in task.classes for name in c.labels] == [*names[19:], *names[:19]]
    codes = np.arange(1, len(names) + 1)
    label = Label(path=Path("points.parquet"), classes=dict(enumerate(names, 1)), nodata=0)
    assert task.class_indices(codes, label).tolist() == [*range(1, 20), *([0] * (len(names) - 19))]
