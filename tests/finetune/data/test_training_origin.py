"""Where training data are from: boxes around regions, also across the antimeridian and near a pole, and years."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.warp import transform_bounds

from common.grid import Grid
from finetune.data.training_origin import _border, _box


def grid(crs: str, west: float, north: float, gsd: float, side: int = 100) -> Grid:
    return Grid(crs=crs, transform=Affine(gsd, 0, west, 0, -gsd, north), height=side, width=side)


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:3035", "EPSG:2154"])
def test_a_box_is_that_of_rasterio(crs: str) -> None:
    one = grid(crs, 600_000 if crs != "EPSG:3035" else 4_000_000, 5_600_000 if crs == "EPSG:32631" else 3_000_000, 300.0)
    if crs == "EPSG:2154":
        one = grid(crs, 700_000, 6_600_000, 300.0)
    expected = transform_bounds(one.crs, "EPSG:4326", *one.bounds, densify_pts=200)
    assert _box([_border(one)]) == pytest.approx(expected, abs=2e-4)


def test_several_scenes_have_one_box() -> None:
    scenes = [grid("EPSG:4326", west, 10, 0.01) for west in (5.0, 7.5)]
    assert _box([_border(one) for one in scenes]) == [5.0, 9.0, 8.5, 10.0]


def test_a_box_across_the_antimeridian_is_narrow() -> None:
    west, south, east, north = _box([_border(grid("EPSG:4326", 179.5, 10, 0.01))]) or []
    assert (west, south, east, north) == (179.5, 9.0, -179.5, 10.0)
    both = _box([_border(grid("EPSG:4326", 179.5, 10, 0.01)), _border(grid("EPSG:4326", -179.0, 10, 0.01))]) or []
    assert both == [179.5, 9.0, -178.0, 10.0]


def test_what_has_no_place_has_no_box() -> None:
    assert _box([]) is None
    assert _box([np.array([[np.nan, 1.0], [2.0, 3.0]])]) is None
