"""Fine-tuning on parcels and points: the windows of rasters, years of columns, fingerprints, and one scene in three splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import yaml
from rasterio.features import shapes

from common.notes import collected_notes
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.plan.label_blocks import SplitBlocks
from data_prep.plan.splits import EqualAreaCells
from finetune.data.labelled_data import LabelledScenes, SceneData, check_classes, check_splits_apart
from finetune.data.opening import open_data
from finetune.data.scene_series import SceneSeries, read_classes
from finetune.data.scene_windows import SceneWindows
from finetune.report.map_figure import preview_label
from finetune.task import IGNORE, load_task
from tests.support.archives import days, make_cube, write_scene
from tests.support.finetune_runs import run
from tests.support.parcels import centres
from tests.support.rice_scenes import CODES, write_label, write_rice_scene, write_split_scenes

RICE = replace(load_task("paddy_rice"), sources=("landsat",), window_px=16, frames=8)


def parcels_of(raster: Path) -> geopandas.GeoDataFrame:
    """Connected areas of a label raster, with their codes; what is not labelled is no parcel."""
    with rasterio.open(raster) as label:
        codes = label.read(1)
        found = [(shapely.geometry.shape(g), int(code)) for g, code in shapes(codes, mask=codes > 0, transform=label.transform)]
        return geopandas.GeoDataFrame({"crop": [code for _, code in found]}, geometry=[g for g, _ in found], crs=label.crs)


def edit(folder: Path, **changes: Any) -> None:
    values = yaml.safe_load((folder / "scene.yaml").read_text()) | changes
    (folder / "scene.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))


def with_parcels(folder: Path, **entry: Any) -> Path:
    """The scenes with parcels in place of their label rasters."""
    for scene in sorted(path.parent for path in folder.glob("*/scene.yaml")):
        parcels_of(scene / "crop_type.tif").to_file(scene / "parcels.gpkg")
        edit(scene, labels={"crop_type": {"vector": "parcels.gpkg", "column": "crop", "classes": dict(CODES)} | entry})
    return folder


def windows(data: SceneData, split: str) -> SceneWindows:
    return data.windows(split, RICE, augmentation=None, year=None)


def test_windows_of_parcels_are_those_of_the_raster(tmp_path: Path) -> None:
    folder = write_split_scenes(tmp_path)
    expected = windows(SceneData(folder), "train")
    found = windows(SceneData(with_parcels(folder)), "train")
    assert found.windows == expected.windows
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.series[0].grid == expected.series[0].grid
    series = SceneSeries(load_scene(folder / "d"), RICE, load_sensors(), pixel_size=30.0)
    np.testing.assert_array_equal(preview_label(series), read_classes(series))
    assert preview_label(SceneSeries(load_scene(folder / "d"), RICE, load_sensors(), pixel_size=60.0)) is None


def test_a_label_gets_the_grid_of_the_source_that_it_names(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=128)
    with_parcels(tmp_path, grid="modis", assign="area")
    both = replace(RICE, sources=("landsat", "modis"), window_px=4)
    series = SceneSeries(load_scene(tmp_path / "a"), both, load_sensors())
    assert series.grid.shape == (8, 8)
    only = SceneSeries(load_scene(tmp_path / "a"), replace(RICE, window_px=4), load_sensors())
    assert only.grid == series.grid, "a source that the task does not read may give the grid"
    classes = read_classes(series)
    codes = rasterio.open(tmp_path / "a" / "crop_type.tif").read(1).reshape(8, 16, 8, 16)
    counts = np.stack([(codes == code).mean(axis=(1, 3)) for code in (1, 2, 3)])
    best = np.where(
        (counts.max(axis=0) >= 0.5) & (np.sort(counts, axis=0)[-1] > np.sort(counts, axis=0)[-2]), counts.argmax(0), -1
    )
    np.testing.assert_array_equal(classes, np.where(best < 0, IGNORE, np.where(best == 0, 1, 0)))


def test_all_scenes_may_share_a_file(tmp_path: Path) -> None:
    folder = write_split_scenes(tmp_path)
    expected = {split: windows(SceneData(folder), split).labels for split in ("train", "validation", "test")}
    tables = [parcels_of(folder / scene / "crop_type.tif").to_crs(3035) for scene in "acd"]
    parcels = pd.concat(tables)
    parcels["crop"] = parcels["crop"].map(CODES)
    parcels.to_parquet(folder / "parcels.parquet")
    (folder / "labels.yaml").write_text(yaml.safe_dump({"crop_type": {"vector": "parcels.parquet"}}))
    for scene in "acd":
        edit(folder / scene, labels=None)
    data = SceneData(folder)
    for split, labels in expected.items():
        np.testing.assert_array_equal(windows(data, split).labels, labels)
    assert [dict(label.classes) for label in data.labels(RICE)] == [{1: "maize", 2: "not_cropland", 3: "paddy_rice"}] * 3
    check_splits_apart(windows(data, "train"), windows(data, "validation"), data.test_data(RICE, year=None))


def change_parcels(folder: Path) -> None:
    table = parcels_of(folder / "a" / "crop_type.tif")
    table.loc[3, "crop"] = 3 if table.loc[3, "crop"] != 3 else 1
    table.to_file(folder / "a" / "parcels.gpkg")


def change_shared(folder: Path) -> None:
    (folder / "labels.yaml").write_text("other: {vector: other.gpkg, column: crop}\n")


@pytest.mark.parametrize("change", [change_parcels, change_shared])
def test_changed_files_are_another_run(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = with_parcels(write_split_scenes(tmp_path))
    before = SceneData(folder).fingerprint(RICE)
    assert SceneData(folder).fingerprint(RICE) == before
    change(folder)
    assert SceneData(folder).fingerprint(RICE) != before


def test_all_parts_of_a_shapefile_count(tmp_path: Path) -> None:
    folder = write_split_scenes(tmp_path)
    for scene in "acd":
        parcels_of(folder / scene / "crop_type.tif").to_file(folder / scene / "parcels.shp")
        edit(folder / scene, labels={"crop_type": {"vector": "parcels.shp", "column": "crop", "classes": dict(CODES)}})
    before = SceneData(folder).fingerprint(RICE)
    table = folder / "a" / "parcels.dbf"
    table.write_bytes(table.read_bytes().replace(b"1", b"2", 1))
    assert SceneData(folder).fingerprint(RICE) != before


def test_the_season_is_that_of_the_column(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    dates = np.concatenate([days(2021, 14), days(2022, 20)])
    cube = make_cube(load_sensors()["landsat"], 32, dates, np.random.default_rng(0))
    write_scene(folder, {"landsat": cube}, {"landsat": 30.0})
    grid = SceneSeries(load_scene(folder), RICE, load_sensors(), pixel_size=30.0).grid
    left, _, _, top = grid.bounds
    entry = {"vector": "parcels.gpkg", "column": "crop", "classes": {1: "paddy_rice", 2: "maize"}, "year_column": "year"}
    edit(folder, labels={"crop_type": entry})

    def write(*seasons: int) -> None:
        squares = [shapely.box(left, top - 900, left + 30 * (5 + number), top) for number in range(len(seasons))]
        table = geopandas.GeoDataFrame({"crop": [1, 2][: len(seasons)], "year": seasons}, geometry=squares, crs=grid.crs)
        table.to_file(folder / "parcels.gpkg")

    write(2021)
    series = SceneSeries(load_scene(folder), RICE, load_sensors())
    assert series.year == 2021, "although 2022 has more images"
    assert (read_classes(series) == 1).sum() == 5 * 30
    write(2021, 2022)
    with collected_notes() as notes:
        series = SceneSeries(load_scene(folder), RICE, load_sensors())
    assert notes == [
        "scene a: its label 'crop_type' is of 2021 and 2022; 2022 is used, as it has most images: state another with --year"
    ]
    assert (series.year, (read_classes(series) == 0).sum(), (read_classes(series) == 1).sum()) == (2022, 6 * 30, 0)
    series = SceneSeries(load_scene(folder), RICE, load_sensors(), year=2021)
    assert ((read_classes(series) == 0).sum(), (read_classes(series) == 1).sum()) == (0, 5 * 30)
    with pytest.raises(ValueError, match=r"is of 2021 and 2022, as its column year states, but --year is 2020; leave --year out"):
        SceneSeries(load_scene(folder), RICE, load_sensors(), year=2020)
    other = SceneSeries(load_scene(folder), RICE, load_sensors(), pixel_size=30.0, year=2021)
    assert (preview_label(other) == 1).any()


def test_what_is_odd_about_parcels_is_said(tmp_path: Path) -> None:
    folder = with_parcels(write_split_scenes(tmp_path))
    table = parcels_of(folder / "a" / "crop_type.tif")
    table.loc[len(table)] = {"crop": 3 - int(table.loc[0, "crop"] == 3), "geometry": table.loc[0, "geometry"]}
    table.to_file(folder / "a" / "parcels.gpkg")
    with collected_notes() as notes:
        windows(SceneData(folder), "train")
    pixels = round(table.loc[0, "geometry"].area / 900)
    assert [text for text in notes if "different classes" in text] == [
        f"scene a: parcels.gpkg: {pixels} pixels lie in features of different classes and are not labelled"
    ]


def one_scene(folder: Path) -> Path:
    write_rice_scene(folder / "a", "train", side=160, frames=8, field=10)
    edit(folder / "a", split=None)
    return folder


BLOCKS = {"split_blocks.side_m": 1_000.0, "split_blocks.buffer_m": 90.0}


def test_one_scene_serves_for_all_splits(tmp_path: Path) -> None:
    folder = with_parcels(one_scene(tmp_path))
    whole = read_classes(SceneSeries(load_scene(folder / "a"), RICE, load_sensors()))
    data = open_data(folder, SplitBlocks(side_m=1_000, buffer_m=90))
    seen = np.zeros((3, 160, 160), bool)
    for number, split in enumerate(("train", "validation")):
        one = windows(data, split)
        for (_, row, col), label in zip(one.windows, one.labels, strict=True):
            part = whole[row : row + 16, col : col + 16]
            np.testing.assert_array_equal(label[label != IGNORE], part[label != IGNORE])
            seen[number, row : row + 16, col : col + 16] = label != IGNORE
    test = data.test_data(RICE, year=None)
    assert isinstance(test, LabelledScenes)
    seen[2] = test.labels["a"] != IGNORE
    np.testing.assert_array_equal(test.labels["a"][seen[2]], whole[seen[2]])
    assert (seen.sum(axis=0) <= 1).all()
    assert (seen.sum(axis=(1, 2)) > 500).all()
    places = [np.argwhere(part) for part in seen]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        tree = shapely.STRtree(shapely.points(places[one]))
        _, distance = tree.query_nearest(shapely.points(places[other]), return_distance=True)
        assert distance.min() * 30 > 89
    assert f"{int(seen[2].sum())} pixels; " in data.about_splits
    assert data.about_splits.startswith("labels are divided by blocks of 1000 m with a buffer of 90 m: train ")
    np.testing.assert_array_equal(preview_label(test.series[0]), test.labels["a"])
    check_splits_apart(windows(data, "train"), windows(data, "validation"), test)


def test_a_run_on_one_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_parcels(one_scene(tmp_path / "scenes"))
    options: dict[str, Any] = {"task": "paddy_rice", "encoder": "random_forest", "override.sources": ["landsat"]}
    options |= {"override.window_px": 16, "override.frames": 8, "maps": False, "data": folder, "output": tmp_path / "run"}
    assert run(**options, **BLOCKS) == 0
    out = capsys.readouterr().out
    assert "labels are divided by blocks of 1000 m with a buffer of 90 m: train" in out
    assert "labelled seasons end in 2021 (1 labels)" in out
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["split_blocks"]["side_m"] == 1_000
    with pytest.raises(ValueError, match=r"holds a run with other settings \(split_blocks\)"):
        run(**options, **{"split_blocks.side_m": 1_200.0})


@pytest.mark.parametrize(
    ("split", "blocks", "message"),
    [
        (None, {}, r"no scenes of split validation and test in .*; found a \(no split stated\); no scene.yaml states a `split`: "
                   r"state train, .* --split_blocks\.side_m 2000 --split_blocks\.buffer_m 200"),
        ("train", {}, r"no scenes of split validation and test in .*; found a \(train\); `split` in each scene.yaml says"),
        ("train", {"side_m": 1000}, r"a \(train\) states one: remove `split` from every scene.yaml, or leave --split_blocks out"),
        (None, {"side_m": 300}, r"--split_blocks.side_m is 300, less than a window of 16 px, 480 m; state larger blocks or"),
        (None, {"side_m": 100_000}, r"the labels lie in 1 blocks, and each of train, validation, test needs at least one"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_made(tmp_path: Path, split: str | None, blocks: dict[str, float], message: str) -> None:
    folder = one_scene(tmp_path)
    edit(folder / "a", split=split)
    with pytest.raises(ValueError, match=message):
        windows(open_data(folder, SplitBlocks(**blocks)), "train")  # type: ignore[arg-type]


def test_a_split_whose_labels_all_lie_in_the_buffer_is_refused(tmp_path: Path) -> None:
    """All labels lie around a place at which blocks meet."""
    folder = one_scene(tmp_path)
    x, y = centres(SceneSeries(load_scene(folder / "a"), RICE, load_sensors()).grid, "EPSG:4326")
    cells = EqualAreaCells(side_km=0.6).of_places(x.ravel(), y.ravel()).reshape(x.shape)
    row, col = next((r, c) for r in range(20, 140) for c in range(20, 140) if len(np.unique(cells[r : r + 2, c : c + 2])) >= 3)
    codes = np.zeros((160, 160), int)
    codes[row - 3 : row + 5, col - 3 : col + 5] = 1
    write_label(folder / "a" / "crop_type.tif", codes)
    with pytest.raises(ValueError, match=r"train \d+ blocks, 0 pixels; .* lie in the buffer .*; every split needs labels: state"):
        windows(open_data(folder, SplitBlocks(side_m=600, buffer_m=300)), "train")


def test_fields_without_a_class_of_the_rest_are_learned(tmp_path: Path) -> None:
    """The built-in task knows the names of a boundary label; land outside of fields may be unknown."""
    folder = write_split_scenes(tmp_path)
    task = replace(load_task("field_boundary"), sources=("landsat",), window_px=16, label="fields")
    for outside in (None, "not_field"):
        for scene in "acd":
            parcels_of(folder / scene / "crop_type.tif").iloc[::3].to_file(folder / scene / "parcels.gpkg")
            entry = {"vector": "parcels.gpkg", "boundary_m": 60} | ({} if outside is None else {"outside": outside})
            edit(folder / scene, labels={"fields": entry})
        data = SceneData(folder)
        training = data.windows("train", task, augmentation=None, year=None)
        background, interior, boundary = training.class_pixels()
        assert min(interior, boundary) > 100
        assert (background > 0) == (outside is not None)
        said = check_classes(training, data.labels(task))
        assert said == ("" if outside else "1 of 3 classes have no training pixel and are not learned: background")
