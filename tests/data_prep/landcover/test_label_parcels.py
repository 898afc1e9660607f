"""Labels of polygons on grids of four CRSs, compared with a look at each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod

from common.grid import Grid
from data_prep.landcover.label_opening import label_notes
from data_prep.landcover.label_parcels import without_common_ground
from tests.support.parcels import (
    GRIDS,
    away_from_edges,
    by_area,
    by_points,
    centres,
    on_ground,
    opened,
    random_parcels,
    scene_with,
    write_parcels,
)

CLASSES = {1: "rice", 7: "wheat", 300: "maize"}
UTM = GRIDS["UTM north"]


def codes_for(parcels: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(list(CLASSES), len(parcels))


@pytest.mark.parametrize("of_file", ["the grid", "EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("name", list(GRIDS))
def test_pixels_whose_centre_lies_in_a_parcel(tmp_path: Path, name: str, of_file: str) -> None:
    """The oracle brings the centres of pixels into the CRS of the file; the code brings the parcels onto the grid."""
    grid = GRIDS[name]
    parcels = random_parcels(grid, seed=3)
    codes = codes_for(parcels)
    ground = geopandas.GeoSeries(on_ground(parcels, grid), crs=grid.crs)
    if of_file != "the grid":
        ground = ground.to_crs(of_file)
    crs = ground.crs.to_string()
    write_parcels(tmp_path / "parcels.gpkg", ground, crs, crop=codes)
    with opened(tmp_path, grid, vector="parcels.gpkg", classes=CLASSES) as label:
        found = label.read()
        assert label.dtype == np.uint16
        assert label.grid == grid
        expected, far = by_points(grid, ground, codes, crs), away_from_edges(grid, ground, crs)
        assert far.mean() > 0.99
        assert len(np.unique(expected)) == 4
        np.testing.assert_array_equal(found[far], expected[far])
        counts = label.counts()
    assert counts.features == len(parcels)
    assert counts.outside == len(parcels) - sum(counts.objects.values()) == sum(
        not parcel.intersects(shapely.box(0, 0, grid.width, grid.height)) for parcel in parcels
    )  # fmt: skip
    assert counts.overlap_px == 0


@pytest.mark.parametrize("name", ["UTM north", "UTM south", "degrees", "LAEA"])
@pytest.mark.parametrize("shift", [-1e-3, 1e-3])
def test_edges_near_the_centres_of_pixels(tmp_path: Path, name: str, shift: float) -> None:
    """A parcel whose edges lie a thousandth of a pixel beside the centres of pixels; nothing is shifted by half a pixel."""
    grid = GRIDS[name]
    left, top, right, bottom = 10.5 + shift, 5.5 + shift, 20.5 + shift, 15.5 + shift
    ground = geopandas.GeoSeries(on_ground(np.array([shapely.box(left, top, right, bottom)]), grid), crs=grid.crs)
    expected = np.zeros(grid.shape, np.uint8)
    first_row, first_col = (5, 10) if shift < 0 else (6, 11)
    expected[first_row : first_row + 10, first_col : first_col + 10] = 1
    for number, series in enumerate([ground, ground.segmentize(grid.pixel_side / 4).to_crs(4326)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_parcels(folder / "parcels.gpkg", series, series.crs, crop=[1])
        with opened(folder, grid, vector="parcels.gpkg", classes={1: "rice"}) as label:
            np.testing.assert_array_equal(label.read(), expected)
            np.testing.assert_array_equal(label.read(4, 9, 8, 7), expected[4:12, 9:16])


def test_neighbours_whose_border_runs_through_centres_share_no_pixel(tmp_path: Path) -> None:
    parcels = on_ground(np.array([shapely.box(0.5, 0, 9.5, 20), shapely.box(9.5, 0, 20.5, 20)]), UTM)
    write_parcels(tmp_path / "parcels.gpkg", parcels, UTM.crs, crop=[1, 7])
    with opened(tmp_path, UTM, vector="parcels.gpkg", classes=CLASSES) as label:
        found = label.read()
        assert label.counts().overlap_px == 0
    assert (found[:20, 1:20] != 0).all()


@pytest.mark.parametrize("least", [0.5, 0.8])
@pytest.mark.parametrize("name", ["UTM north", "degrees"])
def test_classes_that_cover_most_of_a_pixel(tmp_path: Path, name: str, least: float) -> None:
    grid = GRIDS[name]
    grid = Grid(crs=grid.crs, transform=grid.transform, height=21, width=24)
    parcels = random_parcels(grid, seed=5, number=40)
    parcels = np.append(parcels, [shapely.box(3, 3, 9, 8), shapely.box(7, 5, 14, 12)])  # overlap each other and all else
    codes = codes_for(parcels)
    write_parcels(tmp_path / "parcels.gpkg", on_ground(parcels, grid), grid.crs, crop=codes)
    entry = {"vector": "parcels.gpkg", "classes": CLASSES, "assign": "area", "least_share": least}
    with opened(tmp_path, grid, **entry) as label:
        found, counts = label.read(), label.counts()
        part = label.read(3, 5, 11, 9)
    expected, margin = by_area(grid, parcels, codes, least)
    clear = margin > 1e-6
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(found[clear], expected[clear])
    np.testing.assert_array_equal(part, found[3:14, 5:14])
    assert counts.overlap_px > 10


def test_overlaps_of_different_classes_are_not_labelled_and_counted(tmp_path: Path) -> None:
    parcels = np.array(
        [shapely.box(2, 2, 12, 12), shapely.box(8, 8, 20, 20), shapely.box(0, 18, 10, 30), shapely.box(8, 25, 15, 30)]
    )
    codes = [1, 7, 1, 1]
    write_parcels(tmp_path / "parcels.gpkg", on_ground(parcels, UTM), UTM.crs, crop=codes)
    expected = by_points(UTM, on_ground(parcels, UTM), codes, UTM.crs)
    assert (expected[8:12, 8:12] == 0).all()
    assert (expected[25:30, 8:10] == 1).all(), "parcels of one class may overlap"
    for assign in ("centre", "area"):
        entry = {"vector": "parcels.gpkg", "classes": CLASSES, "assign": assign}
        with opened(tmp_path, UTM, **entry) as label:
            np.testing.assert_array_equal(label.read(), expected)
            counts = label.counts()
            assert counts.overlap_px == 4 * 4 + 2 * 2
            notes = label_notes(label.label, counts, scene_with(tmp_path, **entry))
        assert notes == ["scene s: parcels.gpkg: 20 pixels lie in features of different classes and are not labelled"]


def test_parcels_without_common_ground() -> None:
    parcels = np.array([shapely.box(0, 0, 4, 4), shapely.box(2, 2, 6, 6), shapely.box(3, 3, 5, 5), shapely.box(9, 0, 12, 3)])
    geometry, codes, common = without_common_ground(parcels, np.array([1, 1, 2, 2]))
    by_code = {code: shapely.union_all(geometry[codes == code]).area for code in (1, 2)}
    assert by_code == {1: 16 + 16 - 4 - 4, 2: 9}, "the third parcel lies in the first two as a whole"
    assert shapely.union_all(common).area == 4
    assert all(not shapely.overlaps(one, other) for one in geometry for other in geometry)


def test_pixels_near_the_edge_of_a_parcel_are_not_labelled(tmp_path: Path) -> None:
    for name, grid in GRIDS.items():
        folder = tmp_path / name
        folder.mkdir()
        parcels = random_parcels(grid, seed=1, number=9)
        codes = codes_for(parcels)
        ground = on_ground(parcels, grid)
        write_parcels(folder / "parcels.gpkg", ground, grid.crs, crop=codes)
        with opened(folder, grid, vector="parcels.gpkg", classes=CLASSES, inner_buffer_m=33.0) as label:
            found = label.read()
        metres = distance_m(grid, ground)
        expected = np.where(metres < 33, 0, by_points(grid, ground, codes, grid.crs))
        sure = np.abs(metres - 33) > 0.2
        assert sure.mean() > 0.97
        assert 0.05 < (expected > 0).mean() < 0.95
        np.testing.assert_array_equal(found[sure], expected[sure])


def distance_m(grid: Grid, ground: Any) -> np.ndarray:
    """Geodesic distance of the centre of each pixel to the nearest of densely spaced points of outlines, in metres (H, W)."""
    lines = shapely.segmentize(shapely.boundary(np.asarray(ground)), grid.pixel_side / 30)
    edge = geopandas.GeoSeries([shapely.MultiPoint(shapely.get_coordinates(lines))], crs=grid.crs).to_crs(4326)
    points = shapely.get_parts(edge.iloc[0])
    x, y = centres(grid, "EPSG:4326")
    squeeze = np.cos(np.radians(y.mean()))
    tree = shapely.STRtree(shapely.transform(points, lambda at: at * [squeeze, 1]))
    near = shapely.get_coordinates(points)[tree.nearest(shapely.points(x.ravel() * squeeze, y.ravel()))]
    metres: np.ndarray = Geod(ellps="WGS84").inv(x.ravel(), y.ravel(), near[:, 0], near[:, 1])[2].reshape(grid.shape)
    return metres


@pytest.mark.parametrize("outside", [None, "not_field"])
def test_boundaries_of_fields(tmp_path: Path, outside: str | None) -> None:
    """Neighbours have one boundary between them, holes have one, too; land outside has the stated name, or no label."""
    parcels = random_parcels(UTM, seed=2, number=12)
    ground = on_ground(parcels, UTM)
    write_parcels(tmp_path / "parcels.geojson", geopandas.GeoSeries(ground, crs=UTM.crs).to_crs(4326), 4326, anything=1.5)
    entry = {"vector": "parcels.geojson", "boundary_m": 60} | ({} if outside is None else {"outside": outside})
    with opened(tmp_path, UTM, **entry) as label:
        found, classes = label.read(), label.label.classes
        part = label.read(10, 8, 20, 30)
    assert classes == {1: "interior", 2: "boundary"} | ({} if outside is None else {3: outside})
    metres = distance_m(UTM, ground)
    inside = by_points(UTM, ground, [1] * len(ground), UTM.crs)
    expected = np.where(metres <= 30, 2, np.where(inside == 1, 1, 0 if outside is None else 3))
    sure = np.abs(metres - 30) > 0.5
    assert sure.mean() > 0.9
    assert (expected == 2).sum() > 100
    np.testing.assert_array_equal(found[sure], expected[sure])
    np.testing.assert_array_equal(part, found[10:30, 8:38])


def test_parcels_beyond_the_edge_have_boundaries_in_the_scene(tmp_path: Path) -> None:
    """Their outlines and inner buffers reach into the scene, as they do in the scene beside it."""
    grid = GRIDS["UTM south"]  # pixels of 10 m
    beyond = on_ground(np.array([shapely.box(-12, -5, -0.3, 60)]), grid)
    inside = on_ground(np.array([shapely.box(20, 10, 30, 20)]), grid)
    write_parcels(tmp_path / "a.gpkg", [*beyond, *inside], grid.crs)
    with opened(tmp_path, grid, vector="a.gpkg", boundary_m=20, outside="not_field") as label:
        names = np.array([label.label.classes.get(code, "") for code in range(5)])[label.read()]
        assert label.counts().outside == 1
    assert (names[:, 0] == "boundary").all(), "3 + 5 m from the outline"
    assert (names[:, 1] == "not_field").all()


def test_what_is_outside_of_parcels_and_parcels_of_its_class_are_one(tmp_path: Path) -> None:
    grid = GRIDS["UTM south"]
    parcels = on_ground(np.array([shapely.box(2, 2, 10.5, 10), shapely.box(20, 2, 30.4, 10)]), grid)
    write_parcels(tmp_path / "a.gpkg", parcels, grid.crs, crop=[5, 1])
    entry = {"column": "crop", "classes": {1: "maize", "*": "other"}, "outside": "other", "assign": "area", "least_share": 0.4}
    with opened(tmp_path, grid, vector="a.gpkg", **entry) as label:
        names = np.array([label.label.classes.get(code, "") for code in range(5)])[label.read()]
    assert (names[2:10, 10] == "other").all(), "half of the parcel, half outside of all"
    assert (names[2:10, 30] == "other").all(), "60 % of it"
    assert (names[2:10, 20:30] == "maize").all()


def test_boundaries_narrower_than_a_pixel_are_refused(tmp_path: Path) -> None:
    write_parcels(tmp_path / "parcels.gpkg", on_ground(random_parcels(UTM, 0), UTM), UTM.crs, crop=1)
    with pytest.raises(ValueError, match=r"boundary_m is 10, less than the side of a pixel, 30.* m, so that bound"):
        opened(tmp_path, UTM, vector="parcels.gpkg", boundary_m=10)


def test_ground_outside_of_parcels_gets_a_class_where_one_is_stated(tmp_path: Path) -> None:
    parcels = on_ground(random_parcels(UTM, seed=4, number=10), UTM)
    codes = codes_for(parcels)
    write_parcels(tmp_path / "parcels.gpkg", parcels, UTM.crs, crop=codes)
    with opened(tmp_path, UTM, vector="parcels.gpkg", classes=CLASSES, outside="not_cropland") as label:
        found = label.read()
        assert label.label.classes == CLASSES | {301: "not_cropland"}
    np.testing.assert_array_equal(np.where(found == 301, 0, found), by_points(UTM, parcels, codes, UTM.crs))
    assert (found != 0).all()


@pytest.mark.parametrize("assign", ["centre", "area"])
def test_years_of_a_column(tmp_path: Path, assign: str) -> None:
    parcels = on_ground(np.array([shapely.box(0, 0, 20, 20), shapely.box(10, 10, 30, 30), shapely.box(0, 0, 20, 20)]), UTM)
    columns = {"crop": [1, 7, 300], "season": ["2021", "2021", "2022"]}
    write_parcels(tmp_path / "parcels.gpkg", parcels, UTM.crs, **columns)
    entry = {"vector": "parcels.gpkg", "column": "crop", "classes": CLASSES, "year_column": "season", "assign": assign}
    with opened(tmp_path, UTM, **entry) as label:
        assert label.years == (2021, 2022)
        for year, some in ((2021, [0, 1]), (2022, [2]), (2023, [])):
            expected = by_points(UTM, parcels[some], np.array(columns["crop"])[some].tolist(), UTM.crs)
            np.testing.assert_array_equal(label.read(year=year), expected)
            assert label.counts(year).overlap_px == (100 if year == 2021 else 0)
    with opened(tmp_path, UTM, **entry, outside="not_cropland") as label:  # nobody says what the ground was in 2023
        assert [bool((label.read(year=year) == 301).any()) for year in (2021, 2022, 2023)] == [True, True, False]
        assert not label.read(year=2023).any()
    entry.pop("year_column")
    with opened(tmp_path, UTM, **entry, year=2021) as label:
        assert label.years == (2021,)
        assert not label.read(year=2022).any()
        assert label.read(year=2021).any()


def test_a_grid_that_is_turned(tmp_path: Path) -> None:
    grid = Grid(
        crs="EPSG:32631",
        transform=Affine.translation(5e5, 5e6) @ Affine.rotation(25) @ Affine.scale(10, -10),
        height=30,
        width=40,
    )
    parcels = on_ground(random_parcels(grid, seed=8), grid)
    codes = codes_for(parcels)
    write_parcels(tmp_path / "parcels.gpkg", parcels, grid.crs, crop=codes)
    with opened(tmp_path, grid, vector="parcels.gpkg", classes=CLASSES) as label:
        found = label.read()
    far = away_from_edges(grid, parcels, grid.crs)
    np.testing.assert_array_equal(found[far], by_points(grid, parcels, codes, grid.crs)[far])


@pytest.mark.parametrize("grid", ["EPSG:32760", "EPSG:4326"])
@pytest.mark.parametrize("longitudes", ["-180 to 180", "0 to 360"])
def test_parcels_on_both_sides_of_the_antimeridian(tmp_path: Path, grid: str, longitudes: str) -> None:
    """Parcels of Fiji; those across the meridian have coordinates that jump, or longitudes above 180."""
    if grid == "EPSG:4326":
        where = Grid(crs=grid, transform=Affine(3e-4, 0, 179.995, 0, -3e-4, -17), height=40, width=40)
    else:
        where = Grid(crs=grid, transform=Affine(30, 0, 818_600, 0, -30, 8_117_000), height=40, width=40)
    parcels = random_parcels(where, seed=6, number=8)
    codes = codes_for(parcels)
    ground = on_ground(parcels, where)
    lon_lat = geopandas.GeoSeries(ground, crs=grid).to_crs(4326).to_numpy()
    lon_lat = shapely.transform(lon_lat, lambda at: np.stack([(at[:, 0] + 360) % 360, at[:, 1]], 1))
    assert shapely.total_bounds(lon_lat)[0] < 180 < shapely.total_bounds(lon_lat)[2]
    if longitudes == "-180 to 180":
        lon_lat = shapely.transform(lon_lat, lambda at: np.stack([(at[:, 0] + 180) % 360 - 180, at[:, 1]], 1))
    write_parcels(tmp_path / "parcels.gpkg", lon_lat, 4326, crop=codes)
    with opened(tmp_path, where, vector="parcels.gpkg", classes=CLASSES) as label:
        found = label.read()
    far = away_from_edges(where, ground, grid)
    np.testing.assert_array_equal(found[far], by_points(where, ground, codes, grid)[far])
