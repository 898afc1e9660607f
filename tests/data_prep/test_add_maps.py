"""Adding land-cover maps to a former corpus: byte for byte what shard.py writes anew, without reading images of mapped scenes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import webdataset
import xxhash

from common.command_line import run_command
from common.executors import map_local
from common.json_files import json_bytes, read_json
from data_prep.add_maps import add_maps
from data_prep.corpus.corpus_checks import corpus_faults
from data_prep.corpus.dataset import load_corpus
from data_prep.describe import describe_corpus
from data_prep.plan.plan import PLAN, load_plan
from data_prep.readers.base import Series
from data_prep.readers.zarr_cube import ZarrCube
from data_prep.shards.shard_index import read_index, sample_columns, sample_rows
from tests.support.archives import CHIPS, write_archive
from tests.support.interruptions import contents
from tests.support.sharding import run_shard

SCRIPT = Path(__file__).parents[2] / "data_prep" / "add_maps.py"
ARGUMENTS = (*CHIPS, "--shard_mb", "0.1")
ONE = partial(map_local, workers=1)


def run_add_maps(*arguments: str | Path) -> int:
    """Run add_maps.py with these arguments; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        run_command(add_maps, [str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_archive(folder)
    return folder


@pytest.fixture(scope="module")
def former(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("former") / "corpus"
    assert run_shard("--input", scenes, "--output", output, *ARGUMENTS, "--land_cover_maps", "false") == 0
    return output


@pytest.fixture(scope="module")
def anew(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("anew") / "corpus"
    assert run_shard("--input", scenes, "--output", output, *ARGUMENTS) == 0
    return output


def test_a_former_corpus_has_no_trace_of_maps_and_is_resumed_as_it_is(
    scenes: Path, former: Path, anew: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(b"land_cover_map" not in data and b"landcover_map" not in data for data in contents(former).values())
    assert np.load(former / "modis-train.samples.npy").dtype["offsets"].shape == (5,)
    assert corpus_faults(former, ONE) == []
    describe_corpus(former)
    assert "no land-cover maps (data_prep/add_maps.py adds them)" in capsys.readouterr().out
    unfinished = shutil.copytree(former, tmp_path / "unfinished")
    for name in ("dataset.json", "modis-train-000000.json", "sentinel2-train-000000.tar"):
        (unfinished / name).unlink()
    capsys.readouterr()
    assert run_shard("--input", scenes, "--output", unfinished, *ARGUMENTS) == 0  # a command of the former version
    assert "was begun without land-cover maps and stays without" in capsys.readouterr().out
    assert contents(unfinished) == contents(former)
    assert run_shard("--input", scenes, "--output", tmp_path / "more", *ARGUMENTS, "--plan_only") == 0
    assert run_shard("--input", scenes, "--output", tmp_path / "more", *ARGUMENTS, "--land_cover_maps", "false") == 2
    layouts = {source: about["land_cover_maps"] for source, about in read_json(anew / "dataset.json")["sources"].items()}
    codes = {"dtype": "uint8", "shape": [12, 12]}
    assert layouts == {
        "modis": {"glc_fcs30d": {"dtype": "uint16", "shape": [35, 4, 4]}},
        "sentinel2": {"glc_fcs30d": codes, "scl": codes},
    }
    found = load_corpus(anew)
    assert found.map_layouts["modis"]["glc_fcs30d"].has_counts
    assert not found.map_layouts["sentinel2"]["scl"].has_counts


def test_maps_are_added_as_shard_writes_them(
    scenes: Path, former: Path, anew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, read = contents(former), ZarrCube.read

    def only_of_quality(self: ZarrCube, *window: Any) -> Series:
        assert "coast" in str(vars(self)), "images of a scene with a map were read"
        return read(self, *window)

    with monkeypatch.context() as patch:
        patch.setattr(ZarrCube, "read", only_of_quality)
        assert run_add_maps("--input", scenes, "--corpus", former, "--output", tmp_path / "one") == 0
    assert contents(tmp_path / "one") == contents(anew)
    assert contents(former) == before
    assert corpus_faults(anew, ONE) == []


def test_members_other_than_checksums_stay_as_they_are(former: Path, anew: Path) -> None:
    """By the stock reader; the map lies between the counts and the pixels."""
    for path in sorted(former.glob("*.tar")):
        stock = [webdataset.WebDataset(str(folder / path.name), shardshuffle=False) for folder in (former, anew)]
        for one, other in zip(*stock, strict=True):
            names = [name for name in other if name.endswith("npy") or name == "json"]
            assert names == sorted(names)
            assert set(other) - set(one) == {"landcover_map.npy"}
            changed = {name for name in one if not name.startswith("__") and one[name] != other[name]}
            assert changed == {"checksums.npy"}


@pytest.mark.slow
def test_killed_and_started_again(scenes: Path, tmp_path: Path) -> None:
    small = ("--input", scenes, *CHIPS, "--shard_mb", "0.02")
    assert run_shard(*small, "--output", tmp_path / "former", "--land_cover_maps", "false") == 0
    assert run_shard(*small, "--output", tmp_path / "anew") == 0
    whole, output = contents(tmp_path / "anew"), tmp_path / "corpus"
    arguments = ["--input", str(scenes), "--corpus", str(tmp_path / "former"), "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments, "--workers", "2"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while len(list(output.glob("*.tar"))) < 3 and process.poll() is None:
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    written = contents(output)
    assert not (output / "dataset.json").exists()
    for name, data in written.items():
        assert name.endswith(".tmp") or data == whole[name]
    assert run_add_maps(*arguments) == 0
    assert contents(output) == whole


def test_another_map_in_the_archive_is_refused(
    scenes: Path, former: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(scenes, tmp_path / "scenes")
    with rasterio.open(changed / "delta" / "landcover.tif", "r+") as raster:
        codes = raster.read(1)
        codes[6, 6] = 10 if codes[6, 6] != 10 else 61
        raster.write(codes, 1)
    assert run_add_maps("--input", changed, "--corpus", former, "--output", tmp_path / "corpus") == 1
    out = capsys.readouterr().out
    assert "the land cover in" in out
    assert "is not the one that" in out
    assert not (tmp_path / "corpus" / "dataset.json").exists()
    assert run_add_maps("--input", scenes, "--corpus", former, "--output", tmp_path / "corpus") == 0  # with the former map


def test_damage_of_the_former_corpus_is_named(
    scenes: Path, former: Path, anew: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(former, tmp_path / "former")
    entry = sample_rows(read_index(damaged / "sentinel2-train-000001.json")["samples"])[0]
    data = bytearray((damaged / "sentinel2-train-000001.tar").read_bytes())
    data[entry["members"]["pixels.npy"]["offset"] + 500] ^= 1
    (damaged / "sentinel2-train-000001.tar").write_bytes(data)
    (damaged / "modis-train-000000.tar").unlink()
    assert run_add_maps("--input", scenes, "--corpus", damaged, "--output", tmp_path / "corpus") == 1
    out = capsys.readouterr().out
    assert f"{entry['key']}.pixels.npy of the former corpus is not as it was written" in out
    assert "modis-train-000000.tar is missing" in out
    for wrong, message in (
        (["--corpus", str(anew), "--output", str(tmp_path / "a")], "has land-cover maps already"),
        (["--corpus", str(tmp_path / "none"), "--output", str(tmp_path / "a")], "no finished corpus"),
        (["--corpus", str(former), "--output", str(former)], "holds another corpus"),
        (["--corpus", str(former), "--output", str(scenes)], "exists and is no corpus"),
        (["--corpus", str(former), "--output", str(tmp_path / "a"), "--workers", "0"], "workers must be at least 1"),
    ):
        assert run_add_maps("--input", scenes, *wrong) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_verify_finds_a_changed_map_whose_sums_agree(anew: Path, tmp_path: Path) -> None:
    """A byte of a map beyond the legend, in a shard whose index agrees: the checksums of frames do not."""
    corpus = shutil.copytree(anew, tmp_path / "corpus")
    index = read_index(corpus / "sentinel2-train-000000.json")
    rows = sample_rows(index["samples"])
    place = rows[0]["members"]["landcover_map.npy"]
    data = bytearray((corpus / "sentinel2-train-000000.tar").read_bytes())
    data[place["offset"] + place["size"] - 1] = 35  # of 35 codes
    (corpus / "sentinel2-train-000000.tar").write_bytes(data)
    place["xxh3_64"] = xxhash.xxh3_64_hexdigest(data[place["offset"] : place["offset"] + place["size"]])
    index["xxh3_128"] = xxhash.xxh3_128(bytes(data)).hexdigest()
    (corpus / "sentinel2-train-000000.json").write_bytes(json_bytes({**index, "samples": sample_columns(rows)}))
    found = "\n".join(map(str, corpus_faults(corpus, ONE)))
    assert "checksums.npy: are not those of the frames" in found
    assert "landcover_map.npy: has positions beyond the 35 codes of legend glc_fcs30d" in found


def test_the_plan_says_whether_there_are_maps(former: Path, anew: Path) -> None:
    one, other = load_plan(former), load_plan(anew)
    assert (one.has_maps, other.has_maps) == (False, True)
    assert one.map_layout("modis", "glc_fcs30d") is None
    settings = read_json(anew / PLAN)["settings"]
    assert settings.pop("land_cover_maps") is True
    assert settings == read_json(former / PLAN)["settings"]
