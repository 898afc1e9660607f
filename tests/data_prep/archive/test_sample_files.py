"""Scenes that are collections of HDF5 files: planned and written like any other; a bad file does not stop the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml

from common.executors import map_local
from common.storage import RemotePath
from data_prep.archive.sample_files import sample_files
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.landcover.legend import load_legend
from data_prep.plan import survey
from data_prep.plan.build import make_plan
from data_prep.plan.plan import Plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.splits import SpatialBlocks
from data_prep.shards.shard_index import read_index
from tests.support.sharding import write_shard
from tests.support.web_server import web_server

SENSORS = load_sensors()
SIDES = {"sentinel2": 12, "modis": 4}
# The order of listing: the files of a folder before those of its subfolders.
GOOD = [
    "c.h5",
    "a/1.h5",
    "a/2.h5",
    "a/deep/9.hdf5",
    "b/1.h5",
    "b/10.h5",
]


def write_sample(path: Path, seed: int, frames: int = 20, side: int = 12, **attributes: Any) -> dict[str, np.ndarray]:
    """A file of the published layout with two sources; `label` has half the resolution of Sentinel-2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    arrays = {"label": rng.choice(np.array([10, 61, 190], np.uint8), (side // 2, side // 2))}
    for source, pixels in (("sentinel2", side), ("modis", 4)):
        sensor = SENSORS[source]
        shape = (frames, len(sensor.bands), pixels, pixels)
        arrays[source] = rng.integers(1, 9_000, shape).astype(sensor.dtype)
    with h5py.File(path, "w") as file:
        file.update(arrays)
        file.attrs.update(attributes)
    return arrays


def describe(folder: Path, path: str = "samples", **changes: Any) -> None:
    options = {"container": "hdf5_sample", "path": path, "dates": {"start": "2021-01-04", "every_days": 10}}
    sources = {"sentinel2": {**options, "offset": 0}, "modis": options}
    values = {"name": "published", "sources": sources, "land_cover": {"label": "label", "legend": "glc_fcs30d"}, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scene.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    folder = tmp_path / "scenes" / "published"
    describe(folder)
    arrays = {file: write_sample(folder / "samples" / file, seed) for seed, file in enumerate(GOOD)}
    (folder / "samples" / "readme.md").write_text("no sample")
    return tmp_path, arrays


@pytest.fixture
def web() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder and returns its URL."""
    with web_server() as serve:
        yield lambda folder: serve(folder, lambda _: None)


def planned(folder: Path, **changes: Any) -> Plan:
    settings = PlanSettings(**{"chip_px": SIDES, "shard_mb": 0.2, **changes})
    return make_plan(folder / "scenes", folder / "corpus", settings)


def write_all(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    for number in range(plan.num_shards):
        write_shard(folder / "scenes", folder / "corpus", number)
    return [read_index(folder / "corpus" / f"{name}.json") for name in plan.names]


def test_each_file_is_a_sample_of_each_source(archive: tuple[Path, dict[str, dict[str, np.ndarray]]]) -> None:
    folder, arrays = archive
    plan = planned(folder)
    write_all(folder, plan)
    legend = load_legend("glc_fcs30d")
    urls = [str(folder / "corpus" / f"{name}.tar") for name in plan.names]
    found = Counter()
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        source, place, year, *_ = sample["__key__"].split("-")
        number = int(place.removeprefix("published_"))
        of_file = arrays[GOOD[number]]
        np.testing.assert_array_equal(sample["pixels.npy"], of_file[source])
        assert sample["landcover.npy"].tolist() == [int((of_file["label"] == code).sum()) for code in legend.codes]
        if source == "sentinel2":  # the label has half its resolution
            codes = np.array(legend.codes)[sample["landcover_map.npy"]]
            np.testing.assert_array_equal(codes, of_file["label"].repeat(2, axis=0).repeat(2, axis=1))
        else:  # 6 x 6 cells, whose centres lie in 4 x 4 pixels
            assert sample["landcover_map.npy"].sum(axis=(1, 2)).tolist() == sample["landcover.npy"].tolist()
            assert sample["landcover_map.npy"].sum(axis=0)[0].tolist() == [1, 2, 1, 2]
        assert year == "2021"
        found[source, number] += 1
    assert found == dict.fromkeys([(source, number) for source in SIDES for number in range(len(GOOD))], 1)
    assert [sample.series.file for shard in plan.shards() for sample in shard.samples if shard.source == "modis"] == [
        f"samples/{file}" for file in GOOD
    ]


def test_a_folder_of_samples_at_a_url_gives_the_same_shards(archive: tuple[Path, Any], web: Callable[[Path], str]) -> None:
    folder, _ = archive
    plan = planned(folder)
    write_all(folder, plan)
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/scenes/", "/bucket/scenes/", recursive=True)
    for number, place in enumerate(("memory://bucket/scenes", f"{web(folder)}/scenes")):
        output, scenes = folder / f"corpus{number}", RemotePath(place)
        assert make_plan(scenes, output, PlanSettings(chip_px=SIDES, shard_mb=0.2)).hash == plan.hash
        for shard, name in enumerate(plan.names):
            write_shard(scenes, output, shard)
            for suffix in (".tar", ".json"):
                assert (output / f"{name}{suffix}").read_bytes() == (folder / "corpus" / f"{name}{suffix}").read_bytes()
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_list_of_files_keeps_its_order(archive: tuple[Path, Any]) -> None:
    folder, _ = archive
    scene = folder / "scenes" / "published"
    elsewhere = folder / "elsewhere.h5"
    write_sample(elsewhere, 77)
    listed = ["samples/c.h5", str(elsewhere), "samples/a/1.h5"]
    (scene / "files.txt").write_text("\n".join(listed) + "\n\n")
    describe(scene, "files.txt")
    plan = planned(folder, sources=("sentinel2",), chip_px={"sentinel2": 12})
    assert [sample.series.file for shard in plan.shards() for sample in shard.samples] == listed
    (index,) = write_all(folder, plan)
    assert len(index["samples"]["key"]) == 3
    (scene / "files.txt").write_text("\n".join(listed[:2]))
    with pytest.raises(ValueError, match="another plan"):
        planned(folder, sources=("sentinel2",), chip_px={"sentinel2": 12})


def test_files_that_are_wrong_are_rows_of_the_table(archive: tuple[Path, Any]) -> None:
    folder, _ = archive
    samples = folder / "scenes" / "published" / "samples"
    (samples / "a" / "2.h5").write_bytes(b"not HDF5")
    write_sample(samples / "b" / "1.h5", 3, frames=15)
    write_sample(samples / "b" / "10.h5", 4, side=10)
    with h5py.File(samples / "c.h5", "a") as file:
        del file["modis"]
    plan = planned(folder)
    rejected = {row.key: row.reason for row in plan.rejected()}
    assert rejected.pop("sentinel2-published_00000005-2021-r00000-c00000") == (
        "a window of 12 x 12 px is larger than the scene, 10 x 10 px"
    )
    for source in SIDES:
        assert rejected.pop(f"{source}-published_00000002").startswith("cannot be read: samples/a/2.h5")
        assert rejected.pop(f"{source}-published_00000004-2021-r00000-c00000") == "fewer than 16 dates in the year"
    assert rejected.pop("modis-published_00000000").startswith("cannot be read: samples/c.h5: no dataset 'modis'")
    assert not rejected
    assert sum(group.samples for group in plan.groups) == 2 * 6 - 6


def test_files_that_go_or_change_after_the_plan_do_not_stop_a_shard(archive: tuple[Path, Any]) -> None:
    folder, _ = archive
    plan = planned(folder, shard_mb=10.0)
    samples = folder / "scenes" / "published" / "samples"
    (samples / "a" / "1.h5").unlink()
    (samples / "a" / "2.h5").write_bytes((samples / "a" / "2.h5").read_bytes()[:3_000])
    write_sample(samples / "b" / "1.h5", 3, frames=21)
    with h5py.File(samples / "c.h5", "a") as file:
        del file["label"]
    modis, sentinel2 = write_all(folder, plan)
    for source, index in (("modis", modis), ("sentinel2", sentinel2)):
        assert [key.split("-")[1][-1] for key in index["samples"]["key"]] == ["3", "5"]
        reasons = {row["key"].split("-")[1][-1]: row["reason"] for row in index["rejected"]}
        assert set(reasons) == {"0", "1", "2", "4"}, source
        assert all(reason.startswith("cannot be read: ") and str(folder) not in reason for reason in reasons.values()), reasons
        assert "changed since the corpus was planned" in reasons["4"]
        assert "no dataset 'label'" in reasons["0"]


def test_what_needs_a_place_rejects_files_that_have_none(archive: tuple[Path, Any]) -> None:
    folder, _ = archive
    place = {"crs": "EPSG:32631", "transform": (10.0, 0.0, 500_040.0, 0.0, -10.0, 5_000_040.0)}
    write_sample(folder / "scenes" / "published" / "samples" / "c.h5", 9, **place)
    pq.write_table(pa.table({"id": ["1"], "lon": [3.0], "lat": [45.0]}), folder / "sites.parquet")
    settings: dict[str, Any] = {"sources": ("sentinel2",), "chip_px": {"sentinel2": 12}}
    plan = planned(folder, spatial_blocks=SpatialBlocks(block_km=10), **settings)
    assert [(group.reason, group.samples) for group in plan.rejected_groups] == [("its place on the globe is not known", 5)]
    with pytest.raises(ValueError, match="nothing to write"):
        make_plan(folder / "scenes", folder / "sites", PlanSettings(sites=folder / "sites.parquet", **settings))


@pytest.mark.slow
def test_many_files_are_surveyed_some_at_a_time_and_by_several_processes(
    archive: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = archive
    plan = planned(folder)
    monkeypatch.setattr(survey, "FILES_PER_JOB", 2)
    monkeypatch.setattr(survey, "JOBS_AT_ONCE", 2)
    settings = PlanSettings(chip_px=SIDES, shard_mb=0.2)
    assert make_plan(folder / "scenes", folder / "other", settings, partial(map_local, workers=2)).hash == plan.hash


@pytest.mark.parametrize(
    ("path", "message"), [("none", "no HDF5 file in none"), ("none.txt", "does not exist"), (3, "needs `path`")]
)
def test_no_files(tmp_path: Path, path: Any, message: str) -> None:
    describe(tmp_path / "published", path)
    with pytest.raises(ValueError, match=message):
        list(sample_files(load_scene(tmp_path / "published"), "modis"))
