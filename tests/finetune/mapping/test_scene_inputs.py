"""The scenes that are mapped: folders of scenes, and searches in a catalogue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from torch import nn

import finetune.predict as predict_module
from common.command_line import run_command
from common.exit_codes import USER_ERROR
from data_prep.archive.sensor import load_sensors
from finetune.mapping.scene_inputs import scene_folders, searched_folder
from finetune.model.recipe import Recipe
from finetune.task import load_task
from tests.support.containers import TRANSFORM_10M
from tests.support.stac_scenes import sentinel2_items, write_cogs, write_items

C1 = "earth_search/sentinel-2-c1-l2a"
DATES = np.datetime64("2021-12-02") + np.arange(6) * 10  # three in 2021, three in 2022
SHAPE = 64, 64

pytestmark = pytest.mark.usefixtures("one_thread")


def make_scenes(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "scene.yaml").write_text(f"name: {name}\n")


def test_scenes_and_folders_of_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scenes(tmp_path / "archive", "b", "a")
    make_scenes(tmp_path, "c")
    (tmp_path / "archive" / "sources").mkdir()
    folders = scene_folders([tmp_path / "c", tmp_path / "archive", tmp_path / "archive" / "b"])
    assert [str(folder.relative_to(tmp_path)) for folder in folders] == ["archive/a", "archive/b", "c"]
    monkeypatch.chdir(tmp_path)
    assert scene_folders([Path("archive"), tmp_path / "archive" / "a"]) == [tmp_path / "archive" / "a", Path("archive/b")]
    for wrong in (tmp_path / "archive" / "sources", tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"no scene.yaml in .* or its subfolders"):
            scene_folders([tmp_path / "c", wrong])


class RedAgainstInfrared(nn.Module):
    """Class scores from the mean of the near infrared of all frames."""

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        near_infrared = data["sentinel2"][:, :, 3].mean(dim=1)
        assert near_infrared.shape[-2:] == size
        return torch.stack([-near_infrared, near_infrared], dim=1)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A saved search over images whose left half is dark in near infrared; `search.yaml` describes a search in it."""
    pixels = np.full((len(DATES), 10, *SHAPE), 2000, np.uint16)
    pixels[:, 3, :, 32:] = 6000
    write_cogs(tmp_path / "store", pixels, np.full((len(DATES), *SHAPE), 4, np.uint8), DATES)
    items = sentinel2_items(C1, DATES, SHAPE)
    for item in items:
        for asset in item.assets.values():
            asset.href = str(tmp_path / "store" / asset.href)
    write_items(tmp_path / "items.json", items)
    search = {"catalogue": str(tmp_path / "items.json"), "collections": ["sentinel2=sentinel-2-c1-l2a"]}
    search |= {"start": "2021-12-01", "end": "2022-01-31", "bbox": [-179, -80, 179, 80]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    return tmp_path / "search.yaml"


def test_a_search_is_mapped_over_new_year(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sensors = {"sentinel2": load_sensors()["sentinel2"]}
    task = replace(load_task("winter_wheat"), sources=("sentinel2",), season=("12-01", "01-31"), frames=6, window_px=32)
    task = replace(task, classes=task.classes[:2], target=None)
    unit = {"sentinel2": {"mean": [3000.0] * 10, "std": [1000.0] * 10}}
    recipe = Recipe(task=task, sensors=sensors, normalization=unit, pixel=10.0, encoder={}, channels=8, origin="test")
    monkeypatch.setattr(predict_module, "load_model", lambda _: (RedAgainstInfrared(), recipe))
    words = ["--model", "model", "--search", str(catalogue), "--output", str(tmp_path / "out" / "map.tif"), "--year", "2022"]
    for _ in range(2):  # the search resumes
        with pytest.raises(SystemExit) as ended:
            run_command(predict_module.predict, words)
        assert ended.value.code == 0, capsys.readouterr().err
    scene = yaml.safe_load((tmp_path / "out" / "map_scenes" / "31TFJ" / "scene.yaml").read_text())
    assert scene["name"] == "31TFJ"
    with rasterio.open(tmp_path / "out" / "map.tif") as raster:
        classes, tags = raster.read(1), raster.tags()
        place = raster.transform
    assert (tags["scene"], tags["year"], tags["last_image"]) == ("31TFJ", "2022", str(DATES[-1]))
    left = round((place.c - TRANSFORM_10M.c) / 10)
    np.testing.assert_array_equal(classes, np.broadcast_to(np.arange(left, left + classes.shape[1]) >= 32, classes.shape))


def test_the_search_may_state_its_folder_and_years(catalogue: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(catalogue.read_text()) | {"output": str(tmp_path / "stated"), "by_year": True}
    catalogue.write_text(yaml.safe_dump(values))
    assert searched_folder(catalogue, tmp_path / "derived") == tmp_path / "stated"
    assert [folder.name for folder in scene_folders([tmp_path / "stated"])] == ["31TFJ_2021", "31TFJ_2022"]
    assert not (tmp_path / "derived").exists()


def test_a_search_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"there is no search .*absent.yaml"):
        searched_folder(tmp_path / "absent.yaml", tmp_path / "scenes")
    (tmp_path / "search.yaml").write_text("catalog: earth_search\n")
    with pytest.raises(SystemExit) as ended:
        searched_folder(tmp_path / "search.yaml", tmp_path / "scenes")
    assert ended.value.code == USER_ERROR
    assert "catalog" in capsys.readouterr().err
