"""Maps of regions: mosaics, folders and virtual raster, interruptions, broken scenes, several years."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
import zarr
from rasterio.merge import merge
from rio_cogeo import cog_validate
from scipy import ndimage

import finetune.predict as predict_module
from common.command_line import run_command
from common.exit_codes import INFRASTRUCTURE, USER_ERROR
from common.grid import raster_grid
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.cog import NO_DATA, count_classes, fields_paths, probabilities_path
from finetune.mapping.finished_blocks import FinishedBlocks
from finetune.mapping.mosaic import Mosaic
from finetune.mapping.mosaic_grid import MosaicOptions, mosaic_grid
from finetune.mapping.outlines import PolygonOptions
from finetune.mapping.region import SceneMapper
from finetune.mapping.resampling import SceneMap
from finetune.mapping.scene import MapOptions
from finetune.model.model_file import save_model
from finetune.prediction import Prediction
from tests.finetune.mapping.test_mosaic import blended, exactly_on
from tests.support.launching import ROOT, wait_for
from tests.support.region_scenes import GSD, wave, write_region_scene, write_two_zones
from tests.support.stand_in_models import Pixelwise, make_recipe, random_mapper

pytestmark = pytest.mark.usefixtures("one_thread")
PREDICT_BLOCK, MOSAIC_BLOCK = BlockPredictor.predict, Mosaic.block
LAEA = MosaicOptions(crs="EPSG:3035", pixel_m=GSD)
UTM = "EPSG:32631"
WEST, NORTH = 500_010.0, 5_000_010.0
SIDE = 64


def prediction(mosaic: MosaicOptions | None = None, probabilities: bool = False, **options: Any) -> Prediction:
    """Maps by the sign of the mean near infrared of a pixel."""
    recipe = make_recipe(32, ("landsat",))
    recipe = replace(recipe, task=replace(recipe.task, frames=8))
    mapper = SceneMapper(
        model=Pixelwise(),
        recipe=recipe,
        device=torch.device("cpu"),
        options=MapOptions(block_px=32, probabilities=probabilities),
    )
    return Prediction(
        mapper=mapper,
        mosaic=mosaic or MosaicOptions(),
        polygons=PolygonOptions(class_name=options.pop("polygons", None)),
        **options,
    )


def row_of_scenes(folder: Path, count: int = 3, **options: Any) -> list[Path]:
    """Scenes in one UTM zone from west to east, which overlap by a quarter."""
    for number in range(count):
        write_region_scene(folder / f"s{number}", UTM, WEST + number * 0.75 * SIDE * GSD, NORTH, **options)
    return [folder / f"s{number}" for number in range(count)]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def two_zones(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("zones")
    return [folder / name for name in write_two_zones(folder)]


def test_four_scenes_in_two_zones_are_one_map(two_zones: list[Path], tmp_path: Path) -> None:
    """Against whole rasters, and against the pattern that the scenes were made of."""
    made = prediction(LAEA, probabilities=True, scene_maps=tmp_path / "scenes")
    assert made.map_region(two_zones, tmp_path / "map.tif", None, "") == 0
    names = [path.name for path in two_zones]
    maps = []
    for name in names:
        with rasterio.open(tmp_path / "scenes" / f"{name}.tif") as raster:
            grid = raster_grid(raster, "map")
        maps.append(SceneMap(name=name, path=tmp_path / "scenes" / f"{name}.tif", grid=grid))
    assert cog_validate(tmp_path / "map.tif", strict=True) == (True, [], [])
    with rasterio.open(tmp_path / "map.tif") as raster, rasterio.open(probabilities_path(tmp_path / "map.tif")) as shares:
        assert (raster.crs, raster.res, shares.count) == ("EPSG:3035", (GSD, GSD), 2)
        grid, classes, tags = raster_grid(raster, "map"), raster.read(1), raster.tags()
    assert {name: tags[name] for name in ("scene", "year", "last_image")} == {
        "scene": "a, b, c, d", "year": "2021", "last_image": "2021-11-14",
    }  # fmt: skip
    expected, mean = blended(
        [np.vstack([exact, np.full((1, *grid.shape), -1.0)]) for exact in (exactly_on(one, grid) for one in maps)]
    )
    np.testing.assert_array_equal(classes == NO_DATA, expected == NO_DATA)
    known = classes != NO_DATA
    sure = known & (np.abs(mean[0] - mean[1]) > 0.01)
    np.testing.assert_array_equal(classes[sure], expected[sure])
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    pattern = wave(*grid.lon_lat(row.ravel(), col.ravel())).reshape(grid.shape)
    clear = known & (np.abs(pattern) > 0.25)  # waves of 23 pixels
    np.testing.assert_array_equal(classes[clear] == 1, pattern[clear] > 0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "map.tif", "map.tif.aux.xml", "map_probabilities.tif", "map.png", "scenes", ".map.tif.finished.json",
    }  # fmt: skip


def interrupt_after(monkeypatch: pytest.MonkeyPatch, predicted: int, joined: int) -> None:
    """Make the prediction of block number `predicted`, or the mosaic's block number `joined`, end as by Ctrl-C."""
    counts = {"predicted": 0, "joined": 0}

    def counted(name: str, most: int, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            counts[name] += 1
            if counts[name] > most:
                raise KeyboardInterrupt
            return work(*arguments)

        return run

    monkeypatch.setattr(BlockPredictor, "predict", counted("predicted", predicted, PREDICT_BLOCK))
    monkeypatch.setattr(Mosaic, "block", counted("joined", joined, MOSAIC_BLOCK))


def test_an_interrupted_region_continues_to_the_same_bytes(
    two_zones: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second scene, within the mosaic, and in the order of the scenes that a user may change meanwhile."""
    monkeypatch.setattr("finetune.mapping.region.default_mosaic_block", lambda _: 64)
    made = prediction(LAEA, probabilities=True, polygons="paddy_rice")
    straight, disturbed = tmp_path / "straight" / "map.tif", tmp_path / "disturbed" / "map.tif"
    assert made.map_region(two_zones, straight, None, "") == 0
    for predicted, joined in ((6, 9), (10, 2)):  # each scene has four blocks, the mosaic four
        interrupt_after(monkeypatch, predicted, joined)
        with pytest.raises(KeyboardInterrupt):
            made.map_region(two_zones, disturbed, None, "")
        assert not disturbed.exists()
    assert sorted(os.listdir(disturbed.parent)) == [".map.tif.parts", ".map.tif.scenes"]
    interrupt_after(monkeypatch, 0, 2)
    assert made.map_region(two_zones[::-1], disturbed, None, "") == 0
    assert files_below(disturbed.parent) == files_below(straight.parent)
    assert len(files_below(straight.parent)) == 6


def _has_blocks(scenes: Path, count: int, process: subprocess.Popen[Any]) -> bool:
    """Whether so many blocks of two scenes of 16 blocks are finished, or the process has ended."""
    blocks = [
        16 if (scenes / f"{name}.tif").exists() else len(list(scenes.glob(f".{name}.tif.parts/*.npz"))) for name in ("s0", "s1")
    ]
    return sum(blocks) >= count or process.poll() is not None


@pytest.mark.slow
def test_kills_of_the_command_change_no_byte(tmp_path: Path) -> None:
    """SIGKILL twice while scenes are mapped, by the command as a user starts it."""
    save_model(tmp_path / "model.safetensors", *random_mapper(0, ("landsat",)))
    row_of_scenes(tmp_path / "scenes", 2)
    command = [sys.executable, str(Path(predict_module.__file__)), "--model", str(tmp_path / "model.safetensors")]
    command += ["--input", str(tmp_path / "scenes"), "--block_px", "16", "--polygons", "paddy_rice", "--probabilities", "true"]
    command += ["--mosaic.crs", "EPSG:3035", "--mosaic.pixel_m", "30", "--output"]
    straight, disturbed = tmp_path / "straight" / "map.tif", tmp_path / "disturbed" / "map.tif"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(straight)], check=True, capture_output=True, env=environment)
    for until in (5, 20):  # each scene has 16 blocks; the blocks of a scene are removed when its map is written
        process = subprocess.Popen(
            [*command, str(disturbed)], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        wait_for(partial(_has_blocks, disturbed.parent / ".map.tif.scenes", until, process), 300)
        assert process.poll() is None, "it was done before it could be killed"
        process.kill()
        process.wait(60)
        assert not disturbed.exists()
    subprocess.run([*command, str(disturbed)], check=True, capture_output=True, env=environment)
    assert files_below(disturbed.parent) == files_below(straight.parent)


@pytest.mark.slow
def test_several_processes_map_a_region_to_the_same_bytes(tmp_path: Path) -> None:
    """Two local processes, and two of Dask."""
    save_model(tmp_path / "model.safetensors", *random_mapper(0, ("landsat",)))
    row_of_scenes(tmp_path / "scenes", 2)
    options: dict[str, Any] = {"model": tmp_path / "model.safetensors", "input": [tmp_path / "scenes"], "block_px": 32}
    for folder, how in (("one", {}), ("two", {"workers": 2}), ("dask", {"workers": 2, "engine": "dask"})):
        assert predict_module.predict(output=tmp_path / folder / "map.tif", **options, **how) == 0
        assert files_below(tmp_path / folder) == files_below(tmp_path / "one")
    assert len(files_below(tmp_path / "one")) >= 3


def test_a_new_map_leaves_no_files_of_the_one_before(tmp_path: Path) -> None:
    """Probabilities and polygons of another model would be shown beside it."""
    scenes = row_of_scenes(tmp_path / "scenes", 2)
    full = prediction(probabilities=True, polygons=make_recipe(32).task.classes[1].name)
    for output in (tmp_path / "map.tif", tmp_path / "mosaic.tif"):
        beside = [probabilities_path(output), fields_paths(output)[0]]
        for made, there in ((full, True), (prediction(LAEA if output.stem == "mosaic" else None), False)):
            if output.stem == "map":
                assert made.map_scene(scenes[0], output, None, "") == 0
            else:
                assert made.map_region(scenes, output, None, "") == 0
            assert [path.is_file() for path in beside] == [there] * 2


def test_a_finished_region_is_not_mapped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = row_of_scenes(tmp_path / "scenes", 2)
    made = prediction()
    for output in (tmp_path / "maps", tmp_path / "map.tif", tmp_path / "region.vrt"):
        assert made.map_region(scenes, output, None, "") == 0
        before = files_below(tmp_path)
        with monkeypatch.context() as patch:
            interrupt_after(patch, 0, 0)
            assert made.map_region(scenes, output, None, "") == 0
        assert files_below(tmp_path) == before
    (tmp_path / "maps" / "s1.tif").write_bytes(b"cut")
    assert made.map_region(scenes, tmp_path / "maps", None, "") == 0
    assert files_below(tmp_path) == before


def test_the_map_does_not_depend_on_the_order_of_the_scenes(tmp_path: Path) -> None:
    scenes = row_of_scenes(tmp_path / "scenes")
    for name, order in (("one", scenes), ("other", [scenes[2], scenes[0], scenes[1]])):
        assert prediction(polygons="paddy_rice").map_region(order, tmp_path / name / "map.tif", None, "") == 0
    assert files_below(tmp_path / "one") == files_below(tmp_path / "other")


def test_a_field_over_the_edge_of_two_scenes_is_one_polygon(tmp_path: Path) -> None:
    """Of a mosaic and of a virtual raster; the fields are those of one scene that covers both."""
    write_region_scene(tmp_path / "whole", UTM, WEST, NORTH, (SIDE, 2 * SIDE))
    write_region_scene(tmp_path / "left", UTM, WEST, NORTH)
    write_region_scene(tmp_path / "right", UTM, WEST + SIDE * GSD, NORTH)
    made = prediction(polygons="paddy_rice")
    assert made.map_scene(tmp_path / "whole", tmp_path / "one.tif", None, "") == 0
    expected = geopandas.read_parquet(tmp_path / "one_fields.parquet")
    with rasterio.open(tmp_path / "one.tif") as raster:
        fields, count = ndimage.label(raster.read(1) == 1)
    over_edge = {*fields[:, SIDE - 1]} & {*fields[:, SIDE]} - {0}
    assert over_edge
    for name in ("map.tif", "region.vrt"):
        assert made.map_region([tmp_path / "left", tmp_path / "right"], tmp_path / name, None, "") == 0
        found = geopandas.read_parquet(tmp_path / f"{Path(name).stem}_fields.parquet")
        assert len(found) == len(expected) == count
        assert shapely.equals(found.geometry.to_numpy(), expected.geometry.to_numpy()).all()


def test_a_virtual_raster_is_what_rasterio_merges(tmp_path: Path) -> None:
    scenes = row_of_scenes(tmp_path / "scenes")
    assert prediction().map_region(scenes, tmp_path / "out" / "region.vrt", None, "") == 0
    with rasterio.open(tmp_path / "out" / "region.vrt") as raster:
        assert (raster.crs, raster.nodata, raster.dtypes) == (UTM, NO_DATA, ("uint8",))
        assert raster.colormap(1)[1] == (0x1F, 0x78, 0xB4, 255)
        assert raster.tags(1)["class_1"] == "paddy_rice"
        classes = raster.read(1)
    expected, _ = merge(sorted((tmp_path / "out" / "region").glob("s?.tif")), method="last")
    np.testing.assert_array_equal(classes, expected[0])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"region", "region.vrt", "region.png"}
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")  # paths in it are relative
    with rasterio.open(tmp_path / "elsewhere" / "region.vrt") as raster:
        np.testing.assert_array_equal(raster.read(1), classes)


def test_scenes_on_other_pixels_are_refused_before_they_are_mapped(two_zones: list[Path], tmp_path: Path) -> None:
    made = prediction()
    with pytest.raises(ValueError, match="a mosaic has one: state it with"):
        made.map_region(two_zones, tmp_path / "map.tif", None, "")
    write_region_scene(tmp_path / "scenes" / "a", UTM, WEST, NORTH)
    write_region_scene(tmp_path / "scenes" / "b", UTM, WEST + 1000, NORTH)
    shifted = [tmp_path / "scenes" / name for name in "ab"]
    with pytest.raises(ValueError, match=r"the pixels of scene [ab] .* are no pixels of the other scenes"):
        made.map_region(shifted, tmp_path / "region.vrt", None, "")
    with pytest.raises(ValueError, match="a virtual raster has the pixels of its scenes"):
        prediction(LAEA).map_region(shifted, tmp_path / "region.vrt", None, "")
    assert os.listdir(tmp_path) == ["scenes"]


def break_scene(folder: Path, how: str) -> None:
    if how == "scene.yaml":
        (folder / "scene.yaml").write_text("name: broken\n")
    elif how == "dates":
        shutil.rmtree(folder / "landsat.zarr" / "time")
    else:  # damaged pixels, which only show when they are read
        for chunk in (folder / "landsat.zarr" / "reflectance" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(chunk.read_bytes()[:40])


@pytest.mark.parametrize("how", ["scene.yaml", "dates", "pixels"])
def test_a_broken_scene_is_named_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    scenes = row_of_scenes(tmp_path / "scenes")
    shutil.copytree(scenes[1], tmp_path / "good")
    break_scene(scenes[1], how)
    output = tmp_path / "out" / "map.tif"
    made = prediction()
    assert made.map_region(scenes, output, None, "") == USER_ERROR
    said = capsys.readouterr().out
    assert re.search(r"^s0 +mapped +2021 +8", said, re.MULTILINE)
    assert re.search(r"^s1 +failed .*\S", said.strip().splitlines()[-1])
    assert "stay in" in said
    with rasterio.open(output) as raster:
        assert raster.tags()["scene"] == "s0, s2"
        hole = raster.read(1) == NO_DATA
    assert hole[:, SIDE : SIDE + SIDE // 2].all()
    assert not hole[:, :SIDE].any()
    # Once it is mended, it alone is mapped.
    shutil.rmtree(scenes[1])
    shutil.move(tmp_path / "good", scenes[1])
    interrupt_after(monkeypatch, 4, 99)
    assert made.map_region(scenes, output, None, "") == 0
    monkeypatch.undo()
    with rasterio.open(output) as raster:
        assert (raster.read(1) != NO_DATA).all()
    assert not (output.parent / ".map.tif.scenes").exists()
    assert made.map_region(scenes, tmp_path / "straight" / "map.tif", None, "") == 0
    assert files_below(output.parent) == files_below(tmp_path / "straight")


def test_failures_of_the_storage_have_another_exit_code_and_bugs_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = row_of_scenes(tmp_path / "scenes", 2)
    write = FinishedBlocks.write

    def away(blocks: FinishedBlocks, number: int, arrays: Any) -> None:
        if "s0" in blocks.folder.name:
            raise OSError(5, "Input/output error")
        write(blocks, number, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(FinishedBlocks, "write", away)
        assert prediction().map_region(scenes, tmp_path / "maps", None, "") == INFRASTRUCTURE
    assert [path.name for path in sorted((tmp_path / "maps").glob("*.tif"))] == ["s1.tif"]

    def bug(*_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(BlockPredictor, "predict", bug)
    with pytest.raises(KeyError):
        prediction().map_region(scenes, tmp_path / "other", None, "")


def test_two_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        write_region_scene(tmp_path / folder / "a", UTM, WEST, NORTH)
    with pytest.raises(ValueError, match="are both called 'a'"):
        prediction().map_region([tmp_path / "one" / "a", tmp_path / "other" / "a"], tmp_path / "map.tif", None, "")
    write_region_scene(tmp_path / "a_probabilities", UTM, WEST, NORTH)
    with pytest.raises(ValueError, match=r"the file a_probabilities.tif to two maps"):
        prediction().map_region([tmp_path / "one" / "a", tmp_path / "a_probabilities"], tmp_path / "maps", None, "")


def test_scenes_of_several_years(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An archive with scenes of their own years, and one of all years."""
    for name, west, years in (("a_2020", 0, [2020]), ("a_2021", 0, [2021]), ("b", 48, [2020, 2021])):
        write_region_scene(tmp_path / "scenes" / name, UTM, WEST + west * GSD, NORTH, years=years)
    scenes = [tmp_path / "scenes" / name for name in ("a_2020", "a_2021", "b")]
    with pytest.raises(ValueError, match=r"end in several years \(2020: a_2020, b; 2021: a_2021\); state one with --year"):
        prediction().map_region(scenes, tmp_path / "map.tif", None, "")
    for year in (2020, 2021):
        assert prediction().map_region(scenes, tmp_path / f"map_{year}.tif", year, f"_{year}") == 0
        other = 4041 - year
        assert re.search(rf"^a_{other} +no images +{year} .*no image of landsat between", capsys.readouterr().out, re.MULTILINE)
        with rasterio.open(tmp_path / f"map_{year}.tif") as raster:
            assert raster.tags()["scene"] == f"a_{year}, b"
            assert raster.tags()["year"] == str(year)
            assert (raster.read(1) != NO_DATA).all()
    assert prediction().map_region(scenes, tmp_path / "map_1999.tif", 1999, "_1999") == USER_ERROR
    assert "no scene was mapped for the season that ends in 1999" in capsys.readouterr().out
    assert not (tmp_path / "map_1999.tif").exists()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command maps with the stand-in model."""
    mapper = prediction().mapper
    monkeypatch.setattr(predict_module, "load_model", lambda _: (mapper.model, mapper.recipe))


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        run_command(predict_module.predict, ["--model", "model", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("stand_in")
def test_the_command_maps_folders_of_scenes_and_years(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row_of_scenes(tmp_path / "scenes", 2, years=(2020, 2021))
    write_region_scene(tmp_path / "more", UTM, WEST, NORTH - SIDE * GSD, years=(2021,))
    inputs = ("--input", tmp_path / "scenes", tmp_path / "more", tmp_path / "scenes" / "s0")
    options = ("--mosaic.crs", "EPSG:32631", "--mosaic.pixel_m", "60", "--polygons", "paddy_rice", "--polygons.simplify_m", "60")
    assert run(*inputs, "--years", "2020", "2021", *options, "--output", tmp_path / "out" / "map.tif") == 0
    assert re.search(r"^more +no images +2020 ", capsys.readouterr().out, re.MULTILINE)
    shown = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert shown == {f"map_{year}{end}" for year in (2020, 2021) for end in (".tif", ".png", ".tif.aux.xml", "_fields.parquet")}
    with rasterio.open(tmp_path / "out" / "map_2021.tif") as raster:
        assert raster.res == (60, 60)
        assert raster.tags()["scene"] == "more, s0, s1"
    # One scene, several years; one of them is none.
    assert run("--input", tmp_path / "more", "--years", "2020", "2021", "--output", tmp_path / "one" / "map.tif") == USER_ERROR
    assert {path.name for path in (tmp_path / "one").glob("*.tif")} == {"map_2021.tif"}
    # A folder: one map per scene and year.
    assert run("--input", tmp_path / "scenes", "--years", "2020", "2021", "--output", tmp_path / "maps") == 0
    assert {path.name for path in (tmp_path / "maps").glob("*.tif")} == {
        f"s{n}_{year}.tif" for n in (0, 1) for year in (2020, 2021)
    }


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "map.png"], "give a name that ends in .tif; or in .vrt"),
        (["--output", "map.tif", "--search", "x.yaml"], "give either --input with scenes or folders of scenes, or --search"),
        (["--output", "map.tif", "--year", "2020", "--years", "2021"], "give one year, or several different ones"),
        (["--output", "map.tif", "--years", "2021", "2021"], "give one year, or several different ones"),
        (["--output", "maps", "--polygons", "paddy_rice"], "would be cut at the edges of the scenes"),
        (["--output", "map.tif", "--polygons.simplify_m", "3"], "options of polygons need a class: --polygons CLASS"),
        (
            ["--output", "map.tif", "--polygons", "paddy_rice", "--polygons.boundary", "edge"],
            "one of the other classes of the map: other",
        ),
        (["--output", "map.tif", "--mosaic.pixel_m", "0"], "mosaic.pixel_m is 0"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    write_region_scene(tmp_path / "a", UTM, WEST, NORTH, frames=1)
    monkeypatch.chdir(tmp_path)
    assert run("--input", "a", *arguments) == USER_ERROR
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a"]


def test_compositing_lets_the_model_see_what_was_not_chosen(tmp_path: Path) -> None:
    """The clearest image of the one period lacks a strip, which another image has: its class is unknown, but it has data."""
    grid = write_region_scene(tmp_path / "a", UTM, WEST, NORTH, frames=2)
    group = zarr.open_group(tmp_path / "a" / "landsat.zarr")
    group["Fmask"][0, :, 20:30] = 2
    group["Fmask"][1, :, 30:] = 2
    group["Fmask"][1, :, :20] = 2
    group["Fmask"][:, 40:44] = 2
    rows = np.zeros(grid.shape, bool)
    rows[40:44] = True
    seen = {}
    for compositing in ("image", "pixel"):
        made = prediction()
        recipe = replace(made.mapper.recipe, task=replace(made.task, frames=1, compositing=compositing))
        made = replace(made, mapper=replace(made.mapper, recipe=recipe))
        assert made.map_scene(tmp_path / "a", tmp_path / f"{compositing}.tif", None, "") == 0
        with rasterio.open(tmp_path / f"{compositing}.tif") as raster:
            seen[compositing] = raster.read(1)
        np.testing.assert_array_equal(seen[compositing] == NO_DATA, rows)
    strip = np.s_[:40, 20:30]
    assert (seen["image"][strip] == 0).all()  # zeros are what the model sees there
    col, row = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    pattern = wave(*grid.lon_lat(row.ravel(), col.ravel())).reshape(grid.shape)
    clear = np.abs(pattern[strip]) > 0.01
    np.testing.assert_array_equal((seen["pixel"][strip] == 1)[clear], (pattern[strip] > 0)[clear])


def test_class_counts_of_a_virtual_raster(tmp_path: Path) -> None:
    scenes = row_of_scenes(tmp_path / "scenes", 2)
    prediction().map_region(scenes, tmp_path / "region.vrt", None, "")
    with rasterio.open(tmp_path / "region.vrt") as raster:
        classes = raster.read(1)
    assert count_classes(tmp_path / "region.vrt", 2).tolist() == [(classes == value).sum() for value in (0, 1, NO_DATA)]


def test_a_mosaic_grid_of_scenes_on_one_lattice_resamples_nothing(tmp_path: Path) -> None:
    grids = {
        name: write_region_scene(tmp_path / name, UTM, WEST + west * GSD, NORTH, frames=1) for name, west in (("b", 7), ("a", 0))
    }
    grid = mosaic_grid(grids, MosaicOptions())
    assert (grid.transform, grid.shape) == (grids["a"].transform, (SIDE, SIDE + 7))
