"""Sharding against the arrays that the archive was made from, the stock WebDataset reader, and undisturbed runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import webdataset
import yaml
import zarr

from common.command_line import parse
from common.executors import map_local
from common.exit_codes import INFRASTRUCTURE
from common.json_files import json_bytes
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import load_corpus
from data_prep.landcover.legend import load_legend
from data_prep.plan.build import make_plan
from data_prep.plan.plan import PLAN, TABLES, load_plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.splits import SplitConfig
from data_prep.readers.zarr_cube import ZarrCube
from data_prep.shard import RENAMED, ShardConfig, shard
from data_prep.shards.shard_index import read_index, sample_columns, sample_rows
from data_prep.shards.tar_format import TarWriter
from data_prep.verify import verify
from tests.support.archives import CHIPS, Cube, days, make_cube, write_archive, write_land_cover, write_scene
from tests.support.interruptions import contents
from tests.support.sharding import run_shard, write_shard

SCRIPT = Path(__file__).parents[2] / "data_prep" / "shard.py"
ARGUMENTS = [*CHIPS, "--shard_mb", "0.1"]
WRITTEN = {("modis", "train"): 3, ("sentinel2", "train"): 6, ("sentinel2", "test"): 3}
REJECTED = {
    ("sentinel2", "fewer than 16 dates in the year"): 4,  # 2019
    ("sentinel2", "no mapped land cover in the footprint"): 2,  # 2020 and 2021, upper left
    ("modis", "no mapped land cover in the footprint"): 1,
    ("sentinel2", "no valid observation in the year"): 1,  # coast, upper left
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Cube]]]:
    folder = tmp_path_factory.mktemp("archive")
    return folder, write_archive(folder)


@pytest.fixture(scope="module")
def corpus(archive: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "corpus"
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS) == 0
    return output


def stock_samples(corpus: Path) -> list[dict[str, Any]]:
    """All samples as WebDataset's own reader and decoders give them."""
    urls = [str(path) for path in sorted(corpus.glob("*.tar"))]
    return list(webdataset.WebDataset(urls, shardshuffle=False).decode())


