"""Maps of scenes: seams, blocks, restarts, workers, the files that come out."""

from __future__ import annotations

import json
import os
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
import pytest
import rasterio
import rasterio.shutil
import torch
import zarr
from affine import Affine
from rio_cogeo import cog_validate
from torch import nn

import finetune.predict as predict_module
import finetune.report.map_figure as map_figure
from common.command_line import run_command
from common.grid import Grid
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.mapping.blocks import blend_block, predict_block
from finetune.mapping.cog import NO_DATA, count_classes, write_classes
from finetune.mapping.tiling import Mosaic
from finetune.model.crop_mapper import CropMapper, Recipe, save_model
from finetune.predict import predict, predict_scene
from finetune.task import load_task
from pretrain.model import EncoderConfig, build_encoder
from tests.support.rice_scenes import write_rice_scene

CPU = torch.device("cpu")
SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


class Pixelwise(nn.Module):
    """Class scores from the mean of a pixel's own frames: a model whose map cannot depend on windows."""

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        near_infrared = data["landsat"][:, :, 3].mean(dim=1)
        assert near_infrared.shape[-2:] == size
        return torch.stack([-near_infrared, near_infrared], dim=1)


class Convolutional(nn.Module):
    """Class scores from all pixels within `radius`, with zeros beyond the window as convolutions have it."""

    def __init__(self, radius: int, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(radius)
        self.convolution = nn.Conv2d(6, 2, 2 * radius + 1, padding="same", bias=bias)

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        assert data["landsat"].shape[-2:] == size
        return 4 * self.convolution(data["landsat"].mean(dim=1))


def make_recipe(window_px: int, sources: tuple[str, ...] = ("landsat", "modis")) -> Recipe:
    task = replace(load_task("paddy_rice"), window_px=window_px, frames=24, season=("01-01", "12-31"), sources=sources)
    sensors = {source: load_sensors()[source] for source in task.sources}
    unit = {name: {"mean": [2000.0] * len(s.bands), "std": [1000.0] * len(s.bands)} for name, s in sensors.items()}
    return Recipe(task=task, sensors=sensors, normalization=unit, pixel=30.0, encoder={}, channels=8, origin="test")


@pytest.mark.parametrize(("window_px", "overlap"), [(32, 0.0), (32, 0.5), (48, 0.34), (64, 0.75)])
def test_windows_leave_no_trace_in_the_map(tmp_path: Path, window_px: int, overlap: float) -> None:
    cubes, _ = write_rice_scene(tmp_path / "a", "test", side=112, seed=5, cloudy=0.0)
    recipe = make_recipe(window_px)
    with SceneSeries(load_scene(tmp_path / "a"), recipe.task, load_sensors(), pixel=30.0) as series:
        predict_scene(Pixelwise(), recipe, series, tmp_path / "map.tif", torch.device("cpu"), overlap, batch_size=3)  # type: ignore[arg-type]
        chosen = series.seasons["landsat"].choose(np.ones((24, 1, 1), dtype=bool), None)
    near_infrared = (cubes["landsat"].pixels[chosen[chosen >= 0], 3] - 2000.0).sum(axis=0)
    with rasterio.open(tmp_path / "map.tif") as found:
        np.testing.assert_array_equal(found.read(1), near_infrared > 0)


def test_no_data_where_nothing_was_ever_clear(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=80, seed=5, cloudy=0.0)
    quality = zarr.open_group(tmp_path / "a" / "landsat.zarr")["Fmask"]
    quality[:, 10:30, 40:] = 2
    recipe = make_recipe(32)
    with SceneSeries(load_scene(tmp_path / "a"), recipe.task, load_sensors(), pixel=30.0) as series:
        predict_scene(Pixelwise(), recipe, series, tmp_path / "map.tif", torch.device("cpu"))  # type: ignore[arg-type]
    expected = np.zeros((80, 80), dtype=bool)
    expected[10:30, 40:] = True
    with rasterio.open(tmp_path / "map.tif") as found:
        np.testing.assert_array_equal(found.read(1) == NO_DATA, expected)


def test_failed_map_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=64)
    recipe = make_recipe(32)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "map.tif").write_bytes(b"old")

    class Broken(nn.Module):
        def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
            raise RuntimeError(f"no map of {size} from {len(data)}")

    with (
        SceneSeries(load_scene(tmp_path / "a"), recipe.task, load_sensors(), pixel=30.0) as series,
        pytest.raises(RuntimeError, match="no map"),
    ):
        predict_scene(Broken(), recipe, series, tmp_path / "maps" / "map.tif", torch.device("cpu"))  # type: ignore[arg-type]
    assert os.listdir(tmp_path / "maps") == ["map.tif"]
    assert (tmp_path / "maps" / "map.tif").read_bytes() == b"old"


