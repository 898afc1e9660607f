"""Scenes whose rasters say the same place in other words: from south to north, in another CRS, in degrees."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
import zarr
from affine import Affine
from pyproj import Transformer

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries, read_classes
from finetune.mapping.cog import NO_DATA
from finetune.mapping.scene import predict_scene
from finetune.predict import predict
from finetune.report.map_figure import preview_label
from finetune.task import load_task
from tests.support.archives import HLS_WKT, NORTH, WEST
from tests.support.finetune_runs import run
from tests.support.rice_scenes import write_rice_scene, write_split_scenes
from tests.support.stand_in_models import Pixelwise, make_recipe
from tests.support.stored_orders import store_cube_south_up, store_raster_south_up

RICE = replace(load_task("paddy_rice"), window_px=32)
SETTINGS: dict[str, Any] = {
    "task": "paddy_rice",
    "encoder": "temporal_cnn",
    "override.frames": 4,
    "override.window_px": 32,
    "decoder.channels": 4,
    "training.epochs": 1,
}


def place(scene: Path, crs: str, transform: Affine, label_crs: str, label_transform: Affine) -> None:
    """Put a scene of `write_rice_scene`, with the same pixels, elsewhere."""
    for source, step in (("landsat", 1), ("modis", 16)):
        group = zarr.open_group(scene / f"{source}.zarr")
        group.attrs["crs"] = crs
        pixel = transform @ Affine.scale(step)
        group["x"][:] = pixel.c + pixel.a * (np.arange(group["x"].size) + 0.5)
        group["y"][:] = pixel.f + pixel.e * (np.arange(group["y"].size) + 0.5)
    with rasterio.open(scene / "crop_type.tif", "r+") as raster:
        raster.crs, raster.transform = rasterio.crs.CRS.from_user_input(label_crs), label_transform


def mapped(scene: Path, path: Path) -> tuple[np.ndarray, Affine, str]:
    """A map of a scene by a model that knows one pixel at a time, its transform and its CRS."""
    recipe = make_recipe(32)
    with SceneSeries(load_scene(scene), recipe.task, load_sensors(), pixel_size=30.0) as series:
        predict_scene(Pixelwise(), recipe, series, path, torch.device("cpu"))
    with rasterio.open(path) as raster:
        return raster.read(1), raster.transform, raster.crs.to_string()


@pytest.mark.parametrize("flipped", ["images", "label", "images label"])
def test_a_scene_from_south_to_north_is_mapped_and_labelled_as_the_north_up_one(tmp_path: Path, flipped: str) -> None:
    _, codes = write_rice_scene(tmp_path / "plain", "test", side=64, frames=8)
    scene = Path(shutil.copytree(tmp_path / "plain", tmp_path / "scene"))
    if "images" in flipped:
        for source in ("landsat", "modis"):
            store_cube_south_up(scene / f"{source}.zarr")
    if "label" in flipped:
        store_raster_south_up(scene / "crop_type.tif")
    found, expected = mapped(scene, tmp_path / "a.tif"), mapped(tmp_path / "plain", tmp_path / "b.tif")
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]
    series = SceneSeries(load_scene(scene), RICE, load_sensors())
    np.testing.assert_array_equal(read_classes(series) == 1, codes == 1)
    np.testing.assert_array_equal(preview_label(series), read_classes(series))
    # Rice is green when it grows: the place of each mapped pixel is found by the label's own georeference.
    rows, cols = np.nonzero(found[0] != NO_DATA)
    x, y = found[1] @ (cols + 0.5, rows + 0.5)
    with rasterio.open(scene / "crop_type.tif") as raster:
        at_place = np.array([value[0] for value in raster.sample(zip(x, y, strict=True))])
    np.testing.assert_array_equal(at_place, codes[rows, cols])


@pytest.mark.parametrize(
    ("crs", "label_crs", "moved_north"), [(HLS_WKT, "EPSG:32610", 0), ("EPSG:32636", "EPSG:32736", 10_000_000)]
)
def test_images_and_label_in_other_words_for_one_crs(tmp_path: Path, crs: str, label_crs: str, moved_north: float) -> None:
    _, codes = write_rice_scene(tmp_path / "a", "train", side=64, frames=8)
    north = 4_300_020.0 if not moved_north else -3_000_000.0
    transform = Affine(30, 0, 600_000, 0, -30, north)
    place(tmp_path / "a", crs, transform, label_crs, Affine.translation(0, moved_north) @ transform)
    scene = load_scene(tmp_path / "a")
    with SceneSeries(scene, RICE, load_sensors()) as series:
        assert series.grid.crs == label_crs
        assert series.step == 16
        stacks = series.read(16, 32, 32, 16)
    landsat = zarr.open_group(tmp_path / "a" / "landsat.zarr")["reflectance"][:]
    used = series.seasons["landsat"].times
    seen = stacks["landsat"].valid[:, None] & np.ones((1, 6, 1, 1), bool)
    np.testing.assert_array_equal(stacks["landsat"].pixels[seen], landsat[used, :, 16:48, 32:48][seen])
    np.testing.assert_array_equal(read_classes(series) == 1, codes == 1)
    # A map has the CRS of the images; each of its pixels lies on that of the label.
    with SceneSeries(scene, RICE, load_sensors(), pixel_size=30.0) as mapping:
        to_label = Transformer.from_crs(mapping.grid.crs, label_crs, always_xy=True)
        x, y = to_label.transform(*(mapping.grid.transform @ (40.5, 7.5)))
        np.testing.assert_allclose((x, y), series.grid.transform @ (40.5, 7.5), atol=1e-3)
        assert preview_label(mapping) is not None


def test_crss_that_differ_are_named_in_short(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=64, frames=8)
    transform = Affine(30, 0, 600_000, 0, -30, 4_300_020)
    place(tmp_path / "a", HLS_WKT, transform, "EPSG:32611", transform)
    with pytest.raises(ValueError, match="the map's grid is in EPSG:32611, landsat in 'UTM Zone 10, Northern Hemisphere'"):
        SceneSeries(load_scene(tmp_path / "a"), RICE, load_sensors())


def test_scenes_in_degrees_train_and_are_mapped(tmp_path: Path) -> None:
    scenes = write_split_scenes(tmp_path / "scenes")
    side = 0.00026949458523585647  # 30 m at the equator, as Earth Engine exports it
    for number, name in enumerate(("a", "c", "d")):
        transform = Affine(side, 0, side * (-450_000 + 1_000 * number), 0, -side, side * 143_000)
        place(scenes / name, "EPSG:4326", transform, "EPSG:4326", transform)
    run(data=scenes, output=tmp_path / "run", **SETTINGS)
    predict(tmp_path / "run", tmp_path / "map.tif", [scenes / "d"])
    with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(scenes / "d" / "crop_type.tif") as label:
        assert found.shape == label.shape
        np.testing.assert_allclose(tuple(found.transform)[:6], tuple(label.transform)[:6], rtol=1e-12)
        with rasterio.open(tmp_path / "run" / "maps" / "d.tif") as scored:
            np.testing.assert_array_equal(found.read(1), scored.read(1))


def moved_label(folder: Path, metres: float) -> None:
    with rasterio.open(folder / "crop_type.tif", "r+") as raster:
        raster.transform = Affine.translation(-metres, metres) @ raster.transform


def test_a_label_that_is_shifted_by_half_a_pixel_is_refused(tmp_path: Path) -> None:
    scenes = write_split_scenes(tmp_path)
    moved_label(scenes / "a", 15)
    with pytest.raises(ValueError, match=r"64 x 64 px of 30 from \(500025, 5000055\) in EPSG:32631\) covers another area"):
        run(data=scenes, output=tmp_path / "run", **SETTINGS)


def test_a_rotated_label_is_refused(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=64, frames=8)
    with rasterio.open(tmp_path / "a" / "crop_type.tif", "r+") as raster:
        raster.transform = raster.transform @ Affine.rotation(0.5, (32, 32))
    with pytest.raises(ValueError, match="rotated in EPSG:32631"):
        SceneSeries(load_scene(tmp_path / "a"), RICE, load_sensors())


def copy_scene(scene: Path, name: str, split: str) -> Path:
    """The same scene under another name, in another split."""
    copied = Path(shutil.copytree(scene, scene.with_name(name)))
    values = yaml.safe_load((copied / "scene.yaml").read_text()) | {"name": name, "split": split}
    (copied / "scene.yaml").write_text(yaml.safe_dump(values))
    return copied


def keep_labels(scene: Path, first: int, end: int) -> None:
    """Label only the columns from `first` to before `end`."""
    with rasterio.open(scene / "crop_type.tif", "r+") as raster:
        codes = raster.read(1)
        codes[:, :first] = codes[:, end:] = 0
        raster.write(codes, 1)


def test_a_test_scene_on_the_ground_of_a_training_scene_is_refused(tmp_path: Path) -> None:
    scenes = write_split_scenes(tmp_path)
    copy_scene(scenes / "a", "b", "test")
    said = r"labels of common ground, in percent of the fewer labelled pixels: a \(train\) and b \(test\) by 100 %; scores on"
    with pytest.raises(ValueError, match=said):
        run(data=scenes, output=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("common", "refused"), [(0, False), (16, True)])
def test_scenes_may_lie_on_common_ground_where_only_one_of_them_is_labelled(tmp_path: Path, common: int, refused: bool) -> None:
    """Labels in the west for training, and in the east for testing, of the same images."""
    scenes = write_split_scenes(tmp_path)
    keep_labels(copy_scene(scenes / "a", "b", "test"), 32 - common, 64)
    keep_labels(scenes / "a", 0, 32)
    if refused:
        with pytest.raises(ValueError, match=r"a \(train\) and b \(test\) by 50 %"):  # 16 of the 32 columns of a
            run(data=scenes, output=tmp_path / "run", **SETTINGS)
    else:
        assert run(data=scenes, output=tmp_path / "run", **SETTINGS) == 0


def test_scenes_that_touch_are_no_common_ground(tmp_path: Path) -> None:
    scenes = write_split_scenes(tmp_path)
    for name, east in (("c", 64), ("d", -64)):
        transform = Affine(30, 0, WEST + 30 * east, 0, -30, NORTH)
        place(scenes / name, "EPSG:32631", transform, "EPSG:32631", transform)
    assert run(data=scenes, output=tmp_path / "run", **SETTINGS) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["pixels"] > 4_000
