"""Rasters that are made to be shown, against the arrays that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

import finetune.web_map.display_rasters as display_rasters
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.landcover.label_raster import StoredRaster
from data_prep.readers.opening import open_reader
from finetune.scoring.error_map import error_map
from finetune.task import IGNORE, load_task
from finetune.web_map.display_rasters import NO_CLASS, clear_shares, write_errors, write_label, write_true_color
from tests.support.archives import Cube
from tests.support.rice_scenes import write_rice_scene

TASK = load_task("paddy_rice")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Cube], np.ndarray]:
    folder = tmp_path_factory.mktemp("scenes") / "a"
    cubes, codes = write_rice_scene(folder, "test", side=80, seed=5, frames=6)
    return folder, cubes, codes


def test_a_true_colour_image_is_stretched_and_transparent_where_nothing_was_observed(
    scene: tuple[Path, dict[str, Cube], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cubes, _ = scene
    monkeypatch.setattr(display_rasters, "STRIP_PX", 32)  # several strips, the last one smaller
    monkeypatch.setattr(display_rasters, "OVERVIEW_SMALLEST_PX", 30)
    with open_reader(load_scene(folder), "landsat", load_sensors()) as reader:
        write_true_color(tmp_path / "image.tif", reader, 2)
        sensor, grid = reader.sensor, reader.grid
        clear = reader.read(0, 0, 80, 80, np.array([2])).valid[0]
    with rasterio.open(tmp_path / "image.tif") as raster:
        found = raster.read()
        assert raster.transform == grid.transform
        assert raster.overviews(1) == [2, 4]
    bands = [sensor.bands.index(band) for band in ("B04", "B03", "B02")]
    pixels = cubes["landsat"].pixels[2][bands].astype(float)
    assert (found[3] == 255).all()
    for shown, stored in zip(found[:3].astype(float), pixels, strict=True):
        # Linear between the ends of the stretch.
        between = (shown > 0) & (shown < 255)
        slope, offset = np.polyfit(stored[between], shown[between], 1)
        np.testing.assert_allclose(shown, np.clip(slope * stored + offset, 0, 255), atol=1.5)
        low, high = np.percentile(stored[clear], (2, 98))
        assert slope == pytest.approx(255 / (high - low), rel=0.1)  # the ends are measured at some places


def test_pixels_that_were_not_observed_are_transparent(tmp_path: Path) -> None:
    class Reader:
        def __init__(self) -> None:
            self.sensor = load_sensors()["landsat"]
            with open_reader(load_scene(folder), "landsat", load_sensors()) as reader:
                self.grid, self.series = reader.grid, reader.read(0, 0, 32, 32, np.array([0]))
            self.series.pixels[0, 1, :5] = self.sensor.nodata

        def read(self, *_: object) -> object:
            return self.series

    folder = tmp_path / "scene"
    write_rice_scene(folder, "test", side=32, frames=2)
    write_true_color(tmp_path / "image.tif", Reader(), 0)  # type: ignore[arg-type]
    with rasterio.open(tmp_path / "image.tif") as raster:
        alpha = raster.read(4)
    assert (alpha[:5] == 0).all()
    assert (alpha[5:] == 255).all()


def test_clear_shares_are_those_of_places_all_over_the_scene(scene: tuple[Path, dict[str, Cube], np.ndarray]) -> None:
    folder, _, _ = scene
    with open_reader(load_scene(folder), "landsat", load_sensors()) as reader:
        shares = clear_shares(reader, np.arange(6))
        valid = reader.read(0, 0, 80, 80, np.arange(6)).valid
    places = [valid[:, row : row + 32, col : col + 32] for row in (0, 24, 48) for col in (0, 24, 48)]
    np.testing.assert_allclose(shares, np.mean(places, axis=(0, 2, 3)))
    assert len(set(shares)) > 1


def test_label_and_errors_are_those_of_the_arrays(
    scene: tuple[Path, dict[str, Cube], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, codes = scene
    monkeypatch.setattr(display_rasters, "STRIP_PX", 32)
    label = load_scene(folder).labels["crop_type"]
    predicted = np.random.default_rng(0).integers(0, 2, codes.shape).astype(np.uint8)
    predicted[:4] = 255
    with rasterio.open(label.path) as raster, rasterio.open(tmp_path / "map.tif", "w", **raster.profile) as written:
        written.write(predicted, 1)
    with StoredRaster(label, "label raster") as reader:
        write_label(tmp_path / "label.tif", reader, TASK, None)
        write_errors(tmp_path / "errors.tif", reader, TASK, None, tmp_path / "map.tif")
    expected = np.where(codes == 0, NO_CLASS, codes == 1)
    with rasterio.open(tmp_path / "label.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), expected)
        assert raster.nodata == NO_CLASS
    with rasterio.open(tmp_path / "errors.tif") as raster:
        truth = np.where(codes == 0, IGNORE, codes == 1)
        np.testing.assert_array_equal(raster.read(1), error_map(TASK, truth, predicted))