def test_stock_reader_gives_the_arrays_of_the_archive(archive: tuple[Path, dict[str, dict[str, Cube]]], corpus: Path) -> None:
    folder, cubes = archive
    sensors, found = load_sensors(), Counter()
    with rasterio.open(folder / "delta" / "landcover.tif") as raster:
        land_cover = raster.read(1)
    for sample in stock_samples(corpus):
        about = sample["json"]
        source, scene, year = about["source"], about["scene"], about["year"]
        cube, sensor, side = cubes[scene][source], sensors[source], {"sentinel2": 12, "modis": 4}[source]
        found[source, about["split"]] += 1
        row, col = (int(part[1:]) for part in sample["__key__"].split("-")[-2:])
        assert sample["__key__"] == f"{source}-{scene}-{year}-r{row:05d}-c{col:05d}"
        times = np.flatnonzero(cube.dates.astype("datetime64[Y]").astype(str) == str(year))
        pixels = cube.pixels[times, :, row : row + side, col : col + side]
        quality = cube.quality[times, row : row + side, col : col + side]
        clear = {"sentinel2": (2, 4, 5, 6, 7, 11), "modis": (0, 1)}[source]
        assert sample["pixels.npy"].dtype == np.dtype(sensor.dtype)
        np.testing.assert_array_equal(sample["pixels.npy"], pixels)
        np.testing.assert_array_equal(sample["valid.npy"], np.isin(quality, clear))
        assert sample["dates.npy"].dtype == np.int32
        np.testing.assert_array_equal(sample["dates.npy"].astype("datetime64[D]"), cube.dates[times])
        gsd = {"sentinel2": 10, "modis": 30}[source]
        if scene == "delta":  # a map of 30 m, and footprints that fall on its pixels
            first, last = row * gsd // 30, (row + side) * gsd // 30
            codes = land_cover[first:last, col * gsd // 30 : (col + side) * gsd // 30]
        else:
            codes = quality
        legend = load_legend(about["legend"])
        assert sample["landcover.npy"].tolist() == [int((codes == code).sum()) for code in legend.codes]
        np.testing.assert_array_equal(sample["landcover_map.npy"], map_by_pixel(codes, legend.codes, source, side))
        assert about["bands"] == list(sensor.bands)
        assert about["crs"] == "EPSG:32631"
        west = {"delta": 500_040, "coast": 596_040}[scene]
        assert about["transform"] == [gsd, 0, west + col * gsd, 0, -gsd, 5_000_040 - row * gsd]
        assert (about["height"], about["width"], about["region"]) == (side, side, scene)
    assert found == WRITTEN


def map_by_pixel(codes: np.ndarray, known: tuple[int, ...], source: str, side: int) -> np.ndarray:
    """The land-cover map pixel by pixel: codes (rows, columns) of the footprint, or (T, H, W) of the quality layer."""
    by_pixel: Any = np.zeros((len(known), side, side), np.uint16)
    for row in range(side):
        for col in range(side):
            pixel = codes[..., row * codes.shape[-2] // side, col * codes.shape[-1] // side]
            by_pixel[:, row, col] = [(pixel == code).sum() for code in known]
    if source == "modis":
        return by_pixel  # type: ignore[no-any-return]
    return np.where(by_pixel.any(axis=0), by_pixel.argmax(axis=0), 255).astype(np.uint8)


def test_stock_reader_needs_no_pickle(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset.utils, "enforce_security", True)
    assert len(stock_samples(corpus)) == 12
    for sample in webdataset.WebDataset([str(p) for p in sorted(corpus.glob("*.tar"))], shardshuffle=False):
        for name in ("pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "landcover_map.npy"):
            assert b"O" not in sample[name][:128].split(b"descr")[1].split(b",")[0]


def test_description_counts_statistics_and_rejections(
    archive: tuple[Path, dict[str, dict[str, Cube]]], corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = load_corpus(corpus)
    rejected = [json.loads(line) for line in (corpus / "rejected.jsonl").read_text().splitlines()]
    assert Counter((row["source"], row["reason"]) for row in rejected) == REJECTED
    assert description.rejected == 8
    keys = [row["key"] for row in rejected]
    stock = {sample["__key__"]: sample for sample in stock_samples(corpus)}
    assert not set(keys) & set(stock)
    for (source, split), count in WRITTEN.items():
        samples = description.samples(source, split)
        assert len(samples) == count
        for sample in samples:
            assert sample.frames == len(stock[sample.key]["dates.npy"])
            assert list(sample.land_cover) == stock[sample.key]["landcover.npy"].tolist()
            data = sample.shard.read_bytes()
            member = sample.members["pixels.npy"]
            assert data[member.offset : member.offset + 6] == b"\x93NUMPY"
            assert (
                data[member.offset + member.size - 8 : member.offset + member.size]
                == stock[sample.key]["pixels.npy"].tobytes()[-8:]
            )
        bands = len(description.sensors[source].bands)
        side = {"sentinel2": 12, "modis": 4}[source]
        assert description.shapes[source] == (bands, side, side)
    for source in ("modis", "sentinel2"):
        train = [stock[sample.key] for sample in description.samples(source, "train")]
        values = np.concatenate([np.moveaxis(s["pixels.npy"], 1, 0)[:, s["valid.npy"]] for s in train], axis=1).astype(float)
        visible = {"sentinel2": [2, 1, 0], "modis": [0, 3, 2]}[source]
        values = values[:, (values[visible] <= 3000).any(axis=0)]  # what is no snow
        mean, std = values.mean(axis=1), values.std(axis=1)
        np.testing.assert_allclose(description.mean[source], mean, rtol=1e-9)
        np.testing.assert_allclose(description.std[source], std, rtol=1e-9)
        np.testing.assert_allclose(description.limits[source], [mean - 4 * std, mean + 4 * std], rtol=1e-9)
    capsys.readouterr()
    assert run_shard("--input", archive[0], "--output", corpus, *ARGUMENTS) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("sentinel2", "modis", "test", "75%", "fewer than 16 dates"))


def test_plan_is_frozen_hashed_and_reads_no_pixels(
    archive: tuple[Path, Any], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pixels(*_: object) -> None:
        raise AssertionError("the plan read pixels")

    monkeypatch.setattr(ZarrCube, "read", no_pixels)
    settings = PlanSettings(chip_px={"sentinel2": 12, "modis": 4}, shard_mb=0.1)
    plan = make_plan(archive[0], tmp_path / "again", settings, partial(map_local, workers=2))
    for name in (PLAN, *TABLES.values()):
        assert (tmp_path / "again" / name).read_bytes() == (corpus / name).read_bytes()
    assert load_plan(corpus).hash == plan.hash == make_plan(archive[0], corpus, settings).hash
    assert load_plan(corpus).damaged_tables() == []
    assert {load_index(corpus, name.name)["plan"] for name in corpus.glob("*0*.json")} == {plan.hash}
    assert make_plan(archive[0], tmp_path / "larger", replace(settings, shard_mb=0.2)).hash != plan.hash
    for planned in plan.shards():  # a shard is of one source and one split, its samples in the scene's order
        places = [(sample.scene, sample.year, sample.row, sample.col) for sample in planned.samples]
        assert places == sorted(places)
        assert {(sample.source, sample.split) for sample in planned.samples} == {(planned.source, planned.split)}
    keys = [sample.key for planned in plan.shards() for sample in planned.samples]
    assert len(set(keys)) == len(keys) == 12 + 4  # four of them are rejected when they are read


def test_a_plan_of_an_earlier_version_keeps_its_shards_and_its_statistics(
    archive: tuple[Path, Any], corpus: Path, tmp_path: Path
) -> None:
    """Such a plan has no setting `snow_apart`; its indexes hold one kind of statistics, and dataset.json no limits."""
    output = tmp_path / "corpus"
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS, "--plan_only", "true") == 0
    plan = json.loads((output / PLAN).read_text())
    assert plan["settings"].pop("snow_apart") is True
    (output / PLAN).write_bytes(json_bytes(plan))
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS) == 0
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS) == 0
    for path in corpus.glob("*.tar"):
        assert (output / path.name).read_bytes() == path.read_bytes()
        index, now = (json.loads((folder / path.name).with_suffix(".json").read_text()) for folder in (output, corpus))
        assert now.pop("statistics_of_snow").keys() == {"count", "total", "squares"}
        assert index | {"plan": now["plan"]} == now
    description = load_corpus(output)
    assert description.limits == {}
    for source in ("modis", "sentinel2"):
        train = [s for s in stock_samples(output) if (s["json"]["source"], s["json"]["split"]) == (source, "train")]
        values = np.concatenate([np.moveaxis(s["pixels.npy"], 1, 0)[:, s["valid.npy"]] for s in train], axis=1).astype(float)
        np.testing.assert_allclose(description.std[source], values.std(axis=1), rtol=1e-9)
        assert description.normalization(source).keys() == {"mean", "std"}


def test_plan_only_says_what_would_be_written_and_the_command_goes_on_from_there(
    archive: tuple[Path, Any], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "corpus"
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS, "--plan_only", "true") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {tuple(row[:2]): int(row[3]) for row in rows if row and row[-1][-1].isdigit()} == {
        ("modis", "train"): 4,
        ("sentinel2", "test"): 4,
        ("sentinel2", "train"): 8,
    }
    assert ["sentinel2", "4", "fewer", "than", "16", "dates", "in", "the", "year"] in rows
    assert {path.name for path in output.iterdir()} == {PLAN, *TABLES.values()}
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS) == 0
    assert contents(output) == contents(corpus)


