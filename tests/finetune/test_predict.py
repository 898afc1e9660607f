"""The command that maps a scene: restarts, workers, the files that it writes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
import rasterio
import rasterio.shutil
import torch
import zarr
from rio_cogeo import cog_validate

import finetune.predict as predict_module
from common.command_line import run_command
from common.exit_codes import INFRASTRUCTURE, STOPPED, USER_ERROR
from common.notes import collected_notes
from common.run_lock import RunLock
from common.storage import any_path
from finetune.mapping import cog
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.cog import NO_DATA, count_classes
from finetune.mapping.outlines import PolygonOptions
from finetune.model.model_file import save_model
from finetune.predict import predict
from tests.support.launching import ROOT, wait_for
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import random_mapper
from tests.support.web_server import web_server

pytestmark = pytest.mark.usefixtures("one_thread")
PREDICT_BLOCK = BlockPredictor.predict


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "a"
    write_rice_scene(folder, "test", side=112, seed=5)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        save_model(folder / f"{seed}.safetensors", *random_mapper(seed))
    return folder / "0.safetensors", folder / "1.safetensors"


@pytest.fixture(scope="module")
def undisturbed(scene: Path, models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Map and probabilities of the first model, in nine blocks."""
    output = tmp_path_factory.mktemp("undisturbed") / "map.tif"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    predict(model=models[0], input=[scene], output=output, block_px=48, probabilities=True)
    torch.set_num_threads(threads)
    return output


