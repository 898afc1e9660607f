"""Scenes that lack a source: refused, or used with zeros in its place, in training and in maps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
import zarr

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.augmentation import Augmentation
from finetune.data.scene_windows import SceneWindows
from finetune.mapping.cog import NO_DATA
from finetune.mapping.finished_blocks import weights_digest
from finetune.mapping.tiling import Tiling
from finetune.mapping.workers import BlockJob, predict_in_worker
from finetune.model.model_file import load_model, save_model
from finetune.model.recipe import Recipe, build_model
from finetune.predict import predict
from finetune.task import load_task
from pretrain.model import EncoderConfig
from tests.support.finetune_runs import run
from tests.support.rice_scenes import write_rice_scene
from tests.support.window_stores import stored_windows

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)
SENSORS = load_sensors()
RICE = replace(load_task("paddy_rice"), frames=8)
ALLOW = replace(RICE, missing_sources="allow")
UNIT = {
    source: {"mean": [2000.0] * len(SENSORS[source].bands), "std": [1000.0] * len(SENSORS[source].bands)}
    for source in RICE.sources
}


pytestmark = pytest.mark.usefixtures("one_thread")


def without(scene: Path, source: str) -> Path:
    """Take a source out of a scene.yaml."""
    description = yaml.safe_load((scene / "scene.yaml").read_text())
    del description["sources"][source]
    (scene / "scene.yaml").write_text(yaml.safe_dump(description))
    return scene


@pytest.fixture
def scenes(tmp_path: Path) -> dict[str, Path]:
    """The same scene whole, without MODIS, with MODIS that is cloudy throughout, without Landsat, and with MODIS of 2015 only."""
    write_rice_scene(tmp_path / "whole", "train", side=96, seed=4)
    folders = {"whole": tmp_path / "whole"}
    for name in ("no_modis", "cloudy_modis", "no_landsat", "old_modis"):
        folders[name] = Path(shutil.copytree(tmp_path / "whole", tmp_path / name))
        description = yaml.safe_load((folders[name] / "scene.yaml").read_text())
        (folders[name] / "scene.yaml").write_text(yaml.safe_dump(description | {"name": name}))
    without(folders["no_modis"], "modis")
    without(folders["no_landsat"], "landsat")
    zarr.open_group(folders["cloudy_modis"] / "modis.zarr")[SENSORS["modis"].quality.name][:] = 255
    time = zarr.open_group(folders["old_modis"] / "modis.zarr")["time"]
    time[:] = time[:] - 6 * 365
    return folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    bands = {source: len(SENSORS[source].bands) for source in RICE.sources}
    recipe = Recipe(
        task=RICE, sensors={s: SENSORS[s] for s in RICE.sources}, normalization=UNIT, pixel=30.0,
        encoder=replace(SMALL, sources=bands).to_dict(), channels=8, origin="scratch",
    )  # fmt: skip
    save_model(tmp_path / "model.safetensors", build_model(recipe), recipe)
    return tmp_path / "model.safetensors"


def test_windows_of_scenes_with_and_without_a_source_are_stacked(scenes: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scene no_modis has no modis, .* --missing_sources allow"):
        SceneWindows([load_scene(scenes["no_modis"])], RICE, SENSORS)
    with pytest.raises(ValueError, match=r"scene old_modis: no image of modis between 2021-"):
        SceneWindows([load_scene(scenes["old_modis"])], RICE, SENSORS)
    chosen = [load_scene(scenes[name]) for name in ("no_modis", "old_modis", "cloudy_modis", "whole")]
    how = Augmentation(crop_px=32, drop_sources=0.3)
    straight = SceneWindows(chosen, ALLOW, SENSORS, augmentation=how, year=2021)
    for dataset in (straight, stored_windows(straight, tmp_path / "windows")):
        dataset.normalization = UNIT
        each = len(dataset) // 4
        batch = dataset.batch(range(len(dataset)))
        assert batch["data"]["modis"].shape[-2:] == (4, 4)
        assert (batch["data"]["modis"][: 3 * each] == 0).all()
        assert (batch["data"]["modis"][3 * each :] != 0).any()
        for part in range(1, 4):  # Landsat is the same in all
            assert torch.equal(batch["data"]["landsat"][:each], batch["data"]["landsat"][part * each : (part + 1) * each])
        drawn = dataset.batch(range(len(dataset)), np.random.default_rng(0))
        assert all(torch.isfinite(pixels).all() for pixels in drawn["data"].values())
        assert np.isfinite(dataset.statistics("modis")["mean"]).all()
        dataset.close()
    # 256 px of 30 m are 16 pixels of 480 m, as in the scene that has them, and not 17 of the sensor's own 463 m.
    large = SceneWindows([load_scene(scenes[name]) for name in ("no_modis", "whole")], replace(ALLOW, window_px=256), SENSORS)
    large.normalization = UNIT
    assert large.batch(range(2))["data"]["modis"].shape == (2, 8, 7, 16, 16)


def test_the_map_is_that_of_a_source_without_a_clear_image(scenes: dict[str, Path], model: Path, tmp_path: Path) -> None:
    maps = {}
    for name in ("whole", "cloudy_modis", "no_modis", "old_modis"):
        allow = "allow" if name in ("no_modis", "old_modis") else None
        output = tmp_path / f"{name}.tif"
        predict(
            model=model, input=[scenes[name]], output=output, missing_sources=allow, year=2021, block_px=64,
            probabilities=True,
        )  # fmt: skip
        with rasterio.open(tmp_path / f"{name}_probabilities.tif") as raster:
            maps[name] = raster.read()
    np.testing.assert_array_equal(maps["no_modis"], maps["cloudy_modis"])
    np.testing.assert_array_equal(maps["old_modis"], maps["cloudy_modis"])
    assert (maps["whole"] != maps["no_modis"]).any()
    # As a worker process does it: the task's setting comes with the job, not with the model's file.
    tiling = Tiling(height=96, width=96, window=64, stride=32, step=1, block=96)
    job = BlockJob(
        identity="x", weights=weights_digest(load_model(model)[0]),
        model=model, scene=scenes["no_modis"], year=2021, device="cpu", missing_sources="allow", compositing="image",
        tiling=tiling, batch_size=16, probabilities=True,
    )  # fmt: skip
    block = predict_in_worker(job, 0)["probabilities"].astype(int)
    assert np.abs(block - maps["no_modis"]).max() <= 1
    with pytest.raises(ValueError, match="scene no_modis has no modis"):
        predict(model=model, input=[scenes["no_modis"]], output=tmp_path / "x.tif")


def test_a_map_of_the_coarse_source_alone_has_the_pixels_of_the_model(
    scenes: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    predict(model=model, input=[scenes["no_landsat"]], output=tmp_path / "map.tif", missing_sources="allow")
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.shape == (96, 96)
        assert raster.res == (30.0, 30.0)
        assert (raster.read(1) != NO_DATA).all()
    nothing = without(scenes["no_modis"], "landsat")
    (nothing / "scene.yaml").write_text(
        (nothing / "scene.yaml").read_text().replace("sources: {}", "sources: {sentinel2: {container: zarr_cube, path: x}}")
    )
    message = r"has no landsat and no modis, .* it has sentinel2; choose others with --override.sources$"
    with pytest.raises(ValueError, match=message):
        predict(model=model, input=[nothing], output=tmp_path / "x.tif", missing_sources="allow")


def test_a_run_over_scenes_some_of_which_lack_a_source(tmp_path: Path) -> None:
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(tmp_path / "scenes" / name, split, side=64, seed=seed)
    without(tmp_path / "scenes" / "a", "modis")
    without(tmp_path / "scenes" / "d", "modis")
    settings = {"task": "paddy_rice", "encoder": SMALL, "decoder.channels": 8, "override.frames": 8, "training.epochs": 2}
    settings |= {"training.batch_size": 2, "override.missing_sources": "allow"}
    run(data=tmp_path / "scenes", output=tmp_path / "run", **settings)
    assert (tmp_path / "run" / "maps" / "d.tif").is_file()
    predict(model=tmp_path / "run", input=[tmp_path / "scenes" / "d"], output=tmp_path / "again.tif")  # the model's own setting
    with rasterio.open(tmp_path / "again.tif") as again, rasterio.open(tmp_path / "run" / "maps" / "d.tif") as first:
        np.testing.assert_array_equal(again.read(1), first.read(1))