def test_a_run_that_was_killed_while_it_planned_starts_anew(archive: tuple[Path, Any], corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    output.mkdir()
    for name in (".sentinel2-train.samples.tmp", TABLES["series"], f".{TABLES['samples']}.0.tmp"):
        (output / name).write_bytes(b"half")
    assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS) == 0
    assert contents(output) == contents(corpus)


def load_index(corpus: Path, name: str) -> dict[str, Any]:
    return json.loads((corpus / name).read_text())  # type: ignore[no-any-return]


def test_shards_keep_to_their_size(archive: tuple[Path, Any], tmp_path: Path) -> None:
    settings = PlanSettings(chip_px={"sentinel2": 3, "modis": 3}, shard_mb=0.05)
    plan = make_plan(archive[0], tmp_path / "small", settings)
    sizes = Counter({planned.name: sum(s.stop - s.start for s in planned.samples) * (9 * 21 + 4) for planned in plan.shards()})
    assert plan.num_shards > 10
    assert max(sizes.values()) < 0.06e6
    assert make_plan(archive[0], tmp_path / "large", replace(settings, shard_mb=1000)).num_shards == 3


@pytest.mark.parametrize("engine", [["--workers", "2"], ["--engine", "dask", "--workers", "2"]])
def test_same_bytes_by_any_engine(archive: tuple[Path, Any], corpus: Path, tmp_path: Path, engine: list[str]) -> None:
    assert run_shard("--input", archive[0], "--output", tmp_path / "corpus", *ARGUMENTS, *engine) == 0
    assert contents(tmp_path / "corpus") == contents(corpus)