def blended(scene: Path, recipe: Recipe, model: Any, stride: int, block_px: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 (classes, H, W) and where the scene was seen, from all blocks."""
    with SceneSeries(load_scene(scene), recipe.task, load_sensors(), pixel=recipe.pixel) as series:
        height, width = series.grid.shape
        window = recipe.task.window_px
        mosaic = Mosaic(height=height, width=width, window=window, stride=stride, step=series.step, block=block_px)
        probabilities, seen = np.zeros((2, height, width), np.float32), np.zeros((height, width), bool)
        for block in mosaic.blocks:
            inside = np.s_[block.row : block.row + block.height, block.col : block.col + block.width]
            probabilities[:, *inside], seen[inside] = blend_block(model.eval(), recipe, series, mosaic, block, CPU, 3)
    return probabilities, seen


def flat_scene(folder: Path, side: int, slope: float) -> None:
    """A scene without clouds whose reflectance is one number, or rises to the east and south by `slope` a pixel."""
    write_rice_scene(folder, "test", side=side, cloudy=0.0, frames=12)
    ramp = slope * (np.arange(side) + np.arange(side)[:, None] - side)
    pixels = zarr.open_group(folder / "landsat.zarr")["reflectance"]
    pixels[:] = np.broadcast_to(2500 + ramp, pixels.shape).astype(np.int16)


@pytest.mark.parametrize("block_px", [16, 40, 512])
@pytest.mark.parametrize("radius", [1, 6])
def test_windows_equal_one_piece(tmp_path: Path, radius: int, block_px: int) -> None:
    """A quarter of the overlap of 24 px is 6: a model that sees no farther gives the same map as with one large window."""
    write_rice_scene(tmp_path / "a", "test", side=112, seed=5, cloudy=0.0)
    model = Convolutional(radius)
    whole, seen = blended(tmp_path / "a", make_recipe(112, ("landsat",)), model, 112)
    parts, seen_in_parts = blended(tmp_path / "a", make_recipe(48, ("landsat",)), model, 24, block_px)
    assert whole.std() > 0.1
    np.testing.assert_allclose(parts, whole, atol=1e-4)  # to the edge of the scene, where both have zeros beyond
    np.testing.assert_array_equal(seen, seen_in_parts)
    np.testing.assert_allclose(parts.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("slope", [0.0, 7.0])
def test_no_grid_on_flat_scenes(tmp_path: Path, slope: float) -> None:
    """The model sees farther (12 px) than the margin that is left out (8 px), so each window is wrong near its edges."""
    flat_scene(tmp_path / "a", 256, slope)
    recipe, model = make_recipe(64, ("landsat",)), Convolutional(12, bias=False)
    inner = np.s_[64:192, 64:192]
    truth = blended(tmp_path / "a", make_recipe(256, ("landsat",)), model, 256)[0][0][inner]
    smooth = blended(tmp_path / "a", recipe, model, 32, 128)[0][0][inner] - truth
    cut = blended(tmp_path / "a", recipe, model, 64)[0][0][inner] - truth

    def power_at_stride(error: np.ndarray, stride: int) -> float:
        """Amplitude of the harmonics of a grid with that many pixels between its lines."""
        spectrum = np.abs(np.fft.rfft(error - error.mean(axis=1, keepdims=True), axis=1)).mean(axis=0) / error.shape[1]
        return float(spectrum[:: error.shape[1] // stride][1:].sum())

    # An edge is seen by the jump from pixel to pixel. Without blending it is as high as the whole error.
    jumps = [np.abs(np.diff(error, axis=1)).max() for error in (smooth, cut)]
    assert jumps[1] > 0.1, "the stand-in must err at edges, or this test shows nothing"
    assert jumps[0] < 0.05 * jumps[1]
    assert power_at_stride(smooth, 32) < 0.05 * power_at_stride(cut, 64)


def random_mapper(seed: int = 0, sources: tuple[str, ...] = ("landsat", "modis")) -> tuple[CropMapper, Recipe]:
    """A small model with random weights, and the recipe to save it with."""
    torch.manual_seed(seed)
    encoder = build_encoder(replace(SMALL, sources={"landsat": 6, "modis": 7}))
    recipe = replace(make_recipe(32, sources), encoder=encoder.config.to_dict())
    return CropMapper(encoder, recipe.task.sources, recipe.task.frames, 2, recipe.channels).eval(), recipe


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
    predict(model=models[0], input=scene, output=output, block_px=48, probabilities=True)
    torch.set_num_threads(threads)
    return output


def same_files(one: Path, other: Path) -> bool:
    """Whether two maps, their probabilities, names and pictures are the same, byte by byte, and nothing else is there."""
    names = sorted(os.listdir(one.parent))
    assert names == ["map.png", "map.tif", "map.tif.aux.xml", "map_probabilities.tif"]
    assert sorted(os.listdir(other.parent)) == names
    return all((one.parent / name).read_bytes() == (other.parent / name).read_bytes() for name in names)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make the prediction of block number `count` end as by Ctrl-C."""
    calls = []

    def interrupted(*arguments: Any) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return predict_block(*arguments)

    monkeypatch.setattr(predict_module, "predict_block", interrupted)


def test_interrupted_map_goes_on_to_the_same_bytes(
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
            predict(model=models[0], input=scene, output=output, block_px=48, probabilities=True)
        assert os.listdir(tmp_path) == [".map.tif.parts"]
    interrupt_after(monkeypatch, 4)
    predict(model=models[0], input=scene, output=output, block_px=48, probabilities=True)
    assert "5 of 9 blocks are there" in capsys.readouterr().out
    assert same_files(output, undisturbed)


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
    arguments: dict[str, Any] = {"model": models[0], "input": scene, "block_px": 48, "probabilities": True}
    other: dict[str, Any] = {"model": models[1]} if change == "model" else {"overlap": 0.0}
    if change == "scene":
        shutil.copytree(scene, tmp_path / "scenes" / "a")
        other = {"input": tmp_path / "scenes" / "a"}
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
        predict(model=models[0], input=scene, output=tmp_path / "map.tif", block_px=48)
    monkeypatch.undo()
    block = tmp_path / ".map.tif.parts" / "0000002.npz"
    block.write_bytes(block.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"0000002.npz is damaged"):
        predict(model=models[0], input=scene, output=tmp_path / "map.tif", block_px=48)


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.slow)])
def test_workers_make_the_same_map(
    scene: Path, models: tuple[Path, Path], undisturbed: Path, tmp_path: Path, engine: Any
) -> None:
    output = tmp_path / "map.tif"
    predict(model=models[0], input=scene, output=output, block_px=48, probabilities=True, workers=2, engine=engine)
    assert same_files(output, undisturbed)


