"""Grids in other words: CRSs compared on the ground, north-up grids, pixel sizes in degrees; against rasterio and pyproj."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from pyproj import Transformer
from rasterio.transform import rowcol, xy

from common.crs import crs_name
from common.grid import (
    Grid,
    corner_distance_px,
    grid_from_centres,
    grid_in_crs,
    grid_with_pixel_size,
    nesting_factor,
    unwrapped,
)
from common.north_up import north_up
from tests.support.archives import HLS_WKT

UTM = Grid(crs="EPSG:32610", transform=Affine(30, 0, 600_000, 0, -30, 4_300_020), height=120, width=90)
NORTH_OF_36 = Grid(crs="EPSG:32636", transform=Affine(30, 0, 600_000, 0, -30, -3_000_000), height=120, width=90)


@pytest.mark.parametrize(
    ("grid", "crs", "moved_north"),
    [
        (UTM, HLS_WKT, 0),
        (replace(UTM, crs=HLS_WKT), "EPSG:32610", 0),
        (NORTH_OF_36, "EPSG:32736", 10_000_000),
        (replace(UTM, crs="EPSG:26910"), "EPSG:32610", 0),  # NAD83, which PROJ places as WGS 84
        (replace(UTM, crs="EPSG:4326", transform=Affine(3e-4, 0, 8, 0, -3e-4, 50)), "OGC:CRS84", 0),
    ],
)
def test_the_same_pixels_in_other_words(grid: Grid, crs: str, moved_north: float) -> None:
    found = grid_in_crs(grid, crs)
    assert found is not None
    assert (found.crs, found.shape) == (crs, grid.shape)
    assert found.transform.almost_equals(Affine.translation(0, moved_north) @ grid.transform, precision=1e-3)
    there = Transformer.from_crs(grid.crs, crs, always_xy=True)
    for row, col in ((0, 0), (119, 0), (60, 45), (119, 89)):
        assert rowcol(found.transform, *there.transform(*xy(grid.transform, row, col))) == (row, col)
    assert nesting_factor(grid, found, "here") == 1


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:32611",  # the next zone
        "EPSG:3310",  # another projection
        "EPSG:4326",
        "IAU_2015:30100",  # the Moon
        'LOCAL_CS["place not known",UNIT["pixel",1]]',
    ],
)
def test_a_crs_in_which_the_pixels_are_others(crs: str) -> None:
    assert grid_in_crs(UTM, crs) is None
    assert corner_distance_px(UTM, replace(UTM, crs=crs)) == np.inf


@pytest.mark.parametrize("crs", ["EPSG:32710", "EPSG:26710"])  # the southern half of the zone, and another datum, NAD27
def test_the_same_numbers_elsewhere(crs: str) -> None:
    assert corner_distance_px(UTM, replace(UTM, crs=crs)) > 1


@pytest.mark.parametrize(("moved", "nests"), [(0.1, True), (0.5, False), (15, False)])
def test_nesting_is_exact_to_a_hundredth_of_a_pixel_at_all_corners(moved: float, nests: bool) -> None:
    by_corner = replace(UTM, transform=Affine.translation(moved, 0) @ UTM.transform)
    by_size = replace(UTM, transform=Affine(30 + moved / UTM.width, 0, 600_000, 0, -30, 4_300_020))
    for other in (by_corner, by_size):
        if nests:
            assert nesting_factor(other, UTM, "here") == 1
        else:
            with pytest.raises(ValueError, match=r"here: its grid \(120 x 90 px .* EPSG:32610\) does not nest in that of the"):
                nesting_factor(other, UTM, "here")


def test_coarse_pixels_nest_in_degrees_and_in_other_words() -> None:
    fine = replace(UTM, transform=Affine(10, 0, 600_000, 0, -10, 4_300_020), height=360, width=270)
    assert nesting_factor(replace(UTM, crs=HLS_WKT), fine, "here") == 3
    side = 0.00026949458523585647
    degrees = Grid(crs="EPSG:4326", transform=Affine(side, 0, -121.3, 0, -side, 38.5), height=3000, width=3000)
    halved = replace(degrees, transform=degrees.transform @ Affine.scale(2), height=1500, width=1500)
    assert nesting_factor(halved, degrees, "here") == 2


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("cols", [False, True])
def test_a_north_up_grid_has_every_stored_pixel_at_its_place(rows: bool, cols: bool) -> None:
    transform = UTM.transform
    if rows:
        transform = transform @ Affine(1, 0, 0, 0, -1, UTM.height)
    if cols:
        transform = transform @ Affine(-1, 0, UTM.width, 0, 1, 0)
    found, flips = north_up(replace(UTM, transform=transform))
    assert found == UTM
    values = np.random.default_rng(0).integers(0, 99, (2, *UTM.shape))
    stored = values[:, :: -1 if rows else 1, :: -1 if cols else 1]
    asked = []

    def read(row: int, col: int, height: int, width: int) -> np.ndarray:
        asked.append((row, col, height, width))
        return stored[:, row : row + height, col : col + width]

    window = flips.reader(read, UTM.shape)(5, 7, 11, 13)
    np.testing.assert_array_equal(window, values[:, 5:16, 7:20])
    assert len(asked) == 1
    north_west = xy(found.transform, 5, 7)
    assert rowcol(transform, *north_west) == (114 if rows else 5, 82 if cols else 7)


def test_a_rotated_grid_turns_by_less_than_a_right_angle() -> None:
    turned = replace(UTM, transform=UTM.transform @ Affine.rotation(30))
    assert north_up(turned)[0] == turned
    upside_down = replace(UTM, transform=UTM.transform @ Affine.rotation(190))
    found, flips = north_up(upside_down)
    assert flips.rows
    assert flips.cols
    assert found.transform.a > 0 > found.transform.e
    assert xy(found.transform, 0, 0) == pytest.approx(xy(upside_down.transform, 119, 89))


@pytest.mark.parametrize("noise", [0, 3e-7, -3e-7])
@pytest.mark.parametrize(("times", "of"), [(1, 1), (3, 1), (1, 3), (16, 1)])
def test_pixel_sizes_in_degrees_are_whole_multiples(times: int, of: int, noise: float) -> None:
    side = 0.00026949458523585647
    grid = Grid(crs="EPSG:4326", transform=Affine(side, 0, -121.3, 0, -side, 38.5), height=9600, width=9600)
    found = grid_with_pixel_size(grid, side * (1 + noise) * times / of)
    assert found.shape == (9600 * of // times, 9600 * of // times)
    assert found.transform.a == pytest.approx(side * times / of, rel=1e-12)
    exact = replace(found, transform=grid.transform @ Affine.scale(times / of))
    assert corner_distance_px(found, exact) < 1e-6


def test_degrees_go_on_at_the_antimeridian() -> None:
    np.testing.assert_allclose(unwrapped(np.array([179.0, -179.0, -180.0, 180.0]), 179.5), [179, 181, 180, 180])
    np.testing.assert_allclose(unwrapped(np.array([179.0, -179.0, 180.0]), -179.5), [-181, -179, -180])
    for west, crs in ((179.0, "EPSG:4326"), (-181.0, "EPSG:4326"), (179.0, "EPSG:4269")):
        grid = Grid(crs=crs, transform=Affine(0.1, 0, west, 0, -0.1, 10), height=20, width=20)
        col, row = grid.pixels_at(np.array([179.55, -179.45]), np.array([9.95, 8.05]))
        np.testing.assert_allclose((col, row), ([5.5, 15.5], [0.5, 19.5]))


def test_short_names() -> None:
    assert crs_name("EPSG:32610") == "EPSG:32610"
    assert crs_name(HLS_WKT) == "'UTM Zone 10, Northern Hemisphere'"


@pytest.mark.parametrize("west", [5.1234567, -58.7654321, 113.1357911])
@pytest.mark.parametrize("pixel", [8.983152841e-5, 2.694945852e-4, 2.0833333333e-3])
def test_degrees_as_float32(west: float, pixel: float) -> None:
    """Pixels of 10 m, 30 m and 231 m, whose centres a file holds as float32: the grid is right to a hundredth of a pixel."""
    true = Grid(crs="EPSG:4326", transform=Affine(pixel, 0, west, 0, -pixel, 47.7654321), height=800, width=1200)
    cols, rows = np.arange(true.width) + 0.5, np.arange(true.height) + 0.5
    x, y = west + pixel * cols, 47.7654321 - pixel * rows
    exact = grid_from_centres(x, y, "EPSG:4326", "g")
    rounded = grid_from_centres(x.astype(np.float32), y.astype(np.float32), "EPSG:4326", "g")
    assert corner_distance_px(exact, true) < 1e-6
    assert corner_distance_px(rounded, true) < 0.01


def test_float32_does_not_excuse_uneven_coordinates() -> None:
    pixel, y = 8.983152841e-5, np.array([1.0, 0.5])
    x = 113.1 + pixel * np.arange(1000)
    x[600:] += pixel / 5
    with pytest.raises(ValueError, match="g: coordinates x are not evenly spaced"):
        grid_from_centres(x.astype(np.float32), y, "EPSG:4326", "g")
    fine = 113.1 + 9e-6 * np.arange(1000)  # a metre, less than float32 tells apart
    with pytest.raises(ValueError, match="g: coordinates x are not evenly spaced"):
        grid_from_centres(fine.astype(np.float32), y, "EPSG:4326", "g")
