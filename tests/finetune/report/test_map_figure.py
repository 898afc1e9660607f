"""The picture of a map: panels, colours, legend, scale bar; of a large map its centre and the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

import finetune.report.map_figure as map_figure_module
from common.grid import Grid
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.image_stack import ImageStack
from finetune.data.scene_series import SceneSeries
from finetune.mapping.cog import NO_DATA
from finetune.mapping.scene import predict_scene
from finetune.report.map_figure import (
    LETTERS_PER_PANEL,
    NO_DATA_COLOR,
    MapPicture,
    draw_map,
    map_figure,
    map_picture,
    pixel_width_m,
    preview_label,
    true_color,
    write_map_picture,
)
from finetune.scoring.error_map import outcomes
from finetune.task import IGNORE, load_task
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import Pixelwise, make_recipe

TASK = load_task("paddy_rice")
OTHER, RICE, GREY = (to_rgb(color) for color in (TASK.classes[0].color, TASK.classes[1].color, NO_DATA_COLOR))


def made_up(**changes: Any) -> MapPicture:
    """A picture of 2 x 3 pixels of 30 m."""
    image = np.full((2, 3, 3), 0.25)
    image[0, 0] = np.nan
    picture = MapPicture(
        title="Paddy rice, delta",
        image=image,
        label=np.array([[IGNORE, 0, 1], [1, 1, 0]], dtype=np.int8),
        predicted=np.array([[NO_DATA, 0, 1], [0, 1, 1]], dtype=np.uint8),
        pixel_m=30.0,
    )
    return replace(picture, **changes)


def panels(figure: Figure) -> dict[str, np.ndarray]:
    """What each panel shows, by its title: RGB (H, W, 3)."""
    return {axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in figure.axes}


def scale_bars(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_panels_show_image_label_and_prediction_in_the_colours_of_the_classes() -> None:
    figure = map_figure(TASK, made_up())
    shown = panels(figure)
    assert list(shown) == ["satellite image, median of the season", "label", "prediction", "errors"]
    image, label, prediction, errors = shown.values()
    np.testing.assert_allclose(image[0, 0], GREY)
    np.testing.assert_allclose(image[1], np.full((3, 3), 0.25))
    np.testing.assert_allclose(label, [[GREY, OTHER, RICE], [RICE, RICE, OTHER]])
    np.testing.assert_allclose(prediction, [[GREY, OTHER, RICE], [OTHER, RICE, RICE]])
    hit, missed, false, neither = (to_rgb(outcome.color) for outcome in outcomes(TASK))
    np.testing.assert_allclose(errors, [[GREY, neither, hit], [missed, hit, false]])
    of_errors = figure.axes[3].get_legend()
    assert [text.get_text() for text in of_errors.get_texts()] == [outcome.name for outcome in outcomes(TASK)]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["other", "paddy rice", "no data"]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [OTHER, RICE, GREY]
    assert figure.get_suptitle() == "Paddy rice, delta"


def test_a_simulated_image_is_called_so_and_a_long_title_is_broken() -> None:
    figure = map_figure(TASK, made_up(simulated=True, title="Paddy rice, " + "delta " * 40))
    assert next(iter(panels(figure))) == "simulated image, median of the season"
    assert max(map(len, figure.get_suptitle().splitlines())) <= 2 * LETTERS_PER_PANEL
    assert figure.get_suptitle().replace("\n", " ") == ("Paddy rice, " + "delta " * 40).strip()


def test_scale_bar_has_a_round_length_and_only_known_places_get_one() -> None:
    wide = {"image": np.zeros((50, 100, 3)), "label": None, "predicted": np.zeros((50, 100), np.uint8)}
    figure = map_figure(TASK, made_up(**wide))
    assert list(panels(figure)) == ["satellite image, median of the season", "prediction"]
    assert scale_bars(figure) == ["500 m"] * 2  # a quarter of 3 km, rounded down
    bar = figure.axes[0].lines[0].get_xdata()
    assert bar[1] - bar[0] == pytest.approx(500 / 30)
    assert scale_bars(map_figure(TASK, made_up(**wide, pixel_m=300.0))) == ["5 km"] * 2
    assert not scale_bars(map_figure(TASK, made_up(**wide, pixel_m=None)))


@pytest.mark.parametrize(
    ("crs", "pixel", "metres"),
    [
        ("EPSG:32631", 30.0, 30 / 0.9996),  # on the central meridian of a UTM zone
        ("EPSG:4326", 1 / 3600, 6378137 * np.pi / 180 / 3600 * 0.5 / np.sqrt(1 - 0.00669438 * 0.75)),  # at 60 degrees north
        ("EPSG:2263", 100.0, 100 * 1200 / 3937),  # US survey feet, New York
    ],
)
def test_width_of_a_pixel_is_that_on_the_ground(crs: str, pixel: float, metres: float) -> None:
    corner = {"EPSG:32631": (499_985, 5_000_000), "EPSG:4326": (8.0, 60.0), "EPSG:2263": (984_250.0, 200_000.0)}[crs]
    grid = Grid(crs=crs, transform=Affine(pixel, 0, corner[0], 0, -pixel, corner[1]), height=1, width=1)
    assert pixel_width_m(grid) == pytest.approx(metres, rel=1e-4)
    assert pixel_width_m(replace(grid, crs='LOCAL_CS["place not known",UNIT["pixel",1]]')) is None


def test_the_part_is_outlined_in_the_whole_map() -> None:
    whole = np.zeros((4, 8), np.uint8)
    figure = map_figure(TASK, made_up(overview=whole, part=(0.25, 0.5, 0.5, 0.25)))
    assert list(panels(figure))[-1] == "prediction, all of the map"
    np.testing.assert_allclose(panels(figure)["prediction, all of the map"], np.broadcast_to(OTHER, (4, 8, 3)))
    assert [len(axes.patches) for axes in figure.axes] == [0, 0, 0, 0, 1]
    (outline,) = figure.axes[-1].patches
    assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((4, 1), 2, 2)


def test_a_written_figure_is_the_figure(tmp_path: Path) -> None:
    figure = map_figure(TASK, made_up())
    write_map_picture(tmp_path / "map.png", TASK, made_up())
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    pixels = imread(tmp_path / "map.png")[..., :3]
    np.testing.assert_allclose(pixels.shape[:2], figure.get_size_inches()[::-1] * figure.dpi, atol=1)
    found = {tuple(color) for color in np.round(pixels.reshape(-1, 3)[::7] * 255).astype(int)}
    assert {tuple(round(255 * value) for value in color) for color in (OTHER, RICE, GREY)} <= found


def test_true_colour_is_the_median_of_clear_observations() -> None:
    sensor = load_sensors()["landsat"]
    rng = np.random.default_rng(0)
    pixels = rng.integers(500, 3000, (5, len(sensor.bands), 6, 7)).astype(sensor.dtype)
    valid = rng.random((5, 6, 7)) < 0.7
    valid[:, 2, 3] = False
    found = true_color(ImageStack(pixels=pixels, valid=valid), sensor)
    assert np.isnan(found[2, 3]).all()
    for channel, band in enumerate(sensor.rgb):
        values = pixels[:, sensor.bands.index(band)]
        median = np.array(
            [[np.median(values[valid[:, r, c], r, c]) if valid[:, r, c].any() else np.nan for c in range(7)] for r in range(6)]
        )
        low, high = np.nanpercentile(median, (2, 98))
        np.testing.assert_allclose(found[..., channel], np.clip((median - low) / (high - low), 0, 1), rtol=1e-5)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "a"
    write_rice_scene(folder, "test", side=112, seed=5)
    return folder


@pytest.mark.parametrize("largest_px", [768, 40])
def test_picture_of_a_large_map_shows_its_middle_and_all_of_it(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest_px: int
) -> None:
    monkeypatch.setattr(map_figure_module, "LARGEST_PREVIEW_PX", largest_px)
    recipe = make_recipe(32)
    with SceneSeries(load_scene(scene), recipe.task, load_sensors(), pixel_size=30.0) as series:
        predict_scene(Pixelwise(), recipe, series, tmp_path / "map.tif", torch.device("cpu"))
        label = preview_label(series)
        picture = map_picture(recipe.task, series, tmp_path / "map.tif", label)
        draw_map(tmp_path / "map.png", recipe.task, series, tmp_path / "map.tif", label)
    side, first = min(largest_px, 112), (112 - min(largest_px, 112)) // 2
    inside = np.s_[first : first + side, first : first + side]
    with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(scene / "crop_type.tif") as raster:
        predicted, all_of_it = found.read(1)[inside], found.read(1, out_shape=(40, 40))
        codes = raster.read(1)[inside]
    truth = np.where(codes == 0, IGNORE, codes == 1)
    assert picture.image.shape == (side, side, 3)
    np.testing.assert_array_equal(picture.predicted, predicted)
    np.testing.assert_array_equal(picture.label, truth)
    assert picture.part == pytest.approx([first / 112, first / 112, side / 112, side / 112])
    if side == 112:
        assert picture.overview is None
    else:
        np.testing.assert_array_equal(picture.overview, all_of_it)
    scored = (predicted != NO_DATA) & (truth != IGNORE)
    assert f"overall accuracy {100 * (predicted == truth)[scored].mean():.1f} %" in picture.title
    assert picture.title.startswith(f"{recipe.task.title}, a, season ending 2021; over all labels shown: paddy rice F1 ")
    assert imread(tmp_path / "map.png").ndim == 3
    assert not picture.simulated


def test_the_picture_of_a_simulated_scene_says_so(scene: Path, tmp_path: Path) -> None:
    recipe = make_recipe(32)
    loaded = replace(load_scene(scene), stated_simulated=True)
    with SceneSeries(loaded, recipe.task, load_sensors(), pixel_size=30.0) as series:
        predict_scene(Pixelwise(), recipe, series, tmp_path / "map.tif", torch.device("cpu"))
        picture = map_picture(recipe.task, series, tmp_path / "map.tif", None)
    assert picture.simulated
    assert picture.title == f"{recipe.task.title}, a (simulated), season ending 2021"


def test_a_scene_without_a_label_on_the_grid_of_the_map_has_no_label_in_the_picture(scene: Path) -> None:
    recipe = make_recipe(32)
    with SceneSeries(load_scene(scene), recipe.task, load_sensors(), pixel_size=60.0) as series:
        assert preview_label(series) is None
    unlabelled = replace(load_scene(scene), labels={})
    with SceneSeries(unlabelled, recipe.task, load_sensors(), pixel_size=30.0) as series:
        assert preview_label(series) is None