def test_a_running_dask_scheduler_is_used(archive: tuple[Path, Any], corpus: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        arguments = ("--engine", "dask", "--scheduler", address)
        assert run_shard("--input", archive[0], "--output", tmp_path / "corpus", *ARGUMENTS, *arguments) == 0
    assert contents(tmp_path / "corpus") == contents(corpus)


def test_killed_and_started_again_gives_the_same_bytes(archive: tuple[Path, Any], tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    arguments = ["--input", str(archive[0]), "--output", str(output), *CHIPS, "--shard_mb", "0.02"]
    assert run_shard("--input", archive[0], "--output", tmp_path / "whole", *arguments[4:]) == 0
    whole = contents(tmp_path / "whole")
    shards = sum(name.endswith(".tar") for name in whole)
    assert shards > 12
    for moment in (1, shards // 2):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while len(list(output.glob("*.tar"))) < moment and process.poll() is None:
            time.sleep(0.0005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (output / "dataset.json").exists()
        for name, data in contents(output).items():  # what bears a final name is whole
            assert name.endswith(".tmp") or data == whole[name]
    assert run_shard(*arguments) == 0
    assert contents(output) == whole


def test_finished_shards_are_not_written_again(archive: tuple[Path, Any], tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    arguments = ("--input", archive[0], "--output", output, *ARGUMENTS)
    run_shard(*arguments)
    before = contents(output)
    (output / "modis-train-000000.json").unlink()  # as if killed between tar and index
    tar = output / "sentinel2-test-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    stamps = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert run_shard(*arguments) == 0
    assert contents(output) == before
    changed = {name for name, stamp in stamps.items() if (output / name).stat().st_mtime_ns != stamp}
    assert changed == {"modis-train-000000.tar", "sentinel2-test-000000.tar"}


def test_damage_is_found_at_the_end_or_by_verify(
    archive: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "corpus"
    arguments = ("--input", archive[0], "--output", output, *ARGUMENTS)
    run_shard(*arguments)
    index, tar = output / "modis-train-000000.json", output / "modis-train-000000.tar"
    whole = index.read_bytes()
    values = read_index(index)
    values["samples"] = sample_columns(sample_rows(values["samples"])[:-1])
    index.write_bytes(json_bytes(values))
    capsys.readouterr()
    assert run_shard(*arguments) == 2
    assert "remove modis-train-000000.* and start again" in capsys.readouterr().err
    index.write_bytes(whole)
    data = bytearray(tar.read_bytes())
    data[9_000] ^= 1  # no tar is read to finish a corpus
    tar.write_bytes(data)
    assert run_shard(*arguments) == 0
    assert verify(output) == 1
    assert "modis-train-000000.tar" in capsys.readouterr().out


def test_another_plan_in_the_same_folder_is_refused(
    archive: tuple[Path, Any], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(corpus)
    assert run_shard("--input", archive[0], "--output", corpus, *CHIPS, "--shard_mb", "0.2") == 2
    assert "another plan" in capsys.readouterr().err
    assert contents(corpus) == before
    (tmp_path / "thesis.txt").write_text("mine")
    assert run_shard("--input", archive[0], "--output", tmp_path, *ARGUMENTS) == 2
    assert "is no corpus" in capsys.readouterr().err
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_scene_that_changes_after_the_plan_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "scenes")
    make_plan(tmp_path / "scenes", tmp_path / "corpus", PlanSettings(sources=("modis",), chip_px={"modis": 4}))
    times = zarr.open_group(tmp_path / "scenes" / "delta" / "modis.zarr", mode="r+")["time"]
    times[-1] = times[-1] + 1
    with pytest.raises(ValueError, match=r"modis of scene .*delta changed since"):
        write_shard(tmp_path / "scenes", tmp_path / "corpus", 0)
    assert set(contents(tmp_path / "corpus")) == {PLAN, *TABLES.values()}


def test_a_scene_that_is_gone_or_described_anew_is_said_in_a_line(tmp_path: Path) -> None:
    write_archive(tmp_path / "scenes")
    plan = make_plan(tmp_path / "scenes", tmp_path / "corpus", PlanSettings(chip_px={"sentinel2": 12, "modis": 4}))
    of_delta = plan.names.index("sentinel2-train-000000")
    description = tmp_path / "scenes" / "delta" / "scene.yaml"
    text = description.read_text()
    description.write_text(text + "\n")
    with pytest.raises(ValueError, match=r"delta/scene\.yaml changed since the corpus was planned"):
        write_shard(tmp_path / "scenes", tmp_path / "corpus", of_delta)
    description.write_text(text)
    (tmp_path / "scenes" / "delta").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"scene .*delta is gone since the corpus was planned; put it back"):
        write_shard(tmp_path / "scenes", tmp_path / "corpus", of_delta)
    write_shard(tmp_path / "scenes", tmp_path / "corpus", plan.names.index("sentinel2-test-000000"))  # of another scene
    (tmp_path / "elsewhere").rename(tmp_path / "scenes" / "delta")
    write_shard(tmp_path / "scenes", tmp_path / "corpus", of_delta)


def test_scenes_of_several_crs_are_one_corpus(tmp_path: Path) -> None:
    write_archive(tmp_path / "scenes")
    for source, crs in (("sentinel2", "EPSG:32632"), ("modis", "EPSG:32633")):  # of one scene even
        zarr.open_group(tmp_path / "scenes" / "delta" / f"{source}.zarr", mode="r+").attrs["crs"] = crs
    describe_delta = yaml.safe_load((tmp_path / "scenes" / "delta" / "scene.yaml").read_text())
    describe_delta["land_cover"] = {"quality": "sentinel2", "legend": "scl"}
    (tmp_path / "scenes" / "delta" / "scene.yaml").write_text(yaml.safe_dump(describe_delta))
    assert run_shard("--input", tmp_path / "scenes", "--output", tmp_path / "corpus", *CHIPS) == 0
    found = {(sample["json"]["scene"], sample["json"]["crs"]) for sample in stock_samples(tmp_path / "corpus")}
    assert found == {("delta", "EPSG:32632"), ("coast", "EPSG:32631")}


def test_a_full_disk_leaves_no_shard_and_is_no_rejection(
    archive: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    output = tmp_path / "corpus"
    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "add", full)
        assert run_shard("--input", archive[0], "--output", output, *ARGUMENTS) == INFRASTRUCTURE
    assert "No space left" in capsys.readouterr().err
    assert set(contents(output)) == {PLAN, *TABLES.values()}


def test_a_damaged_chunk_rejects_its_samples_only(tmp_path: Path) -> None:
    write_archive(tmp_path / "scenes")
    stored = tmp_path / "scenes" / "delta" / "modis.zarr" / "reflectance" / "c"
    chunk = next(path for path in sorted(stored.rglob("*")) if path.is_file())
    chunk.write_bytes(b"rubbish" + chunk.read_bytes()[7:])
    output = tmp_path / "corpus"
    arguments = ("--input", tmp_path / "scenes", "--output", output, *ARGUMENTS)
    assert run_shard(*arguments) == 1
    assert not (output / "dataset.json").exists(), "4 of 13 are more than the share that may fail"
    assert run_shard(*arguments, "--max_failed_share", "0.4") == 0
    reasons = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    unreadable = [row for row in reasons if row["reason"].startswith("cannot be read: ")]
    assert unreadable
    assert {row["source"] for row in unreadable} == {"modis"}
    assert str(tmp_path) not in (output / "rejected.jsonl").read_text()
    assert set(load_corpus(output).sensors) == {"sentinel2"}
    assert len(stock_samples(output)) == 9  # the shard without samples is an empty tar that a stock reader passes over


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One scene with one source, to be spoilt; lies in tmp_path/scenes/delta."""
    sensor = load_sensors()["sentinel2"]
    cube = make_cube(sensor, 12, days(2021, 17), np.random.default_rng(0))
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    write_scene(tmp_path / "scenes" / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover=land_cover)
    write_land_cover(tmp_path / "scenes" / "delta" / "landcover.tif", np.full((4, 4), 10))
    return tmp_path


def describe_anew(folder: Path, **changes: Any) -> None:
    path = folder / "scenes" / "delta" / "scene.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def spoil_no_input(folder: Path) -> None:
    (folder / "scenes").rename(folder / "elsewhere")


def spoil_empty_input(folder: Path) -> None:
    spoil_no_input(folder)
    (folder / "scenes").mkdir()


def spoil_source(folder: Path) -> None:
    describe_anew(folder, sources={"sentinel9": {"container": "zarr_cube", "path": "sentinel2.zarr"}})


def spoil_bands(folder: Path) -> None:
    options = {"container": "zarr_cube", "path": "sentinel2.zarr", "offset": 0, "bands": ["B02", "B03"]}
    describe_anew(folder, sources={"sentinel2": options})


def spoil_time(folder: Path) -> None:
    group = zarr.open_group(folder / "scenes" / "delta" / "sentinel2.zarr", mode="r+")
    del group["time"]


def spoil_codes(folder: Path) -> None:
    write_land_cover(folder / "scenes" / "delta" / "landcover.tif", np.full((4, 4), 99))


def spoil_place(folder: Path) -> None:
    write_land_cover(folder / "scenes" / "delta" / "landcover.tif", np.full((4, 4), 10), west=600_000)


def spoil_georeference(folder: Path) -> None:
    path = folder / "scenes" / "delta" / "landcover.tif"
    path.unlink()
    with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", height=4, width=4) as raster:
        raster.write(np.full((1, 4, 4), 10, np.uint8))


def spoil_map(folder: Path) -> None:
    (folder / "scenes" / "delta" / "landcover.tif").unlink()


def spoil_cover(folder: Path) -> None:
    describe_anew(folder, land_cover=None)


def spoil_quality(folder: Path) -> None:
    describe_anew(folder, land_cover={"quality": "landsat", "legend": "scl"})


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (spoil_no_input, [], "does not exist"),
        (spoil_empty_input, [], "no scenes in"),
        (spoil_source, [], r"unknown sources \['sentinel9'\]; known are \['hls_s30', 'landsat', 'modis', 'sentinel2'\]"),
        (spoil_bands, [], "bands"),
        (spoil_time, [], "time"),
        (spoil_codes, [], r"landcover.tif: land cover holds codes \[99\] that legend glc_fcs30d does not have"),
        (spoil_place, [], "maps nothing of scene delta"),
        (spoil_georeference, [], "landcover.tif is not georeferenced"),
        (spoil_map, [], "landcover.tif does not exist"),
        (spoil_cover, [], "nothing to write: all 1 windows .* no land cover"),
        (spoil_quality, [], "quality layer of 'landsat'"),
        (None, ["--sources", "sentinel2,spot"], r"unknown sources \['spot'\]"),
        (None, ["--sources", "[modis]"], r"no scene .* \['modis'\]; they hold \['sentinel2'\]"),
        (None, ["--chip_px.sentinel2", "13"], "window of 13 x 13 px is larger than the scene, 12 x 12 px"),
        (None, ["--chip_px.sentinel2", "0"], "chip_px must be at least 1"),
        (None, ["--min_frames", "18"], "fewer than 18 dates"),
        (None, ["--shard_mb", "0"], "shard_mb must be above 0"),
        (None, ["--sites", "none.csv"], "table of sites none.csv does not exist"),
        (None, ["--split_block_km", "10", "--split_buffer_km", "8"], "the buffer between splits is 8.0 km"),
        (None, ["--split_buffer_km", "8"], "only with block_km"),
        (None, ["--workers", "0"], "workers must be at least 1"),
        (None, ["--scheduler", "tcp://localhost:1"], "only with --engine dask"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_bad_input_is_one_line_exit_2_and_no_output(
    small: Path, spoil: Any, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if spoil is not None:
        spoil(small)
    chips = [] if "--chip_px.sentinel2" in arguments else ["--chip_px.sentinel2", "12"]
    assert run_shard("--input", small / "scenes", "--output", small / "corpus", *chips, *arguments) == 2
    errors = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert not (small / "corpus").exists()


def test_the_small_scene_is_good_until_it_is_spoilt(small: Path) -> None:
    assert run_shard("--input", small / "scenes", "--output", small / "corpus", "--chip_px.sentinel2", "12") == 0
    assert run_shard("--input", small / "scenes" / "delta", "--output", small / "one", "--chip_px.sentinel2", "12") == 0
    assert len(stock_samples(small / "corpus")) == len(stock_samples(small / "one")) == 1


def test_the_real_command_says_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--input", str(tmp_path / "none"), "--output", str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: input folder {tmp_path / 'none'} does not exist\n"
    assert not (tmp_path / "corpus").exists()


def test_land_cover_is_a_map_or_a_quality_layer(small: Path) -> None:
    describe_anew(small, land_cover={"legend": "scl"})
    with pytest.raises(ValueError, match="either `raster`"):
        load_scene(small / "scenes" / "delta")


def test_quality_of_one_source_says_nothing_of_another(tmp_path: Path) -> None:
    write_archive(tmp_path / "scenes")
    description = tmp_path / "scenes" / "delta" / "scene.yaml"
    values = {**yaml.safe_load(description.read_text()), "land_cover": {"quality": "sentinel2", "legend": "scl"}}
    description.write_text(yaml.safe_dump(values))
    plan = make_plan(tmp_path / "scenes", tmp_path / "corpus", PlanSettings(chip_px={"sentinel2": 12, "modis": 4}))
    assert {sample.source for planned in plan.shards() for sample in planned.samples} == {"sentinel2"}
    reasons = {row.reason for row in plan.rejected() if row.source == "modis"}
    assert reasons == {"land cover is counted from the quality layer of another source"}


def test_options_of_splits_keep_their_old_names_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--input", "scenes", "--output", "corpus"]
    expected = SplitConfig(block_km=20, shares={"test": 0.3}, buffer_km=1, seed=5)
    new = ["--split.block_km", "20", "--split.shares.test", "0.3", "--split.buffer_km=1", "--split.seed", "5"]
    assert parse(shard, [*folders, *new], config_class=ShardConfig, renamed=RENAMED).split == expected
    assert capsys.readouterr().err == ""
    (tmp_path / "old.yaml").write_text("split_block_km: 20\nsplit_shares: {test: 0.3}\nsplit_buffer_km: 1\nsplit_seed: 5\n")
    old = ["--split_block_km", "20", "--split-shares.test", "0.3", "--split_buffer_km=1", "--split_seed", "5"]
    for written in (old, ["--config", str(tmp_path / "old.yaml")]):
        assert parse(shard, [*folders, *written], config_class=ShardConfig, renamed=RENAMED).split == expected
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == 4
        assert all("split_" in line and "was renamed to" in line for line in warnings)
