"""Common ground of scenes of different splits, against polygons on the ellipsoid and in UTM."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod, Transformer
from rasterio.warp import transform

from common.grid import Grid
from data_prep.archive.footprints import Footprints, overlap_text

WGS84 = Geod(ellps="WGS84")


def utm(zone: int, west: float, north: float, side: int = 128, pixel: float = 30.0, south: bool = False) -> Grid:
    code = f"EPSG:32{7 if south else 6}{zone:02d}"
    return Grid(crs=code, transform=Affine(pixel, 0, west, 0, -pixel, north), height=side, width=side)


def shares(*scenes: tuple[str, Grid]) -> dict[tuple[str, str], float]:
    """The shares of overlaps between scenes s0, s1, ... by pair of names."""
    footprints = Footprints()
    for number, (split, grid) in enumerate(scenes):
        footprints.add(f"s{number}", split, grid)
    return {found.scenes: found.share for found in footprints.overlaps()}


@pytest.mark.parametrize("east", [0, 960, 1920, 3810, 3840, 5000])
def test_shares_in_one_zone(east: float) -> None:
    found = shares(("train", utm(10, 600_000, 4_300_020)), ("test", utm(10, 600_000 + east, 4_300_020)))
    expected = max(0, 1 - east / 3_840)
    # Half a pixel of each scene does not count, so an overlap by one pixel is none.
    assert found == ({} if east >= 3_810 else {("s0", "s1"): pytest.approx(expected, abs=0.005)})


@pytest.mark.parametrize(("splits", "number"), [(("train", "validation", "test"), 3), (("train", "train", "test"), 2)])
def test_only_scenes_of_different_splits_count(splits: tuple[str, ...], number: int) -> None:
    found = shares(*((split, utm(10, 600_000, 4_300_020)) for split in splits))
    assert len(found) == number
    assert not shares(*(("train", utm(10, 600_000, 4_300_020)) for _ in range(3)))


def ellipsoid_share(one: Grid, other: Grid) -> float:
    """Common area of two footprints as a share of the smaller one: polygons in the CRS of the first, areas on the ellipsoid."""
    there = Transformer.from_crs(other.crs, one.crs, always_xy=True)
    box = shapely.box(*one.bounds)
    placed = shapely.transform(shapely.segmentize(shapely.box(*other.bounds), other.pixel_side * 8), lambda at: np.stack(
        there.transform(*at.T), axis=1))  # fmt: skip
    back = Transformer.from_crs(one.crs, "EPSG:4326", always_xy=True)

    def area(polygon: shapely.Geometry) -> float:
        lon, lat = back.transform(*shapely.get_coordinates(shapely.segmentize(polygon, one.pixel_side * 8)).T)
        return abs(WGS84.polygon_area_perimeter(lon, lat)[0])

    common = box.intersection(placed)
    return 0.0 if common.is_empty else area(common) / min(area(box), area(placed))


def test_shares_of_neighbouring_zones_and_degrees() -> None:
    """Full tiles of Sentinel-2 in two zones at 55 degrees north, and a square of three degrees."""
    (east,), (north,) = transform("EPSG:4326", "EPSG:32631", [6.0], [55.0])
    (west,), (north_32,) = transform("EPSG:4326", "EPSG:32632", [6.0], [55.0])
    one = utm(31, east - 60_000, north + 30_000, 10_980, 10.0)
    other = utm(32, west - 20_000, north_32 + 70_000, 10_980, 10.0)
    degrees = Grid(crs="EPSG:4326", transform=Affine(0.0009, 0, 5.5, 0, -0.0009, 56.0), height=3_000, width=3_000)
    grids = one, other, degrees
    found = shares(("train", one), ("validation", other), ("test", degrees))
    for (a, one), (b, other) in combinations(enumerate(grids), 2):
        assert found[f"s{a}", f"s{b}"] == pytest.approx(ellipsoid_share(one, other), rel=3e-3)


@pytest.mark.parametrize("shift_m", [0, 2_000, 3_000, 4_100])
def test_footprints_across_the_antimeridian(shift_m: float) -> None:
    """A scene of Taveuni, through which the antimeridian runs, in its two UTM zones and in degrees on both sides."""
    (x,), (y,) = transform("EPSG:4326", "EPSG:32760", [180.0], [-16.8])
    (x_1,), (y_1,) = transform("EPSG:4326", "EPSG:32701", [-180.0], [-16.8])
    one = utm(60, x - 1_920, y + 1_920, south=True)
    other = utm(1, x_1 - 1_920 + shift_m, y_1 + 1_920, south=True)
    expected = ellipsoid_share(one, other)
    found = shares(("train", one), ("test", other))
    assert found == ({("s0", "s1"): pytest.approx(expected, abs=0.01)} if expected > 0.02 else {})
    for west in (179.99, -180.01):  # the same square in two ways
        square = Grid(crs="EPSG:4326", transform=Affine(0.0002, 0, west, 0, -0.0002, -16.79), height=100, width=100)
        assert shares(("train", one), ("test", square)) == {("s0", "s1"): pytest.approx(1, abs=1e-6)}
    far = Grid(crs="EPSG:4326", transform=Affine(0.0002, 0, 0.0, 0, -0.0002, -16.79), height=100, width=100)
    assert not shares(("train", one), ("test", far))


def test_footprints_at_the_poles() -> None:
    polar = Grid(crs="EPSG:3413", transform=Affine(1_000, 0, -500_000, 0, -1_000, 500_000), height=1_000, width=1_000)
    beside = Grid(crs="EPSG:3413", transform=Affine(1_000, 0, 500_000, 0, -1_000, 500_000), height=1_000, width=1_000)
    inside = Grid(crs="EPSG:3413", transform=Affine(100, 0, -5_000, 0, -100, 5_000), height=100, width=100)
    found = shares(("train", polar), ("test", beside), ("validation", inside))
    assert found == {("s0", "s2"): pytest.approx(1, abs=1e-6)}


def test_tiles_that_touch_in_degrees_and_of_modis_do_not_overlap() -> None:
    """Five degrees wide, beside five of one degree; and tiles of the sinusoidal grid of 1,100 km."""
    step = 1 / 3_600
    wide = Grid(crs="EPSG:4326", transform=Affine(step, 0, 10, 0, -step, 60), height=18_000, width=18_000)
    small = [Grid(crs="EPSG:4326", transform=Affine(step, 0, 10 + n, 0, -step, 61), height=3_600, width=3_600) for n in range(5)]
    assert not shares(("train", wide), *(("test", grid) for grid in small))
    side = 1_111_950.519767
    tiles = [
        Grid(
            crs="ESRI:54008",
            transform=Affine(side / 2_400, 0, col * side, 0, -side / 2_400, row * side),
            height=2_400,
            width=2_400,
        )
        for row in (5, 6)
        for col in (0, 1, 2)
    ]
    assert not shares(*((("train", "test")[number % 2], grid) for number, grid in enumerate(tiles)))


def test_the_largest_share_of_several_sources_counts_and_places_that_are_not_known_do_not() -> None:
    footprints = Footprints()
    nowhere = Grid(crs='LOCAL_CS["place not known",UNIT["pixel",1]]', transform=Affine.scale(1, -1), height=8, width=8)
    for scene, split, west in (("a", "train", 600_000), ("b", "test", 601_920)):
        footprints.add(scene, split, utm(10, west, 4_300_020))
        footprints.add(scene, split, utm(10, west + 960, 4_299_060, 64))
        footprints.add(scene, split, nowhere)
    (found,) = footprints.overlaps()
    assert (found.scenes, found.splits) == (("a", "b"), ("train", "test"))
    assert found.share == pytest.approx(0.5, abs=0.01)
    assert overlap_text([found] * 7).endswith("and 2 other pairs")
    assert overlap_text([found]) == f"a (train) and b (test) by {100 * found.share:.3g} %"


def test_twenty_thousand_scenes_take_seconds() -> None:
    """Scenes that touch their neighbours of other splits, and one that lies on two of them."""
    footprints, splits = (
        Footprints(),
        np.array(["train", "validation", "test"])[np.random.default_rng(0).integers(3, size=20_000)],
    )
    splits[777], splits[778] = "train", "validation"
    places = [(300_000 + 1_920 * (number % 150), 5_000_000 - 1_920 * (number // 150)) for number in range(len(splits))]
    for number, (split, (west, north)) in enumerate(zip(splits.tolist(), places, strict=True)):
        footprints.add(f"s{number}", split, utm(31, west, north, 64))
    west, north = places[777]
    footprints.add("last", "test", utm(31, west + 1_440, north - 480, 32))
    begin = time.monotonic()
    found = {overlap.scenes: overlap.share for overlap in footprints.overlaps()}
    assert time.monotonic() - begin < 30
    assert found == {("s777", "last"): pytest.approx(0.5, abs=0.02), ("s778", "last"): pytest.approx(0.5, abs=0.02)}
