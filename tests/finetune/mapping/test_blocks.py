"""Prediction of blocks: seams, edges of the scene, windows without a clear pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.tiling import Tiling
from finetune.model.recipe import Recipe
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import Convolutional, Pixelwise, make_recipe

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def blended(scene: Path, recipe: Recipe, model: Any, stride: int, block_px: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """From all blocks: probabilities float32 (classes, H, W), and where the scene was seen, bool (H, W)."""
    with SceneSeries(load_scene(scene), recipe.task, load_sensors(), pixel_size=recipe.pixel) as series:
        height, width = series.grid.shape
        window = recipe.task.window_px
        tiling = Tiling(height=height, width=width, window=window, stride=stride, step=series.step, block=block_px)
        predictor = BlockPredictor(
            model=model.eval(), recipe=recipe, series=series, tiling=tiling, device=CPU, batch_size=3, probabilities=False
        )
        probabilities, seen = np.zeros((2, height, width), np.float32), np.zeros((height, width), bool)
        for block in tiling.blocks:
            inside = np.s_[block.row : block.row + block.height, block.col : block.col + block.width]
            probabilities[:, *inside], seen[inside] = predictor.blend(block)
    return probabilities, seen


def flat_scene(folder: Path, side: int, slope: float) -> None:
    """A scene without clouds with constant reflectance, or with one that rises to the east and south by `slope` per pixel."""
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


@pytest.mark.slow
@pytest.mark.parametrize("slope", [7.0, 0.0])
def test_no_grid_on_flat_scenes(tmp_path: Path, slope: float) -> None:
    """The model sees farther (12 px) than the margin that is left out (8 px), so each window is wrong near its edges."""
    flat_scene(tmp_path / "a", 256, slope)
    recipe, model = make_recipe(64, ("landsat",)), Convolutional(12, bias=False)
    inner = np.s_[64:192, 64:192]
    truth = blended(tmp_path / "a", make_recipe(256, ("landsat",)), model, 256)[0][0][inner]
    smooth = blended(tmp_path / "a", recipe, model, 32, 128)[0][0][inner] - truth
    cut = blended(tmp_path / "a", recipe, model, 64)[0][0][inner] - truth

    def power_at_stride(error: np.ndarray, stride: int) -> float:
        """Amplitude of the harmonics of a grid with `stride` pixels between its lines."""
        spectrum = np.abs(np.fft.rfft(error - error.mean(axis=1, keepdims=True), axis=1)).mean(axis=0) / error.shape[1]
        return float(spectrum[:: error.shape[1] // stride][1:].sum())

    # An edge is seen by the jump from pixel to pixel. Without blending it is as high as the whole error.
    jumps = [np.abs(np.diff(error, axis=1)).max() for error in (smooth, cut)]
    assert jumps[1] > 0.1, "the stand-in must err at edges, or this test shows nothing"
    assert jumps[0] < 0.05 * jumps[1]
    assert power_at_stride(smooth, 32) < 0.05 * power_at_stride(cut, 64)


@pytest.mark.parametrize("side", [16, 48, 80])
def test_scenes_smaller_than_a_window(tmp_path: Path, side: int) -> None:
    write_rice_scene(tmp_path / "a", "test", side=side, seed=5, cloudy=0.0)
    whole, _ = blended(tmp_path / "a", make_recipe(side, ("landsat",)), Pixelwise(), side)
    padded, seen = blended(tmp_path / "a", make_recipe(64, ("landsat",)), Pixelwise(), 32)
    np.testing.assert_allclose(padded, whole, atol=1e-6)
    assert padded.shape == (2, side, side)
    assert seen.all()


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
