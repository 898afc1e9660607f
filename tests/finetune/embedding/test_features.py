"""Features of an encoder on cells."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.config import TaskOverride
from finetune.data.scene_series import FINEST, SceneSeries
from finetune.embedding.features import CellGeometry, EncoderFeatures, FeatureChoice, TimeAxis, cell_geometry
from finetune.task import load_task
from tests.support.embedded_scenes import bilinear, small_encoder
from tests.support.rice_scenes import write_rice_scene

CPU = torch.device("cpu")
FRAMES = 16


def features_of(levels: tuple[int, ...], time: TimeAxis = "keep", sources: tuple[str, ...] = ("landsat",)) -> EncoderFeatures:
    return EncoderFeatures(small_encoder(), sources, FRAMES, FeatureChoice(levels=levels, time=time), CPU)


def geometry_of(cell_px: int, window_px: int, patch_cells: Mapping[tuple[str, int], int | Fraction]) -> CellGeometry:
    exact = {key: Fraction(side) for key, side in patch_cells.items()}
    return CellGeometry(cell_px=cell_px, window_px=window_px, step_px=cell_px, patch_cells=exact)


def random_frames(side: int, bands: int = 6, windows: int = 2) -> np.ndarray:
    return np.random.default_rng(side).normal(size=(windows, FRAMES, bands, side, side)).astype(np.float32)


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("time", ["keep", "mean"])
def test_one_level_is_the_map_of_the_encoder(level: int, time: TimeAxis) -> None:
    features = features_of((level,), time)
    side = 4 * 2 ** min(level, 3)
    frames = random_frames(64)
    found = features.on_cells({"landsat": frames}, geometry_of(side, 64, {("landsat", level): 1}))
    with torch.no_grad():
        expected = small_encoder()(torch.from_numpy(frames), source="landsat")[level].numpy()
    if time == "mean":
        channels = 8 * 2 ** min(level, 3)
        expected = expected.reshape(2, channels, -1, *expected.shape[2:]).mean(axis=2)
    assert found.shape == (2, features.num_features, 64 // side, 64 // side)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_coarse_levels_are_interpolated_between_the_centres_of_their_patches() -> None:
    features = features_of((0, 4))
    frames = random_frames(64)
    found = features.on_cells({"landsat": frames}, geometry_of(4, 64, {("landsat", 0): 1, ("landsat", 4): 8}))
    with torch.no_grad():
        maps = small_encoder()(torch.from_numpy(frames), source="landsat")
    np.testing.assert_allclose(found[:, : maps[0].shape[1]], maps[0].numpy(), atol=1e-5)
    rows, cols = (at.ravel() for at in np.meshgrid(*[(np.arange(16) + 0.5) / 8 - 0.5] * 2, indexing="ij"))
    for window in range(2):
        expected = bilinear(maps[4][window].numpy(), rows, cols).reshape(-1, 16, 16)
        np.testing.assert_allclose(found[window, maps[0].shape[1] :], expected, atol=1e-5)


def test_patches_of_a_coarse_source_that_end_beyond_the_window_stay_in_their_place() -> None:
    """Five MODIS pixels are two patches of four, of which the second is mostly padding."""
    features = features_of((0,), sources=("landsat", "modis"))
    modis = random_frames(5, bands=7)
    patch = Fraction(16, 5)  # of a window of four cells, a fifth of which is a pixel of MODIS
    geometry = geometry_of(4, 16, {("landsat", 0): 1, ("modis", 0): patch})
    found = features.on_cells({"landsat": random_frames(16), "modis": modis}, geometry)
    with torch.no_grad():
        maps = small_encoder()(torch.from_numpy(modis), source="modis")[0].numpy()
    assert maps.shape[-2:] == (2, 2)
    rows, cols = (at.ravel() for at in np.meshgrid(*[(np.arange(4) + 0.5) / float(patch) - 0.5] * 2, indexing="ij"))
    expected = bilinear(maps[0], rows, cols).reshape(-1, 4, 4)
    np.testing.assert_allclose(found[0, -maps.shape[1] :], expected, atol=1e-5)


@pytest.mark.parametrize("time", ["keep", "mean"])
def test_projected_levels_are_the_projected_features(time: TimeAxis) -> None:
    features = features_of((0, 2, 4), time, ("landsat", "modis"))
    sides = {("landsat", 0): 1, ("landsat", 2): 4, ("landsat", 4): 8, ("modis", 0): 16, ("modis", 2): 64, ("modis", 4): 128}
    geometry = geometry_of(4, 64, sides)
    data = {"landsat": random_frames(64), "modis": random_frames(4, bands=7)}
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, features.num_features)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    expected = np.einsum("df,bfhw->bdhw", weight, features.on_cells(data, geometry)) + bias[:, None, None]
    np.testing.assert_allclose(features.projected(data, geometry, weight, bias), expected, atol=1e-3)


@pytest.mark.parametrize("levels", [(), (1, 0), (5,), (2, 2)])
def test_wrong_levels_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="--levels are"):
        FeatureChoice(levels=levels)


def series_of(folder: Path, **override: object) -> SceneSeries:
    task = TaskOverride(**override).applied_to(load_task("paddy_rice"))  # type: ignore[arg-type]
    return SceneSeries(load_scene(folder), task, load_sensors(), pixel_size=FINEST, year=2021)


def test_cells_of_a_scene(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=64, frames=6)
    geometry = cell_geometry(series_of(tmp_path / "a"), 4, (0, 1, 4), 64)
    assert (geometry.cell_px, geometry.window, geometry.step_px) == (4, 16, 16)  # windows begin on whole pixels of MODIS
    assert geometry.patch_cells["landsat", 4] == 8
    assert geometry.patch_cells["modis", 1] == 32
    assert cell_geometry(series_of(tmp_path / "a"), 4, (2, 3), 64).cell_px == 16
    repeated = cell_geometry(series_of(tmp_path / "a", upsample={"landsat": 2}), 4, (0,), 64)
    assert repeated.cell_px == 2
    with pytest.raises(
        ValueError, match=r"windows of 48 px do not hold whole patches of level 3 of landsat; .* a multiple of 32"
    ):
        cell_geometry(series_of(tmp_path / "a"), 4, (0, 3), 48)
    with pytest.raises(ValueError, match=r"a patch of level 0 is 1/2 of a pixel of landsat, which is repeated 8 times"):
        cell_geometry(series_of(tmp_path / "a", upsample={"landsat": 8}), 4, (0,), 64)
