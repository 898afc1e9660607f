"""Points of tables as labelled data: classes, splits, windows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.notes import collected_notes
from data_prep.archive.scene import SPLITS
from finetune.data.opening import open_data
from finetune.data.tables.pixel_task import pixel_task
from finetune.data.tables.seen_keys import SeenKeys
from finetune.data.tables.table_data import TableData
from finetune.task import Task, load_task
from tests.support.point_tables import (
    CLASSES,
    MISSING,
    TIMES,
    description,
    simulate_points,
    wide_table,
    write_points,
    write_table,
    write_task,
)

POINTS = simulate_points(90)


def task_in(folder: Path, **changes: Any) -> Task:
    folder.mkdir(exist_ok=True)
    return pixel_task(load_task(str(write_task(folder, **changes))), 1)


def windows_of(path: Path, task: Task, split: str = "train") -> Any:
    data = open_data(path)
    assert isinstance(data, TableData)
    return data.windows(split, task, augmentation=None, year=None)


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_window_is_the_series_of_a_point(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    path = write_points(tmp_path, POINTS)
    seen = []
    for split in SPLITS:
        windows = windows_of(path, task, split)
        windows.normalization = {"sentinel2": {"mean": [1000.0] * 10, "std": [500.0] * 10}}
        for index in range(len(windows)):
            item = windows[index]
            name, _, _ = item["file_name"].rpartition("-r")
            number = POINTS.ids.index(name)
            clear = (POINTS.pixels[number] != MISSING).all(axis=1)
            expected = np.where(clear[:, None], (POINTS.pixels[number] - 1000.0) / 500, 0)
            np.testing.assert_allclose(item["data"]["sentinel2"][:, :, 0, 0], expected, atol=1e-6)
            assert item["label"].tolist() == [[CLASSES.index(POINTS.labels[number])]]
            assert windows.scene_of(index).startswith("block ")
            seen.append(name)
        assert windows.years == {2021: len(windows)}
        assert windows.pixel_sizes == {10.0}
    assert len(seen) == len(set(seen)) <= len(POINTS.ids)


def test_repeated_pixels_fill_a_patch(tmp_path: Path) -> None:
    one, four = pixel_task(task_in(tmp_path), 1), pixel_task(task_in(tmp_path), 4)
    assert (four.window_px, four.upsample) == (1, {"sentinel2": 4})
    path = write_points(tmp_path, POINTS)
    single, patch = windows_of(path, one), windows_of(path, four)
    single.normalization = patch.normalization = single.normalization = {"sentinel2": single.statistics("sentinel2")}
    for index in range(5):
        pixel, repeated = (windows[index]["data"]["sentinel2"].numpy() for windows in (single, patch))
        assert repeated.shape == (TIMES, 10, 4, 4)
        np.testing.assert_array_equal(repeated, np.broadcast_to(pixel, repeated.shape))


def test_codes_and_names(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    codes = {11: "maize", 12: "wheat", 13: "meadow"}
    code_of = {name: code for code, name in codes.items()}
    numbers = [code_of[label] for label in POINTS.labels]
    named = windows_of(write_points(tmp_path / "names", POINTS), task)
    for kind, file in (("parquet", "points.parquet"), ("csv", "points.csv")):
        table = replaced(wide_table(POINTS), "crop", numbers)
        path = write_table(tmp_path / kind, table, description("wide", files=file, classes=codes))
        coded = windows_of(path, task)
        np.testing.assert_array_equal(np.array(coded.labels), np.array(named.labels))
        with pytest.raises(ValueError, match=r"column 'crop' holds codes \(1\d, .*\); say what they mean: `classes"):
            windows_of(write_table(tmp_path / kind, table, description("wide", files=file)), task)
        del codes[13]
        with pytest.raises(ValueError, match=r"holds 13 \(30 points\), which `classes` does not name; .* it names 11, 12"):
            windows_of(write_table(tmp_path / kind, table, description("wide", files=file, classes=codes)), task)
        codes[13] = "meadow"


def test_rows_without_a_label_are_left_out_and_said(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    labels: list[Any] = list(POINTS.labels)
    labels[:9] = [None, "", " ", "unknown", "unknown", "unknown", "maize", "maize", "maize"]
    table = replaced(wide_table(POINTS), "crop", labels)
    path = write_table(tmp_path, table, description("wide", not_labelled=["unknown"]))
    with collected_notes() as notes:
        names = {
            window.windows and name for split in SPLITS for window in [windows_of(path, task, split)] for name in window.names
        }
    assert any("6 of 90 points have no label and are left out" in note for note in notes)
    assert not names & set(POINTS.ids[:6])
    path = write_table(tmp_path, table, description("wide"))
    with pytest.raises(ValueError, match=r"holds 'unknown' .*, which no class of task crops lists"):
        windows_of(path, task)


def test_a_class_without_a_training_point_is_refused(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    path = write_points(tmp_path, POINTS)
    test = windows_of(path, task, "test")
    (name, scene) = test.names[0], test.scenes[0]
    assert scene
    labels = ["maize" if label == "meadow" else label for label in POINTS.labels]
    labels[POINTS.ids.index(name)] = "meadow"
    path = write_table(tmp_path, replaced(wide_table(POINTS), "crop", labels), description("wide"))
    with pytest.raises(ValueError, match=r"no training point is of class meadow \(1 points\)"):
        windows_of(path, task)


def with_splits(table: pa.Table, splits: list[str | None]) -> pa.Table:
    return table.append_column("split", pa.array(splits))


def test_a_column_of_splits_counts(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    splits: list[str | None] = [SPLITS[number % 3] for number in range(90)]
    values = description("wide", blocks={"side_deg": 0.5})
    values["columns"]["split"] = "split"
    path = write_table(tmp_path, with_splits(wide_table(POINTS), splits), values)
    for split in SPLITS:
        windows = windows_of(path, task, split)
        assert windows.names == [name for name, of_point in zip(POINTS.ids, splits, strict=True) if of_point == split]
        assert all(scene.startswith("block ") for scene in windows.scenes)
    del values["blocks"]
    path = write_table(tmp_path, with_splits(wide_table(POINTS), splits), values)
    windows = windows_of(path, task)
    assert windows.scenes == windows.names  # without blocks every point is a scene
    path = write_table(tmp_path, with_splits(wide_table(POINTS), ["val", None, *splits[2:]]), values)
    with pytest.raises(ValueError, match=r"holds 'val' \(1 points\), None \(1 points\); expected train, validation, test"):
        windows_of(path, task)
    twin = replaced(wide_table(POINTS), "lon", [POINTS.lon[1], *POINTS.lon[1:]])
    twin = replaced(twin, "lat", [POINTS.lat[1], *POINTS.lat[1:]])
    path = write_table(tmp_path, with_splits(twin, splits), values)
    with pytest.raises(ValueError, match=r"points p0001 \(validation\) and p0000 \(train\) have one place and different splits"):
        windows_of(path, task)
    del values["columns"]["split"]
    with pytest.raises(ValueError, match="says neither by `blocks` nor by a column `split`"):
        TableData(write_table(tmp_path, wide_table(POINTS), values))


def test_points_of_two_years(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    years = np.array([2020, 2021])[np.arange(90) % 2]
    starts = [f"{year}-01-15" for year in years]
    table = wide_table(POINTS).append_column("start", pa.array(starts)).append_column("year", pa.array(years))
    values = description("wide", dates={"first_column": "start", "every_days": 30})
    path = write_table(tmp_path, table, values)
    windows = windows_of(path, task)
    assert set(windows.years) == {2020, 2021}
    values["columns"]["year"] = "year"
    stated = windows_of(write_table(tmp_path, table, values), task)
    assert stated.years == windows.years
    for index in range(len(windows)):
        one, other = windows.window(index), stated.window(index)
        assert one.year == other.year == years[POINTS.ids.index(windows.names[index])]
        np.testing.assert_array_equal(one.stacks["sentinel2"].pixels, other.stacks["sentinel2"].pixels)
        assert len(one.stacks["sentinel2"].valid) == TIMES
    data = open_data(path)
    with pytest.raises(ValueError, match=r"its label is of 202., but --year is 2019"):
        data.windows("train", task, augmentation=None, year=2019)


def test_sources_that_a_table_or_a_point_lacks(tmp_path: Path) -> None:
    both = task_in(tmp_path, sources=["sentinel2", "landsat"])
    path = write_points(tmp_path, POINTS)
    with pytest.raises(ValueError, match=r"has no source landsat, which task crops needs; .* --missing_sources allow"):
        windows_of(path, both)
    windows = windows_of(path, replace(both, missing_sources="allow"))
    windows.normalization = {
        source: {"mean": [0.0] * bands, "std": [1.0] * bands} for source, bands in (("sentinel2", 10), ("landsat", 6))
    }
    assert windows[0]["data"]["landsat"].shape == (TIMES, 6, 1, 1)
    assert not windows[0]["data"]["landsat"].any()
    with pytest.raises(ValueError, match="has no source landsat, which task crops needs; it has sentinel2; choose others"):
        windows_of(path, task_in(tmp_path, sources=["landsat"]))


def test_a_fingerprint_changes_with_the_table_and_its_description(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    path = write_points(tmp_path, POINTS)
    before = open_data(path).fingerprint(task)
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert open_data(tmp_path / "elsewhere" / "table.yaml").fingerprint(task) == before
    assert open_data(path).fingerprint(task) == before
    write_points(tmp_path, POINTS, blocks={"side_deg": 0.5, "seed": 1})
    changed = open_data(path).fingerprint(task)
    write_table(tmp_path, replaced(wide_table(POINTS), "crop", POINTS.labels[::-1]), description("wide"))
    assert len({before, changed, open_data(path).fingerprint(task)}) == 3


def test_keys_that_occur_again_are_found() -> None:
    rng = np.random.default_rng(0)
    seen, known = SeenKeys(), set()
    for _ in range(60):
        keys = [str(number) for number in rng.integers(0, 4000, rng.integers(0, 40))]
        expected = next((at for at, key in enumerate(keys) if key in known or key in keys[:at]), None)
        assert seen.add(keys) == expected
        known |= set(keys)
