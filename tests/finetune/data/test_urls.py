"""Labelled data at URLs give the windows that they give on a disk: scenes, shards with labels, and HDF5 samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml

from common.storage import AnyPath, any_path
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.landcover.legend import load_legend
from data_prep.landcover.opening import open_land_cover
from data_prep.shard import ShardConfig, shard
from data_prep.shards.shard_index import read_index, sample_rows
from finetune.data.normalization import read_band_statistics
from finetune.data.opening import open_data
from finetune.task import TASKS, Task, load_task
from tests.support.archives import CODES, write_land_cover
from tests.support.labelled_samples import make_sample, write_published
from tests.support.rice_scenes import write_split_scenes
from tests.support.web_server import web_server

CHIP = 32
SPLITS = ("train", "validation", "test")
BOTH = replace(load_task("paddy_rice"), sources=("landsat", "modis"), window_px=CHIP, frames=4, season=("01-01", "12-31"))
LANDSAT = replace(BOTH, sources=("landsat",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in three forms."""
    folder = tmp_path_factory.mktemp("labelled")
    scenes = write_split_scenes(folder / "scenes")
    for number, path in enumerate(sorted(scenes.iterdir())):
        write_land_cover(path / "landcover.tif", np.random.default_rng(number).choice(CODES, (80, 80)))
        description = yaml.safe_load((path / "scene.yaml").read_text())
        description["land_cover"] = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
        for source in description["sources"].values():  # Zarr leaves out chunks of clear codes, and a web server lists none
            source["absent_quality"] = "fill_value"
        (path / "scene.yaml").write_text(yaml.safe_dump(description))
    options: dict[str, Any] = {"input": scenes, "sources": ["landsat"], "chip_px": {"landsat": CHIP}, "min_frames": 6}
    assert shard(ShardConfig(output=folder / "shards", label={"landsat": "crop_type"}, **options)) == 0
    samples = {"train": [make_sample(0), make_sample(1)], "val": [make_sample(2)], "test": [make_sample(3)]}
    (folder / "samples").mkdir()
    write_published(folder / "samples", samples, {"landsat": "Landsat", "modis": "Modis"})
    return folder


@pytest.fixture(params=["memory", "web"])
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "web":
        with web_server() as serve:
            yield serve(folder, lambda _: None)
        return
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/bucket/", recursive=True)
    yield "memory://bucket"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def windows(data: AnyPath, task: Task) -> list[Any]:
    """All windows of all splits."""
    opened = open_data(data)
    found = []
    for split in SPLITS:
        of_split = opened.windows(split, task, year=None)
        found += [of_split.window(index) for index in range(len(of_split))]
    return found


@pytest.mark.parametrize(("name", "task"), [("scenes", BOTH), ("shards", LANDSAT), ("samples", BOTH)])
def test_windows_are_those_on_a_disk(name: str, task: Task, folder: Path, url: str) -> None:
    expected, found = windows(folder / name, task), windows(any_path(f"{url}/{name}"), task)
    assert len(expected) == len(found) > 3
    for one, other in zip(expected, found, strict=True):
        assert (one.name, one.year) == (other.name, other.year)
        np.testing.assert_array_equal(one.label, other.label)
        for source in task.sources:
            np.testing.assert_array_equal(one.stacks[source].pixels, other.stacks[source].pixels)
            np.testing.assert_array_equal(one.stacks[source].valid, other.stacks[source].valid)