def test_block_size_changes_nothing_that_is_seen(
    scene: Path, models: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    predict(model=models[0], input=scene, output=tmp_path / "map.tif", probabilities=True)
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


def test_overviews_are_by_the_mode_and_blocks_may_come_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 1, NO_DATA], (25, 25)).astype(np.uint8).repeat(64, axis=0).repeat(64, axis=1)[:1600, :1560]
    noisy = classes.copy()
    known = classes[::4, ::4] != NO_DATA
    noisy[::4, ::4][known] = 1  # one pixel of sixteen, which the mode passes over
    mosaic = Mosaic(height=1600, width=1560, window=64, stride=32, step=1, block=300)
    grid = Grid(crs="EPSG:32631", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), height=1600, width=1560)
    blocks = [(b, noisy[b.row : b.row + b.height, b.col : b.col + b.width]) for b in mosaic.blocks]
    for name in ("map.tif", "again.tif"):
        write_classes(tmp_path / name, tmp_path, grid, load_task("paddy_rice"), blocks, {})
        rng.shuffle(blocks)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["again.tif", "again.tif.aux.xml", "map.tif", "map.tif.aux.xml"]
    assert cog_validate(tmp_path / "map.tif", strict=True) == (True, [], [])
    for name in ("map.tif", "again.tif"):
        with rasterio.open(tmp_path / name) as found:
            assert found.overviews(1) == [2, 4]
            np.testing.assert_array_equal(found.read(1), noisy)
    with rasterio.open(tmp_path / "map.tif", overview_level=1) as found:
        np.testing.assert_array_equal(found.read(1), classes[1::4, 1::4])


def test_picture_of_a_large_map_shows_its_middle_and_all_of_it(
    scene: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_figure, "LARGEST_PREVIEW_PX", 40)
    panels: dict[str, Any] = {}
    monkeypatch.setattr(map_figure, "save_map_figure", lambda *values: panels.update(enumerate(values)))
    recipe = make_recipe(32)
    with SceneSeries(load_scene(scene), recipe.task, load_sensors(), pixel=30.0) as series:
        map_figure.draw(tmp_path / "map.png", recipe.task, series, undisturbed, map_figure.label_beside(series))
    with rasterio.open(undisturbed) as found, rasterio.open(scene / "crop_type.tif") as label:
        middle, all_of_it = found.read(1)[36:76, 36:76], found.read(1, out_shape=(40, 40))
        truth = label.read(1)[36:76, 36:76]
    _, _, title, image, shown_label, predicted, _, _, overview, box = panels.values()
    assert image.shape == (40, 40, 3)
    np.testing.assert_array_equal(predicted, middle)
    np.testing.assert_array_equal(overview, all_of_it)
    np.testing.assert_array_equal(shown_label, truth == 1)
    assert box == pytest.approx([36 / 112, 36 / 112, 40 / 112, 40 / 112])
    accuracy = 100 * (middle == (truth == 1))[middle != NO_DATA].mean()
    assert f"overall accuracy {accuracy:.1f} %" in title


