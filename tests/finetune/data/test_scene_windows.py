"""Windows of scenes against what the archive holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data import scene_series
from finetune.data.scene_windows import SceneWindows
from finetune.data.window_origins import origins, origins_within
from finetune.task import IGNORE, load_task
from tests.support.rice_scenes import MODIS_PX, write_label, write_rice_scene

WHOLE_YEAR = replace(load_task("paddy_rice"), season=("01-01", "12-31"))


def test_origins_cover_everything_once() -> None:
    assert origins(384, 64, 64) == [0, 64, 128, 192, 256, 320]
    assert origins(100, 64, 64) == [0, 64]
    assert origins(40, 64, 32) == [0]
    for length in range(1, 200):
        starts = origins(length, 48, 32)
        assert starts[-1] + 48 >= length
        assert len(starts) == 1 or starts[-2] + 48 < length, "the last window is needed"
        within = origins_within(length, 48, 32, 16)
        assert within[:-1] == starts[:-1]
        assert within[-1] % 16 == 0
        assert length <= within[-1] + 48 < max(length, 33) + 16


@pytest.fixture
def small(tmp_path: Path) -> tuple[dict, np.ndarray, SceneWindows]:
    """A scene of 80 x 80 px cut into windows of 32 px, which reach over its edges."""
    cubes, codes = write_rice_scene(tmp_path / "delta", "train", side=80, seed=3, cloudy=0.4)
    task = replace(WHOLE_YEAR, window_px=32, frames=6)
    dataset = SceneWindows([load_scene(tmp_path / "delta")], task, load_sensors())
    dataset.normalization = {source: dataset.statistics(source) for source in task.sources}
    return cubes, codes, dataset


def test_items_are_what_the_archive_holds(small: tuple[dict, np.ndarray, SceneWindows]) -> None:
    cubes, codes, dataset = small
    assert [dataset[i]["file_name"] for i in (0, 8)] == ["delta-r00000-c00000", "delta-r00064-c00064"]
    sensors = load_sensors()
    for index, (_, row, col) in enumerate(dataset.windows):
        item = dataset[index]
        label = np.full((32, 32), IGNORE)
        part = codes[row : row + 32, col : col + 32]
        label[: part.shape[0], : part.shape[1]] = np.select([part == 0, part == 1], [IGNORE, 1], 0)
        np.testing.assert_array_equal(item["label"], label)
        assert item["label"].dtype == torch.int64
        for source, shrink in (("landsat", 1), ("modis", MODIS_PX)):
            cube, top, left, side = cubes[source], row // shrink, col // shrink, 32 // shrink
            pixels = cube.pixels[..., top : top + side, left : left + side].astype(np.float64)
            valid = sensors[source].valid(cube.pixels, cube.quality)[..., top : top + side, left : left + side]
            days = (cube.dates - np.datetime64("2021-01-01")).astype(int) + 0.5
            known = dataset.normalization[source]
            result = item["data"][source]
            assert result.shape == (6, pixels.shape[1], side, side)
            assert result.dtype == torch.float32
            for period in range(6):
                inside = [t for t in range(len(days)) if period * 365 / 6 <= days[t] < (period + 1) * 365 / 6 and valid[t].any()]
                if not inside:
                    assert (result[period] == 0).all()
                    continue
                best = min(inside, key=lambda t: (-valid[t].mean(), abs(days[t] - (period + 0.5) * 365 / 6)))
                mean, std, low, high = (np.reshape(known[name], (-1, 1, 1)) for name in ("mean", "std", "low", "high"))
                expected = (np.minimum(np.maximum(pixels[best], low), high) - mean) / std
                expected = np.where(valid[best], expected, 0)
                whole = np.zeros((pixels.shape[1], side, side))
                whole[:, : expected.shape[1], : expected.shape[2]] = expected
                np.testing.assert_allclose(result[period], whole, atol=1e-4)


def test_statistics_are_those_of_clear_pixels(small: tuple[dict, np.ndarray, SceneWindows]) -> None:
    cubes, _, dataset = small
    sensor = load_sensors()["landsat"]
    cube = cubes["landsat"]
    clear = cube.pixels.transpose(1, 0, 2, 3)[:, sensor.valid(cube.pixels, cube.quality)].astype(np.float64)
    for robust in (False, True):
        chosen = clear[:, (clear[:3] <= 3000).any(axis=0)] if robust else clear  # blue, green and red
        found = dataset.statistics("landsat", robust=robust)
        np.testing.assert_allclose(found["mean"], chosen.mean(axis=1), rtol=1e-9)
        np.testing.assert_allclose(found["std"], chosen.std(axis=1), rtol=1e-9)


def test_flips_and_rotations_move_pixels_and_label_alike(tmp_path: Path) -> None:
    cubes, codes = write_rice_scene(tmp_path / "delta", "train", side=64, seed=1, cloudy=0.0)
    # A second label made from the first band of the first date, so that every pixel tells where its label belongs.
    marks = np.arange(64 * 64).reshape(64, 64) % 3 + 1
    write_label(tmp_path / "delta" / "crop_type.tif", marks)
    for source, values in (
        ("landsat", marks),
        ("modis", np.arange(16).reshape(4, 4) + 1),
    ):
        array = zarr.open_group(tmp_path / "delta" / f"{source}.zarr")["reflectance"]
        array[:, 0] = np.broadcast_to(values * 1000, (len(cubes[source].dates), *values.shape))
    task = replace(load_task("paddy_rice"), frames=4)
    dataset = SceneWindows([load_scene(tmp_path / "delta")], task, load_sensors())
    unit = {"mean": [0.0] * 7, "std": [1.0] * 7}
    dataset.normalization = {"landsat": {k: v[:6] for k, v in unit.items()}, "modis": unit}
    upright = np.arange(16).reshape(4, 4) + 1
    seen = set()
    for seed in range(60):
        item = dataset.item(0, np.random.default_rng(seed))
        first = item["data"]["landsat"][:, 0].numpy() / 1000
        np.testing.assert_array_equal(first == 1, np.broadcast_to(item["label"].numpy() == 1, first.shape))
        coarse = item["data"]["modis"][0, 0].numpy().astype(int) // 1000
        seen.add(tuple(coarse.ravel()))
        # The coarse pixel lies where its 16 x 16 fine ones lie.
        turned = [np.rot90(upright, k)[:, ::flip] for k in range(4) for flip in (1, -1)]
        which = [i for i, t in enumerate(turned) if (t == coarse).all()]
        assert len(which) == 1
        fine = np.rot90(marks, which[0] // 2)[:, :: (1, -1)[which[0] % 2]]
        np.testing.assert_array_equal(first[0], fine)
    assert len(seen) == 8
    assert codes.shape == (64, 64)


def test_windows_that_are_read_together_are_those_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows with labels lie apart, and reach over the edges of the scene."""
    scenes = []
    for seed, name in enumerate(("a", "b")):
        _, codes = write_rice_scene(tmp_path / name, "train", side=208, seed=seed, frames=6)
        codes[32:96, 32:160] = codes[:32, 64:] = 0
        write_label(tmp_path / name / "crop_type.tif", codes)
        scenes.append(load_scene(tmp_path / name))
    task = replace(load_task("paddy_rice"), window_px=32)
    dataset = SceneWindows(scenes, task, load_sensors())
    assert len(dataset) == 2 * (49 - 5 - 8)
    alone = [dataset.stacks(index) for index in range(len(dataset))]
    window_bytes = dataset.series[0].window_bytes(32)
    for windows_at_once in (1, 3, 10, 1000):
        monkeypatch.setattr(scene_series, "BYTES_AT_ONCE", windows_at_once * window_bytes)
        for first in (0, 5, 40):
            together = list(dataset.stacks_from(first))
            assert len(together) == len(dataset) - first
            for one, other in zip(alone[first:], together, strict=True):
                for source in task.sources:
                    np.testing.assert_array_equal(one[source].pixels, other[source].pixels)
                    np.testing.assert_array_equal(one[source].valid, other[source].valid)


def test_blocks_of_windows_are_bounded_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    every = [(row, col) for row in range(0, 640, 64) for col in range(0, 640, 64)]
    for share in (1.0, 0.5, 0.05):
        corners = [corner for corner in every if rng.random() < share]
        for at_once in (1, 7, 25, 1000):
            blocks = list(scene_series._blocks(corners, 64, at_once))
            assert [corner for block in blocks for corner in block] == corners
            for block in blocks:
                rows, cols = zip(*block, strict=True)
                area = ((max(rows) - min(rows)) // 64 + 1) * ((max(cols) - min(cols)) // 64 + 1)
                assert area <= at_once
                assert area <= scene_series.MOST_READ_IN_VAIN * len(block)
    assert [len(block) for block in scene_series._blocks(every, 64, 25)] == [20] * 5


def test_shapes_of_a_group_are_those_of_its_stacks(small: tuple[dict, np.ndarray, SceneWindows]) -> None:
    _, _, dataset = small
    group = dataset.group(0)
    assert {source: stack.pixels.shape for source, stack in dataset.stacks(8).items()} == dict(group.shapes)
    assert dataset.window(8).name == group.window_name(64, 64) == "delta-r00064-c00064"
