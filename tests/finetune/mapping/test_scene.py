"""Maps of scenes: no trace of windows, no data, failures, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import zarr
from rio_cogeo import cog_validate
from torch import nn

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.mapping.cog import NO_DATA, count_classes
from finetune.mapping.scene import MapOptions, predict_classes, predict_scene
from tests.support.launching import ROOT
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import Pixelwise, make_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("window_px", "overlap"), [(32, 0.0), (32, 0.5), (48, 0.34), (64, 0.75)])
def test_windows_leave_no_trace_in_the_map(tmp_path: Path, window_px: int, overlap: float) -> None:
    cubes, _ = write_rice_scene(tmp_path / "a", "test", side=112, seed=5, cloudy=0.0)
    recipe = make_recipe(window_px)
    with SceneSeries(load_scene(tmp_path / "a"), recipe.task, load_sensors(), pixel_size=30.0) as series:
        options = MapOptions(overlap=overlap, batch_size=3)
        predict_scene(Pixelwise(), recipe, series, tmp_path / "map.tif", torch.device("cpu"), options)
        chosen = series.seasons["landsat"].choose(np.ones((24, 1, 1), dtype=bool), None)
    near_infrared = (cubes["landsat"].pixels[chosen[chosen >= 0], 3] - 2000.0).sum(axis=0)
    with rasterio.open(tmp_path / "map.tif") as found:
        np.testing.assert_array_equal(found.read(1), near_infrared > 0)


def test_no_data_where_nothing_was_ever_clear(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=80, seed=5, cloudy=0.0)
    quality = zarr.open_group(tmp_path / "a" / "landsat.zarr")["Fmask"]
    quality[:, 10:30, 40:] = 2
    recipe = make_recipe(32)
    with SceneSeries(load_scene(tmp_path / "a"), recipe.task, load_sensors(), pixel_size=30.0) as series:
        predict_scene(Pixelwise(), recipe, series, tmp_path / "map.tif", torch.device("cpu"))
        in_memory = predict_classes(Pixelwise(), recipe, series, torch.device("cpu"), MapOptions(block_px=48))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "map.tif", "map.tif.aux.xml"}
    expected = np.zeros((80, 80), dtype=bool)
    expected[10:30, 40:] = True
    with rasterio.open(tmp_path / "map.tif") as found:
        np.testing.assert_array_equal(found.read(1) == NO_DATA, expected)
        np.testing.assert_array_equal(in_memory, found.read(1))


def test_failed_map_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=64)
    recipe = make_recipe(32)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "map.tif").write_bytes(b"old")

    class Broken(nn.Module):
        def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
            raise RuntimeError(f"no map of {size} from {len(data)}")

    with (
        SceneSeries(load_scene(tmp_path / "a"), recipe.task, load_sensors(), pixel_size=30.0) as series,
        pytest.raises(RuntimeError, match="no map"),
    ):
        predict_scene(Broken(), recipe, series, tmp_path / "maps" / "map.tif", torch.device("cpu"))
    assert os.listdir(tmp_path / "maps") == ["map.tif"]
    assert (tmp_path / "maps" / "map.tif").read_bytes() == b"old"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """A map of 10,000 x 10,000 pixels from 12 dates takes less than 2 GB, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.support.large_map", str(tmp_path), "10000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout.strip().splitlines()[-1])["peak_gb"] < 2
    assert cog_validate(tmp_path / "map.tif", strict=True)[0]
    counts = count_classes(tmp_path / "map.tif", 2).tolist()
    assert counts == [700 * 900, 10_000**2 - 700 * 900, 0]