def same_files(one: Path, other: Path) -> bool:
    """Whether two maps, their probabilities, names and pictures are the same, byte by byte, and nothing else is there."""
    names = sorted(os.listdir(one.parent))
    assert names == ["map.png", "map.tif", "map.tif.aux.xml", "map_probabilities.tif"]
    assert sorted(os.listdir(other.parent)) == names
    return all((one.parent / name).read_bytes() == (other.parent / name).read_bytes() for name in names)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_map_of_a_scene_at_a_url(
    scene: Path, models: tuple[Path, Path], undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    with web_server() as serve:
        place = any_path(f"{serve(scene.parent, lambda _: None)}/{scene.name}")
        options: dict[str, Any] = {"block_px": 48, "probabilities": True, "workers": workers}
        predict(model=models[0], input=[place], output=tmp_path / "map.tif", **options)
    assert same_files(tmp_path / "map.tif", undisturbed)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make the prediction of block number `count` end as by Ctrl-C."""
    calls = []

    def interrupted(*arguments: Any) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return PREDICT_BLOCK(*arguments)

    monkeypatch.setattr(BlockPredictor, "predict", interrupted)


def test_interrupted_map_resumes_to_the_same_bytes(
    scene: Path,
    models: tuple[Path, Path],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "map.tif"
    for count in (3, 2):
        interrupt_after(monkeypatch, count)
        with pytest.raises(KeyboardInterrupt):
            predict(model=models[0], input=[scene], output=output, block_px=48, probabilities=True)
        assert os.listdir(tmp_path) == [".map.tif.parts"]
    interrupt_after(monkeypatch, 4)
    predict(model=models[0], input=[scene], output=output, block_px=48, probabilities=True)
    assert "5 of 9 blocks are finished" in capsys.readouterr().out
    assert same_files(output, undisturbed)


def test_two_jobs_never_write_the_same_map(
    scene: Path, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "map.tif"
    arguments = ["--model", str(models[0]), "--input", str(scene), "--output", str(output), "--block_px", "48"]
    with RunLock(tmp_path / ".map.tif.lock", output) as lock:
        lock.acquire()
        with pytest.raises(SystemExit) as ended:
            run_command(predict, arguments)
        assert ended.value.code == USER_ERROR
        assert re.search(rf"^error: {output} is in use by process {os.getpid()} on ", capsys.readouterr().err, re.MULTILINE)
        assert os.listdir(tmp_path) == [".map.tif.lock-1"]

    def taken_over(*arguments: Any) -> dict[str, np.ndarray]:
        (tmp_path / ".map.tif.lock-2").touch()
        return PREDICT_BLOCK(*arguments)

    monkeypatch.setattr(BlockPredictor, "predict", taken_over)
    with pytest.raises(SystemExit) as ended:
        run_command(predict, arguments)
    assert ended.value.code == INFRASTRUCTURE
    assert "belongs to another job now" in capsys.readouterr().err
    assert not list((tmp_path / ".map.tif.parts").glob("*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_a_stop_signal_ends_command_and_workers_with_one_line_and_keeps_finished_blocks(
    scene: Path, models: tuple[Path, Path], tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    """A terminal sends Ctrl-C to all processes of a command, a scheduler SIGTERM to the first one."""
    output, parts = tmp_path / "map.tif", tmp_path / ".map.tif.parts"
    arguments = ["--model", str(models[0]), "--input", str(scene), "--output", str(output)]
    command = [sys.executable, str(ROOT / "finetune" / "predict.py"), *arguments, "--block_px", "16", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: list(parts.glob("*.npz")) or process.poll() is not None, 300)
    below = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == STOPPED, errors
    assert errors.count("asked to stop: what is finished stays") == 1
    assert "Traceback" not in errors
    assert not psutil.wait_procs(below, timeout=15)[1]
    finished = {path.name: path.read_bytes() for path in parts.glob("*.npz")}
    assert finished
    assert sorted(os.listdir(tmp_path)) == [".map.tif.parts"]


def test_a_map_or_block_that_cannot_be_written_is_the_fault_of_the_storage(
    scene: Path, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise rasterio.errors.RasterioIOError("Write failed")  # of GDAL, without a number

    def gone(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    arguments = ["--model", str(models[0]), "--input", str(scene), "--output", str(tmp_path / "map.tif"), "--block_px", "64"]
    for owner, name, error in ((np, "savez_compressed", gone), (cog, "copy", fail)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, error)
            with pytest.raises(SystemExit) as ended:
                run_command(predict, arguments)
        assert ended.value.code == INFRASTRUCTURE
        assert f"error: writing {tmp_path}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run_command(predict, arguments)
    assert ended.value.code == 0
    assert "4 of 4 blocks are finished" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["model", "overlap", "scene"])
def test_blocks_of_another_map_are_not_mixed_in(
    scene: Path,
    models: tuple[Path, Path],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    output = tmp_path / "map.tif"
    arguments: dict[str, Any] = {"model": models[0], "input": [scene], "block_px": 48, "probabilities": True}
    other: dict[str, Any] = {"model": models[1]} if change == "model" else {"overlap": 0.0}
    if change == "scene":
        shutil.copytree(scene, tmp_path / "scenes" / "a")
        other = {"input": [tmp_path / "scenes" / "a"]}
    interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        predict(output=output, **(arguments | other))
    monkeypatch.undo()
    predict(output=output, **arguments)
    assert "of another model, scene or setting: they are removed" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "scenes", ignore_errors=True)
    assert same_files(output, undisturbed)


def test_damaged_block_is_named(scene: Path, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        predict(model=models[0], input=[scene], output=tmp_path / "map.tif", block_px=48)
    monkeypatch.undo()
    block = tmp_path / ".map.tif.parts" / "0000002.npz"
    block.write_bytes(block.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"0000002.npz is damaged"):
        predict(model=models[0], input=[scene], output=tmp_path / "map.tif", block_px=48)


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.slow)])
def test_workers_make_the_same_map(
    scene: Path, models: tuple[Path, Path], undisturbed: Path, tmp_path: Path, engine: Any
) -> None:
    output = tmp_path / "map.tif"
    predict(model=models[0], input=[scene], output=output, block_px=48, probabilities=True, workers=2, engine=engine)
    assert same_files(output, undisturbed)


def test_block_size_changes_nothing_that_is_seen(
    scene: Path, models: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    predict(model=models[0], input=[scene], output=tmp_path / "map.tif", probabilities=True)
    with (
        rasterio.open(tmp_path / "map_probabilities.tif") as one,
        rasterio.open(undisturbed.with_stem("map_probabilities")) as other,
    ):
        assert np.abs(one.read().astype(int) - other.read()).max() <= 1  # the last bit of a float may round the other way


def test_files_are_what_they_say(scene: Path, undisturbed: Path, tmp_path: Path) -> None:
    probabilities = undisturbed.with_stem("map_probabilities")
    for path in (undisturbed, probabilities):
        assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(undisturbed) as found, rasterio.open(scene / "crop_type.tif") as label:
        assert (found.crs, found.transform, found.shape) == (label.crs, label.transform, label.shape)
        assert (found.nodata, found.dtypes, found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == (NO_DATA, ("uint8",), "COG")
        assert found.colormap(1)[1] == (0x1F, 0x78, 0xB4, 255)
        assert found.tags(1)["class_1"] == "paddy_rice"
        tags, classes = found.tags(), found.read(1)
    assert {name: tags[name] for name in ("task", "scene", "year", "last_image")} == {
        "task": "paddy_rice", "scene": "a", "year": "2021", "last_image": "2021-12-14",
    }  # fmt: skip
    with rasterio.open(probabilities) as found:
        assert found.descriptions == ("other", "paddy_rice")
        assert found.scales == (1 / 250, 1 / 250)
        values = found.read()
    np.testing.assert_array_equal(values[0] == NO_DATA, classes == NO_DATA)
    known = classes != NO_DATA
    assert np.abs(values.sum(axis=0, dtype=int)[known] - 250).max() <= 1
    sure = known & (np.abs(values[0].astype(int) - values[1]) > 2)
    np.testing.assert_array_equal(classes[sure], values.argmax(axis=0)[sure])
    assert count_classes(undisturbed, 2).tolist() == [(classes == value).sum() for value in (0, 1, NO_DATA)]
    # GDAL itself says which categories it knows, in a virtual raster made of the map.
    rasterio.shutil.copy(undisturbed, tmp_path / "map.vrt", driver="VRT")
    names = [category.text for category in ElementTree.parse(tmp_path / "map.vrt").iter("Category")]
    assert names == ["other", "paddy rice"]


def test_all_clouds_are_a_map_without_data(scene: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(scene, tmp_path / "scenes" / "a")
    zarr.open_group(tmp_path / "scenes" / "a" / "landsat.zarr")["Fmask"][:] = 2
    predict(
        model=models[0],
        input=[tmp_path / "scenes" / "a"],
        output=tmp_path / "map.tif",
        probabilities=True,
        polygons=PolygonOptions(class_name="paddy_rice"),
    )
    for name in ("map.tif", "map_probabilities.tif"):
        with rasterio.open(tmp_path / name) as found:
            assert (found.read() == NO_DATA).all()
    assert (tmp_path / "map.png").is_file()
    assert (tmp_path / "map_fields.parquet").is_file()


def in_degrees(scene: Path, pixel: float) -> None:
    """Say that a scene lies on a grid of longitude and latitude."""
    for source, size in (("landsat", pixel), ("modis", 16 * pixel)):
        group = zarr.open_group(scene / f"{source}.zarr")
        count = group["x"].shape[0]
        group.attrs["crs"] = "EPSG:4326"
        group["x"][:] = 5.0 + size * (np.arange(count) + 0.5)
        group["y"][:] = 44.0 - size * (np.arange(count) + 0.5)


def test_scene_in_degrees(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=64, cloudy=0.0)
    in_degrees(tmp_path / "a", 0.00025)
    model, recipe = random_mapper()
    save_model(tmp_path / "metres.safetensors", model, recipe)
    with pytest.raises(ValueError, match=r"maps pixels of 30; the scene .*EPSG:4326\) has another unit"):
        predict(model=tmp_path / "metres.safetensors", input=[tmp_path / "a"], output=tmp_path / "map.tif")
    save_model(tmp_path / "degrees.safetensors", model, replace(recipe, pixel=0.00025))
    predict(model=tmp_path / "degrees.safetensors", input=[tmp_path / "a"], output=tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.crs == "EPSG:4326"
        assert found.shape == (64, 64)
        assert tuple(found.transform)[:6] == pytest.approx((0.00025, 0, 5, 0, -0.00025, 44))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers is 0 and --batch_size 16; both must be at least 1"),
        (["--polygons", "padi_rice"], "has no class 'padi_rice', did you mean paddy_rice?"),
        (["--block_px", "0"], "--block_px is 0"),
        (["--year", "1999"], "no image of landsat between 1999-01-01"),
    ],
)
def test_bad_input(
    scene: Path, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    known = ["--model", str(models[0]), "--input", str(scene), "--output", str(tmp_path / "map.tif")]
    with pytest.raises(SystemExit) as stopped:
        run_command(predict, [*known, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_ten_disturbances_of_a_map_of_several_workers_change_no_byte(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Kills of the command, of a worker and of all, and the signals that ask it to stop, at random moments."""
    write_rice_scene(tmp_path / "b", "test", side=480, seed=6, frames=6)
    command = [sys.executable, str(Path(predict_module.__file__)), "--model", str(models[0]), "--input", str(tmp_path / "b")]
    command += ["--block_px", "48", "--probabilities", "true", "--workers", "2", "--output"]
    maps = [tmp_path / folder / "map.tif" for folder in ("straight", "disturbed")]
    subprocess.run([*command, str(maps[0])], check=True, capture_output=True)

    def finished() -> int:
        return len(list(maps[1].parent.glob(".map.tif.parts/*.npz")))

    chance, codes = random.Random(2026), []
    ways = ["all killed", "command killed", "worker killed", "SIGTERM", "SIGINT", "SIGHUP", "all killed", "command killed"]
    for way in chance.sample([*ways, "SIGINT", "worker killed"], 10):
        process = subprocess.Popen([*command, str(maps[1])], start_new_session=True, stderr=subprocess.DEVNULL)
        until = finished() + chance.randint(1, 4)
        while finished() < until:
            assert process.poll() is None, f"it was done before it could be disturbed: {codes}"
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        if way == "all killed":
            os.killpg(process.pid, signal.SIGKILL)
        elif way == "worker killed":  # another takes its place, and then the command is killed
            chance.choice(workers).kill()
            while finished() < until + 2:
                assert process.poll() is None, f"it was done before it could be disturbed: {codes}"
                time.sleep(0.002)
            process.kill()
        elif way == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: all processes get it
        else:
            process.send_signal(signal.SIGKILL if way == "command killed" else signal.Signals[way])
        codes.append((way, process.wait(60)))
        assert not psutil.wait_procs(workers, timeout=30)[1], f"workers outlive the command: {codes}"
        assert not maps[1].exists()
    assert all(code == (STOPPED if way.startswith("SIG") else -signal.SIGKILL) for way, code in codes), codes
    done = subprocess.run([*command, str(maps[1])], check=True, capture_output=True, text=True)
    assert re.search(r"\d+ of \d+ blocks are finished", done.stdout)
    assert same_files(maps[1], maps[0])


def test_numbers_on_another_scale_than_in_training_are_said(scene: Path, tmp_path: Path) -> None:
    mapper, recipe = random_mapper(0)
    for factor, expected in ((1.0, False), (1e-4, True), (100.0, True)):
        means = {source: [2000.0 * factor] * len(sensor.bands) for source, sensor in recipe.sensors.items()}
        normalization = {source: {"mean": mean, "std": [1000.0] * len(mean)} for source, mean in means.items()}
        save_model(tmp_path / "model.safetensors", mapper, replace(recipe, normalization=normalization))
        with collected_notes() as notes:
            predict(model=tmp_path / "model.safetensors", input=[scene], output=tmp_path / "map.tif")
        found = [text for text in notes if "times those that the model was trained on" in text]
        assert len(found) == (len(recipe.task.sources) if expected else 0), (factor, notes)
