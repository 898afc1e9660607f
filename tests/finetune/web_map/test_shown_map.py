"""What is shown of a run and of a single map, and what users may get wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep.archive.scene import is_simulated
from finetune.task import load_task
from finetune.web_map.shown_map import check_task, maps_of, opened_map
from tests.support.shown_run import SIDE, write_shown_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    write_shown_run(folder)
    return folder


def test_a_run_shows_each_map_with_its_scene_and_what_lies_beside_it(folder: Path) -> None:
    shown = maps_of(folder / "run")
    assert (shown.title, shown.model, shown.notes) == ("Paddy <rice> & more", folder / "run", ())
    a, b = shown.maps
    assert [a.name, b.name] == ["a", "b"]
    assert [one.scene is not None and is_simulated(one.scene) for one in (a, b)] == [True, False]
    assert a.grid.shape == (SIDE, SIDE)
    assert (a.classes, a.year, a.task_name, a.overlap) == (("other", "paddy_rice"), 2021, "paddy_rice", 0.25)
    assert a.colors[1] == (0x1F, 0x78, 0xB4)
    assert (a.probabilities, a.fields) == (None, None)
    assert b.probabilities == folder / "run/maps/b_probabilities.tif"
    assert b.fields == folder / "run/maps/b_fields.parquet"
    with rasterio.open(a.path) as raster:
        from rasterio.warp import transform_bounds

        west, south, east, north = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    assert a.bounds() == pytest.approx((south, west, north, east), abs=1e-4)


def test_bounds_do_not_jump_at_the_antimeridian(folder: Path) -> None:
    shown = maps_of(folder / "run").maps[0]
    west = replace(shown.grid, crs="EPSG:32660", transform=Affine(300, 0, 820_000, 0, -300, 500_000))
    south, left, north, right = replace(shown, grid=west).bounds()
    assert 179 < left < 180 < right < 181
    assert south < north


def test_a_run_whose_scenes_are_gone_shows_its_maps_alone(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"data": str(tmp_path / "gone")}))
    shown = maps_of(run)
    assert [one.scene for one in shown.maps] == [None, None]
    assert "does not exist" in shown.notes[0]
    assert "--data" in shown.notes[0]
    found = maps_of(run, data=folder / "scenes")
    assert all(one.scene is not None for one in found.maps)
    shutil.copytree(folder / "scenes/a", tmp_path / "some/a")
    assert "the scenes b are not among the data" in maps_of(run, data=tmp_path / "some").notes[0]


def test_a_single_map_with_and_without_its_scene(folder: Path) -> None:
    path = folder / "run/maps/b.tif"
    alone = maps_of(path)
    assert (alone.maps[0].scene, alone.model) == (None, None)
    assert "--input" in alone.notes[0]
    assert alone.maps[0].probabilities is not None
    with_scene = maps_of(path, scene=folder / "scenes/b", model=folder / "run")
    assert with_scene.maps[0].scene is not None
    assert with_scene.model == folder / "run"
    assert not with_scene.notes


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    run, path = folder / "run", folder / "run/maps/b.tif"
    with pytest.raises(ValueError, match=r"holds no run of finetune/run.py: it has no run.json"):
        maps_of(folder / "scenes")
    with pytest.raises(ValueError, match="there is no run and no map at"):
        maps_of(tmp_path / "gone.tif")
    with pytest.raises(ValueError, match="--input, --model belong to a single map"):
        maps_of(run, scene=folder / "scenes/b", model=run)
    with pytest.raises(ValueError, match="--data belongs to the folder of a run"):
        maps_of(path, data=folder / "scenes")
    with pytest.raises(ValueError, match=r"is a map of scene b, but --input is a; give the scene of this map"):
        maps_of(path, scene=folder / "scenes/a")
    with pytest.raises(ValueError, match="does not name its classes"):
        maps_of(folder / "run/maps/b_probabilities.tif")
    with pytest.raises(ValueError, match="there is no file"):
        maps_of(path, fields=tmp_path / "gone.parquet")
    (tmp_path / "damaged.tif").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a raster"):
        maps_of(tmp_path / "damaged.tif")
    with pytest.raises(ValueError, match="give the model of this map"):
        check_task(opened_map(path, {}, None, None), load_task("lulc"))
    (tmp_path / "empty/maps").mkdir(parents=True)
    (tmp_path / "empty/run.json").write_text(json.dumps({"data": "x"}))
    with pytest.raises(ValueError, match="has no maps: the run is not finished"):
        maps_of(tmp_path / "empty")


def test_a_map_without_a_place_is_refused(tmp_path: Path) -> None:
    crs = 'LOCAL_CS["place not known",UNIT["pixel",1]]'
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": crs, "transform": Affine(1, 0, 5, 0, -1, 5)}
    with rasterio.open(tmp_path / "map.tif", "w", height=4, width=4, **profile) as raster:
        raster.write(np.zeros((4, 4), np.uint8), 1)
        raster.update_tags(1, class_0="other", class_1="rice")
        raster.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255)})
    with pytest.raises(ValueError, match="has no place on the ground"):
        maps_of(tmp_path / "map.tif")