@pytest.mark.parametrize("side", [16, 48, 80])
def test_scenes_smaller_than_a_window(tmp_path: Path, side: int) -> None:
    write_rice_scene(tmp_path / "a", "test", side=side, seed=5, cloudy=0.0)
    whole, _ = blended(tmp_path / "a", make_recipe(side, ("landsat",)), Pixelwise(), side)
    padded, seen = blended(tmp_path / "a", make_recipe(64, ("landsat",)), Pixelwise(), 32)
    np.testing.assert_allclose(padded, whole, atol=1e-6)
    assert padded.shape == (2, side, side)
    assert seen.all()


def test_all_clouds_are_a_map_without_data(scene: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(scene, tmp_path / "scenes" / "a")
    zarr.open_group(tmp_path / "scenes" / "a" / "landsat.zarr")["Fmask"][:] = 2
    predict(
        model=models[0], input=tmp_path / "scenes" / "a", output=tmp_path / "map.tif", probabilities=True, polygons="paddy_rice"
    )
    for name in ("map.tif", "map_probabilities.tif"):
        with rasterio.open(tmp_path / name) as found:
            assert (found.read() == NO_DATA).all()
    assert (tmp_path / "map.png").is_file()
    assert (tmp_path / "map_fields.parquet").is_file()


def test_windows_without_a_clear_pixel_do_not_reach_the_model(tmp_path: Path) -> None:
    """A stripe without data, wider than a window: the rest of the map is what it would be without it."""
    write_rice_scene(tmp_path / "a", "test", side=160, seed=5, cloudy=0.0)
    recipe = make_recipe(32, ("landsat",))
    before, _ = blended(tmp_path / "a", recipe, Convolutional(2), 16)
    group = zarr.open_group(tmp_path / "a" / "landsat.zarr")
    group["Fmask"][:, :, 64:128] = 255
    group["reflectance"][:, :, :, 64:128] = -9999
    batches = []

    class Counting(Convolutional):
        def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
            batches.append(len(data["landsat"]))
            return super().forward(data, size)

    after, seen = blended(tmp_path / "a", recipe, Counting(2), 16)
    assert sum(batches) == 9 * (9 - 3)
    np.testing.assert_array_equal(seen, np.broadcast_to((np.arange(160) < 64) | (np.arange(160) >= 128), (160, 160)))
    far = np.r_[0:62, 130:160]  # farther from the stripe than the model sees
    np.testing.assert_allclose(after[:, :, far], before[:, :, far], atol=1e-4)


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
        predict(model=tmp_path / "metres.safetensors", input=tmp_path / "a", output=tmp_path / "map.tif")
    save_model(tmp_path / "degrees.safetensors", model, replace(recipe, pixel=0.00025))
    predict(model=tmp_path / "degrees.safetensors", input=tmp_path / "a", output=tmp_path / "map.tif")
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
def test_killed_map_goes_on_to_the_same_bytes(scene: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    """`kill -9` after the second and after the fifth of nine blocks, with two worker processes."""
    command = [sys.executable, str(Path(predict_module.__file__)), "--model", str(models[0]), "--input", str(scene)]
    command += ["--block_px", "48", "--probabilities", "true", "--workers", "2"]
    for folder, kills in (("straight", []), ("killed", [2, 5])):
        (tmp_path / folder).mkdir()
        output = ["--output", str(tmp_path / folder / "map.tif")]
        for count in kills:
            process = subprocess.Popen([*command, *output], start_new_session=True, stderr=subprocess.DEVNULL)
            while len(list((tmp_path / folder).glob(".map.tif.parts/*.npz"))) < count:
                assert process.poll() is None, "it was done before it could be killed"
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (tmp_path / folder / "map.tif").exists()
        subprocess.run([*command, *output], check=True, stderr=subprocess.DEVNULL)
    assert same_files(tmp_path / "killed" / "map.tif", tmp_path / "straight" / "map.tif")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """A map of 10,000 x 10,000 pixels from 12 dates stays below 2 GB, in the process of its own that measures it."""
    command = [sys.executable, "-m", "tests.support.large_map", str(tmp_path), "10000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert json.loads(done.stdout.strip().splitlines()[-1])["peak_gb"] < 2
    assert cog_validate(tmp_path / "map.tif", strict=True)[0]
    counts = count_classes(tmp_path / "map.tif", 2).tolist()
    assert counts == [700 * 900, 10_000**2 - 700 * 900, 0]