def test_a_damaged_sample_in_a_bucket_is_named(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/shards/", "/shards/", recursive=True)
    tar = bytearray((folder / "shards" / "landsat-train-000000.tar").read_bytes())
    index = read_index(folder / "shards" / "landsat-train-000000.json")
    tar[sample_rows(index["samples"])[0]["members"]["pixels.npy"]["offset"] + 999] ^= 1
    memory.pipe_file("/shards/landsat-train-000000.tar", bytes(tar))
    with pytest.raises(ValueError, match=r"memory://shards/landsat-train-000000.tar: \S+.pixels.npy is not as it was written"):
        windows(any_path("memory://shards"), LANDSAT)
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def moved(scene: Path, output: Path, url: str) -> Path:
    """The scene on this machine, with its label and its land cover at URLs."""
    description = yaml.safe_load((scene / "scene.yaml").read_text())
    description["land_cover"] |= {
        "raster": f"{url}/scenes/{scene.name}/landcover.tif",
        "storage_options": {"use_listings_cache": False},
    }
    description["labels"]["crop_type"] |= {"path": f"{url}/scenes/{scene.name}/crop_type.tif", "storage_options": {}}
    for options in description["sources"].values():
        options["path"] = str(scene / options["path"])
    output.mkdir()
    (output / "scene.yaml").write_text(yaml.safe_dump(description))
    return output


def test_labels_and_land_cover_of_a_local_scene_at_urls(folder: Path, url: str, tmp_path: Path) -> None:
    data = tmp_path / "scenes"
    data.mkdir()
    for scene in sorted((folder / "scenes").iterdir()):
        moved(scene, data / scene.name, url)
    for one, other in zip(windows(folder / "scenes", BOTH), windows(data, BOTH), strict=True):
        np.testing.assert_array_equal(one.label, other.label)
    options: dict[str, Any] = {"sources": ["landsat"], "chip_px": {"landsat": CHIP}, "min_frames": 6}
    assert shard(ShardConfig(input=data, output=tmp_path / "corpus", label={"landsat": "crop_type"}, **options)) == 0
    for path in (folder / "shards").glob("*.tar"):
        assert (tmp_path / "corpus" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("where", ["landcover.tif", "crop_type.tif"])
def test_a_raster_that_goes_away_is_no_empty_map(
    where: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a rejected sample nor pixels without a class: the shard is not written."""
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/bucket/", recursive=True)
    data = tmp_path / "scenes"
    data.mkdir()
    for scene in sorted((folder / "scenes").iterdir()):
        moved(scene, data / scene.name, "memory://bucket")
    options: dict[str, Any] = {"sources": ["landsat"], "chip_px": {"landsat": CHIP}, "min_frames": 6}
    config = ShardConfig(input=data, output=tmp_path / "corpus", label={"landsat": "crop_type"}, retries=0, **options)
    assert shard(replace(config, plan_only=True)) == 0
    cat_file: Callable[..., Any] = type(memory).cat_file

    def failing(self: Any, path: str, *arguments: Any, **named: Any) -> Any:
        if path.endswith(where):
            raise ConnectionResetError(104, "Connection reset by peer")
        return cat_file(self, path, *arguments, **named)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    capsys.readouterr()
    assert shard(config) == 74
    said = capsys.readouterr().out.splitlines()
    assert all("memory://bucket/scenes/" in line and f"/{where}: reading failed, 7 tries" in line for line in said[:-1])
    assert not list((tmp_path / "corpus").glob("*.tar"))
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_code_is_not_loaded_from_a_url() -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/own.py:Own: code is loaded from files on this machine only"):
        open_data(any_path("s3://bucket/own.py:Own"))


def test_land_cover_beside_samples_in_a_bucket(tmp_path: Path) -> None:
    """The label of a sample's own HDF5 file is read from where the file lies."""
    import h5py
    from affine import Affine

    from common.grid import Grid
    from data_prep.landcover.base import SampleWindow

    codes = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["label"] = codes
        file["landsat"] = np.zeros((1, 6, 8, 8), np.int16)
    description = {
        "name": "s",
        "sources": {"landsat": {"container": "hdf5_sample", "path": "memory://bucket/a.h5"}},
        "land_cover": {"label": "label", "legend": "glc_fcs30d"},
    }
    (tmp_path / "scene.yaml").write_text(yaml.safe_dump(description))
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/bucket/", recursive=True)
    grid = Grid(crs="EPSG:32631", transform=Affine(30, 0, 0, 0, -30, 0), height=8, width=8)
    window = SampleWindow(source="landsat", file=None, grid=grid, row=2, col=4, size=4, year=2021)
    for place in (tmp_path, any_path("memory://bucket")):
        with open_land_cover(load_scene(place), load_legend("glc_fcs30d")) as cover:
            np.testing.assert_array_equal(cover.codes(window, None), codes[2:6, 4:8])
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_task_and_a_normalization_at_urls(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/shards/", "/shards/", recursive=True)
    memory.pipe_file("/tasks/rice.yaml", (TASKS / "paddy_rice.yaml").read_bytes())
    assert load_task("memory://tasks/rice.yaml") == load_task("paddy_rice")
    sensors = {"landsat": load_sensors()["landsat"]}
    found = read_band_statistics(any_path("memory://shards/dataset.json"), sensors)
    assert found == read_band_statistics(folder / "shards" / "dataset.json", sensors)
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
