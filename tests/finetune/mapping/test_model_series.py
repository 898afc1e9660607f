"""By which sensors a model reads the images of a scene, and what of them its maps depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from common.notes import collected_notes
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.mapping.finished_blocks import scene_identity
from finetune.mapping.model_series import sensors_for_model
from finetune.task import load_task
from tests.support.rice_scenes import write_rice_scene

BUILT_IN = load_sensors()["landsat"]
TRAINED = replace(BUILT_IN, valid_range=(1, 12_000))


def test_what_the_model_was_trained_on_counts_unless_the_scenes_describe_it(tmp_path: Path) -> None:
    with collected_notes() as notes:
        assert sensors_for_model({"landsat": TRAINED}, ["landsat"], tmp_path)["landsat"] == TRAINED
    assert not notes
    own = replace(BUILT_IN, valid_range=(5, 9_000), chip_px=32)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "landsat.yaml").write_text(yaml.safe_dump(own.to_dict()))
    with collected_notes() as notes:
        assert sensors_for_model({"landsat": TRAINED}, ["landsat"], tmp_path)["landsat"] == own
    assert [note.endswith("describes landsat otherwise than in training, and counts: valid_range") for note in notes] == [True]
    other = replace(own, bands=own.bands[::-1], rgb=own.rgb)
    with pytest.raises(ValueError, match="the model knows landsat with bands"):
        sensors_for_model({"landsat": other}, ["landsat"], tmp_path)


def test_a_map_is_another_one_with_other_sensors_and_years(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=32, frames=4)
    task = replace(load_task("paddy_rice"), sources=("landsat",), season=("01-01", "12-31"), window_px=32)
    scene, sensors = load_scene(tmp_path / "a"), load_sensors()
    first = scene_identity(SceneSeries(scene, task, sensors))
    assert scene_identity(SceneSeries(scene, task, load_sensors())) == first
    assert scene_identity(SceneSeries(scene, task, sensors | {"landsat": TRAINED})) != first
