"""Scenes and series that cannot be read are rows of the table of rejected samples; bugs of ours are raised."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
import zarr
from affine import Affine

from common.exit_codes import INFRASTRUCTURE
from data_prep.archive.scene import find_scenes
from data_prep.describe import describe_corpus
from data_prep.landcover.maps import LandCoverMap
from data_prep.plan.build import make_plan
from data_prep.plan.plan import Plan, Rejection
from data_prep.plan.plan_writer import common_reason
from data_prep.plan.settings import PlanSettings
from data_prep.readers.zarr_cube import ZarrCube
from tests.support.archives import NORTH, WEST, days, make_cube, write_land_cover, write_scene
from tests.support.series import SENSORS
from tests.support.sharding import run_shard, write_shard

SETTINGS = PlanSettings(chip_px={"sentinel2": 12})


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """An archive of two equal scenes, `good` and `spoilt`."""
    cube = make_cube(SENSORS["sentinel2"], 12, days(2021, 17), np.random.default_rng(0))
    for name in ("good", "spoilt"):
        folder = tmp_path / "scenes" / name
        write_scene(folder, {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover={"raster": "map.tif", "legend": "glc_fcs30d"})
        write_land_cover(folder / "map.tif", np.full((4, 4), 10))
    return tmp_path / "scenes"


def describe_anew(folder: Path, **changes: Any) -> None:
    path = folder / "scene.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def change_source(folder: Path, **changes: Any) -> None:
    options = yaml.safe_load((folder / "scene.yaml").read_text())["sources"]["sentinel2"]
    describe_anew(folder, sources={"sentinel2": {**options, **changes}})


def write_text(text: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "scene.yaml").write_bytes(text)


def options(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_source(folder, **changes)


def description(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: describe_anew(folder, **changes)


def land_cover(**values: Any) -> Callable[[Path], None]:
    return lambda folder: describe_anew(folder, land_cover={"raster": "map.tif", "legend": "glc_fcs30d", **values})


def no_store(folder: Path) -> None:
    shutil.rmtree(folder / "sentinel2.zarr")


def damaged_metadata(folder: Path) -> None:
    (folder / "sentinel2.zarr" / "reflectance" / "zarr.json").write_text('{"zarr_format": 3, "node_type"')


def other_scale(folder: Path) -> None:
    zarr.open_group(folder / "sentinel2.zarr", mode="r+")["reflectance"].attrs["scale_factor"] = 0.5


def map_elsewhere(folder: Path) -> None:
    write_land_cover(folder / "map.tif", np.full((4, 4), 10), west=600_000)


def map_of_other_codes(folder: Path) -> None:
    write_land_cover(folder / "map.tif", np.full((4, 4), 99))


def damaged_map(folder: Path) -> None:
    (folder / "map.tif").write_bytes((folder / "map.tif").read_bytes()[:100])


def map_of_years(folder: Path) -> None:
    place = {"crs": "EPSG:32631", "transform": Affine(30, 0, WEST, 0, -30, NORTH)}
    with rasterio.open(folder / "map.tif", "w", driver="GTiff", count=3, dtype="uint8", height=4, width=4, **place) as raster:
        raster.write(np.full((3, 4, 4), 10, np.uint8))


def damaged_legend(folder: Path) -> None:
    (folder / "own.yaml").write_text("codes: [")
    describe_anew(folder, land_cover={"raster": "map.tif", "legend": "own.yaml"})


SPOILT: dict[str, tuple[Callable[[Path], Any], str, str]] = {  # what is done, the source of the row, the reason
    "not YAML": (write_text(b"name: [spoilt"), "", "scene.yaml is not YAML"),
    "not UTF-8": (write_text(b"name: \xff\xfe"), "", "scene.yaml is not YAML"),
    "no day": (write_text(b"name: 2021-02-30"), "", "scene.yaml is not YAML: day is out of range"),
    "empty": (write_text(b""), "", "scene.yaml: needs the keys name and sources .*; found NoneType"),
    "unknown key": (description(landcover={}), "", "knows .*; found .*'landcover'"),
    "unknown split": (description(split="dev"), "", "split is 'dev'; expected one of train"),
    "split of another type": (description(split=["train"]), "", r"scene.yaml: split is \['train'\]; expected a text"),
    "name of a dot": (description(name="a.b"), "", "must hold no dot"),
    "source of another type": (description(sources={"sentinel2": 5}), "", "sources is .*5.*; expected a mapping from a text to"),
    "storage options": (options(storage_options=5), "", "storage_options of source sentinel2 is 5; expected a mapping"),
    "first year": (land_cover(first_year="abc"), "", "land_cover first_year is 'abc'; expected a whole number"),
    "raster of another type": (land_cover(raster=5), "", "land_cover raster is 5; expected a text or a list"),
    "legend of another type": (land_cover(legend=5), "", "land_cover legend is 5; expected a text"),
    "label of another type": (description(labels={"a": {"path": 5, "classes": {}}}), "", "label a path is 5; expected a text"),
    "classes": (
        description(labels={"a": {"path": "a", "classes": [1]}}),
        "",
        r"label a classes is \[1\]; expected a mapping from",
    ),
    "unknown source": (description(sources={"sentinel9": {}}), "sentinel9", "unknown source sentinel9; known are hls_s30"),
    "unknown container": (options(container="zarr"), "sentinel2", "container is 'zarr'; expected one of"),
    "unknown option": (options(ofset=0), "sentinel2", r"unknown options \['ofset'\]"),
    "offset": (options(offset="abc"), "sentinel2", "option offset is 'abc'; expected a whole number"),
    "offset by nothing": (options(offset={"2021-01-01": None}), "sentinel2", "option offset is .*None.*; expected a whole"),
    "path": (options(path=5), "sentinel2", "needs `path`"),
    "bands": (options(bands=3), "sentinel2", "option bands is 3; expected a list, each entry a text"),
    "name of an array": (options(time=["time"]), "sentinel2", r"option time is \['time'\]; expected a text"),
    "fewer bands": (options(bands=["B02"]), "sentinel2", r"1 band names \['B02'\] for 10 bands"),
    "crs": (options(crs="EPSG:none"), "sentinel2", "EPSG:none"),
    "bbox": (options(bbox=["a", "b"]), "sentinel2", "bbox is .*; expected"),
    "compose": (options(compose={"every_days": "x"}), "sentinel2", "every_days 'x'; expected"),
    "no store": (no_store, "sentinel2", "sentinel2.zarr: no Zarr group there"),
    "damaged metadata": (damaged_metadata, "sentinel2", "sentinel2.zarr: "),
    "other scale": (other_scale, "sentinel2", r"sentinel2.zarr/reflectance: the file states reflectance = 0\.5"),
    "map elsewhere": (map_elsewhere, "sentinel2", "map.tif maps nothing of scene spoilt"),
    "map of other codes": (map_of_other_codes, "sentinel2", r"map.tif: land cover holds codes \[99\]"),
    "damaged map": (damaged_map, "sentinel2", "map.tif: cannot be read as a raster"),
    "map of years": (map_of_years, "sentinel2", "map.tif has 3 bands"),
    "no map": (land_cover(raster="none.tif"), "sentinel2", "land-cover raster none.tif does not exist"),
    "unknown legend": (land_cover(legend="glc"), "sentinel2", "no legend 'glc'"),
    "damaged legend": (damaged_legend, "sentinel2", "own.yaml is not YAML"),
    "lacks quality": (
        description(land_cover={"quality": "landsat", "legend": "scl"}),
        "sentinel2",
        "scene.yaml: land cover from the quality layer of 'landsat', which the scene lacks",
    ),
}


def planned(scenes: Path) -> tuple[Plan, Rejection]:
    """The plan of an archive, and the only row of the table of rejected samples."""
    plan = make_plan(scenes, scenes.parent / "corpus", SETTINGS)
    (rejected,) = plan.rejected()
    return plan, rejected


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_that_cannot_be_read_stops_no_other(scenes: Path, spoilt: str) -> None:
    spoil, source, reason = SPOILT[spoilt]
    spoil(scenes / "spoilt")
    plan, rejected = planned(scenes)
    assert {sample.scene for shard in plan.shards() for sample in shard.samples} == {"good"}
    assert (rejected.scene, rejected.source) == ("spoilt", source)
    assert rejected.key == (f"{source}-spoilt" if source else "spoilt")
    assert re.search(f"^cannot be read: .*{reason}", rejected.reason), rejected.reason
    assert str(scenes) not in rejected.reason
    (group,) = plan.rejected_groups
    assert (group.source, group.samples, group.example) == (source, 1, f"spoilt: {rejected.reason}")
    assert make_plan(scenes, plan.folder, SETTINGS).hash == plan.hash, "the plan is frozen, and the archive is the same"


def test_one_table_counts_what_cannot_be_read_by_reason(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        folder = Path(shutil.copytree(scenes / "spoilt", scenes / f"spoilt_{number}"))
        describe_anew(folder, name=f"spoilt_{number}", region=f"region_{number}")
        change_source(folder, path=f"none_{number}.zarr")
    write_text(b"name: [spoilt")(scenes / "spoilt")
    corpus = scenes.parent / "corpus"
    arguments = ("--input", scenes, "--output", corpus, "--chip_px.sentinel2", "12")
    table = (
        r"whole scenes +1 +spoilt: cannot be read: scene\.yaml is not YAML",
        r"sentinel2 +3 +spoilt_0: cannot be read: none_0\.zarr: no Zarr group there",
        "4 series or scenes could not be read",
    )
    for more in (["--plan_only", "true"], ["--shards", "0"], []):  # a plan, a part of it, the rest
        assert run_shard(*arguments, *more) == 0
        out = capsys.readouterr().out
        assert all(re.search(line, out) for line in table), out
        assert out.rstrip().endswith("to have them.")
    rows = [json.loads(line) for line in (corpus / "rejected.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == ["spoilt", *(f"sentinel2-spoilt_{number}" for number in range(3))]
    describe_corpus(corpus)
    out = capsys.readouterr().out
    assert all(re.search(line, out) for line in table), out


def test_reasons_are_counted_by_what_they_have_in_common() -> None:
    first = "cannot be read: a/b_1.h5, B02: has shape (3, 4); expected 'time', [1, 2] at 2021-01-01"
    second = "cannot be read: c/d.h5, B8A: has shape (5,); expected 'date', [] at 2022-03-04"
    assert common_reason(first) == common_reason(second) == "cannot be read: ...: has shape ...; expected ... at ..."
    assert common_reason("cannot be read: a.h5: no such file") != common_reason("cannot be read: a.h5: no dates")


def test_a_scene_that_cannot_be_read_belongs_to_the_plan(scenes: Path) -> None:
    write_text(b"name: [spoilt")(scenes / "spoilt")
    planned(scenes)
    write_text(b"name: [spoilt, too")(scenes / "spoilt")
    with pytest.raises(ValueError, match="another plan"):
        make_plan(scenes, scenes.parent / "corpus", SETTINGS)


def test_what_concerns_the_archive_is_an_error(scenes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = scenes.parent / "corpus"

    def refused(message: str, *more: str) -> None:
        assert run_shard("--input", scenes, "--output", corpus, "--chip_px.sentinel2", "12", *more) == 2
        assert re.search(message, capfd.readouterr().err)
        assert not corpus.exists()

    refused(r"unknown sources \['spot'\]", "--sources", "sentinel2,spot")
    for name in ("good", "spoilt"):
        no_store(scenes / name)
    refused(r"nothing to write: all 2 windows or series are rejected: good: cannot be read: sentinel2\.zarr: no Zarr group there")
    write_text(b"name: [good")(scenes / "good")
    write_text(b"name: [spoilt")(scenes / "spoilt")
    refused("no scene in .* (they hold|has)|can be read; 2 scenes cannot be read, such as .*good: scene.yaml is not YAML")
    with pytest.raises(ValueError, match=r"good: scene\.yaml is not YAML"):
        find_scenes(scenes)  # as fine-tuning does


BUGS = [TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, NotImplementedError]


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("place", [(ZarrCube, "_dates"), (LandCoverMap, "check")], ids=["reader", "map"])
def test_a_bug_is_no_reason_to_reject_a_series(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[type, str], bug: type[Exception]
) -> None:
    def fail(*_: Any) -> None:
        raise bug("no")

    monkeypatch.setattr(*place, fail)
    with pytest.raises(bug, match="no") as raised:
        make_plan(scenes, scenes.parent / "corpus", SETTINGS)
    assert f"while reading scene {scenes / 'good'}" in raised.value.__notes__
    assert not (scenes.parent / "corpus").exists()


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize(
    "place",
    ["data_prep.readers.cube_layers.harmonised_series", "data_prep.landcover.maps.LandCoverMap._read"],
    ids=["reader", "map"],
)
def test_a_bug_is_no_reason_to_reject_a_sample(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, place: str, bug: type[Exception]
) -> None:
    plan = make_plan(scenes, scenes.parent / "corpus", SETTINGS)

    def fail(*_: Any) -> None:
        raise bug("no")

    monkeypatch.setattr(place, fail)
    with pytest.raises(bug, match="no") as raised:
        write_shard(scenes, plan.folder, 0)
    assert raised.value.__notes__ == ["while reading sample sentinel2-good-2021-r00000-c00000 of scene good"]


def test_a_lost_mount_is_no_reason_to_reject_a_series(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ZarrCube.__init__

    @functools.wraps(opened)
    def lose(reader: ZarrCube, path: str, *arguments: Any, **options: Any) -> None:
        if Path(path).is_relative_to(scenes) and scenes.exists():
            scenes.rename(scenes.parent / "elsewhere")
        opened(reader, path, *arguments, **options)

    monkeypatch.setattr(ZarrCube, "__init__", lose)
    corpus = scenes.parent / "corpus"
    assert run_shard("--input", scenes, "--output", corpus, "--chip_px.sentinel2", "12") == INFRASTRUCTURE
    assert not corpus.exists()
