"""Series of a scene: grids that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.task import load_task
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
