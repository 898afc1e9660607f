"""Labels of points on grids of four CRSs, compared with a look at each point."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from common.grid import Grid
from data_prep.landcover.label_opening import label_notes
from tests.support.parcels import GRIDS, on_ground, opened, scene_with, write_parcels

CLASSES = {1: "rice", 2: "wheat", 30: "maize"}
UTM = GRIDS["UTM north"]


def some_points(grid: Grid, number: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows (n, 2), some outside of the grid, and codes (n,)."""
    rng = np.random.default_rng(0)
    return rng.uniform((-4, -4), (grid.width + 4, grid.height + 4), (number, 2)), rng.choice(list(CLASSES), number)


def by_squares(grid: Grid, at: np.ndarray, codes: np.ndarray, square: int) -> tuple[np.ndarray, int]:
    """The label, and the number of pixels in which points of different classes lie."""
    found: dict[tuple[int, int], set[int]] = {}
    for (x, y), code in zip(at, codes, strict=True):
        for row in range(int(np.floor(y)) - square // 2, int(np.floor(y)) + square // 2 + 1):
            for col in range(int(np.floor(x)) - square // 2, int(np.floor(x)) + square // 2 + 1):
                if 0 <= row < grid.height and 0 <= col < grid.width:
                    found.setdefault((row, col), set()).add(code)
    label = np.zeros(grid.shape, int)
    for (row, col), there in found.items():
        label[row, col] = there.pop() if len(there) == 1 else 0
    return label, sum(len(there) > 0 for there in found.values())


@pytest.mark.parametrize("square", [1, 3, 5])
@pytest.mark.parametrize("name", list(GRIDS))
def test_points_label_squares_of_pixels(tmp_path: Path, name: str, square: int) -> None:
    grid = GRIDS[name]
    at, codes = some_points(grid)
    ground = geopandas.GeoSeries(on_ground(shapely.points(at), grid), crs=grid.crs).to_crs(4326)
    write_parcels(tmp_path / "plots.geojson", ground, 4326, crop=codes, visitor=["a"] * len(codes))
    entry = {"points": "plots.geojson", "column": "crop", "classes": CLASSES, "square_px": square}
    with opened(tmp_path, grid, **entry) as label:
        found, counts = label.read(), label.counts()
        part = label.read(7, 11, 12, 9)
    inside = ((at >= 0) & (at < grid.shape[::-1])).all(axis=1)
    expected, overlaps = by_squares(grid, at, codes, square)  # squares reach into the scene from beyond its edge, too
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(part, expected[7:19, 11:20])
    assert counts.overlap_px == overlaps
    assert (overlaps > 0) == (square > 1 or overlaps > 0)
    assert (counts.outside, sum(counts.objects.values())) == ((~inside).sum(), inside.sum())
    notes = label_notes(label.label, counts, scene_with(tmp_path, **entry))
    assert f"scene s: plots.geojson: {(~inside).sum()} of 300 features lie outside of the scene" in notes


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_coordinates(tmp_path: Path, ending: str) -> None:
    """Codes with leading zeros stay texts; a row without coordinates is counted."""
    at, _ = some_points(UTM, 50)
    ground = shapely.get_coordinates(on_ground(shapely.points(at), UTM))
    codes = np.where(np.arange(50) % 2, "01", "1")
    x = [*ground[:, 0].tolist(), None]
    table = pa.table({"easting": x, "northing": [*ground[:, 1].tolist(), 5e6], "crop": [*codes.tolist(), "1"]})
    if ending == "csv":
        rows = [f"{x},{y},{crop}" for x, y, crop in zip(*table.to_pydict().values(), strict=True)]
        (tmp_path / "plots.csv").write_text("\n".join(["easting,northing,crop", *rows]).replace("None", "") + "\n")
    else:
        pq.write_table(table, tmp_path / "plots.parquet")
    entry = {"points": f"plots.{ending}", "x_column": "easting", "y_column": "northing", "crs": "EPSG:32631"}
    entry |= {"classes": {"1": "rice", "01": "wheat"}}
    with opened(tmp_path, UTM, **entry) as label:
        found, counts = label.read(), label.counts()
        assert label.label.classes == {1: "rice", 2: "wheat"}
    inside = ((at >= 0) & (at < UTM.shape[::-1])).all(axis=1)
    np.testing.assert_array_equal(found, by_squares(UTM, at[inside], np.where(codes == "1", 1, 2)[inside], 1)[0])
    assert counts.left_out == {"without a geometry": 1}


def test_dates_of_points_belong_to_seasons(tmp_path: Path) -> None:
    """A season from October to July: November counts to the next year; September, after the harvest, to its own."""
    at = np.array([[2.5, 2.5], [4.5, 2.5], [6.5, 2.5], [8.5, 2.5]])
    dates = ["2020-11-20", "2021-06-15T10:00:00", "2021-09-01", None]
    ground = on_ground(shapely.points(at), UTM)
    write_parcels(tmp_path / "plots.gpkg", ground, UTM.crs, crop=[1, 2, 30, 1], visited=dates)
    entry = {"points": "plots.gpkg", "column": "crop", "classes": CLASSES, "date_column": "visited"}
    for begin, years, labelled in (((10, 1), (2021,), [[1, 2, 30]]), (None, (2020, 2021), [[1], [2, 30]])):
        with opened(tmp_path, UTM, season_begin=begin, **entry) as label:
            assert label.years == years
            assert label.counts().left_out == {"without a year": 1}
            for year, codes in zip(years, labelled, strict=True):
                found = label.read(year=year)
                assert found[found != 0].tolist() == codes


def test_squares_around_points_beyond_the_edge(tmp_path: Path) -> None:
    grid = GRIDS["UTM south"]
    places = on_ground(np.array([shapely.Point(-0.2, 5.5), shapely.Point(-1.2, 20.5)]), grid)
    inside = on_ground(np.array([shapely.Point(10.5, 10.5)]), grid)
    write_parcels(tmp_path / "a.gpkg", [*places, *inside], grid.crs, crop=["a", "a", "b"])
    with opened(tmp_path, grid, points="a.gpkg", column="crop", square_px=3) as label:
        found = label.read()
    expected = np.zeros(grid.shape, int)
    code = {name: code for code, name in label.label.classes.items()}
    expected[4:7, 0], expected[9:12, 9:12] = code["a"], code["b"]
    np.testing.assert_array_equal(found, expected)


def test_several_points_in_one_feature(tmp_path: Path) -> None:
    at = np.array([[1.5, 1.5], [7.5, 1.5], [3.5, 9.5]])
    geometry = [shapely.MultiPoint(at[:2]), shapely.Point(at[2])]
    write_parcels(tmp_path / "plots.gpkg", on_ground(np.array(geometry), UTM), UTM.crs, crop=[1, 2])
    with opened(tmp_path, UTM, points="plots.gpkg", classes=CLASSES) as label:
        np.testing.assert_array_equal(label.read(), by_squares(UTM, at, np.array([1, 1, 2]), 1)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": None}, r"states no coordinate reference system; state the one it is in: `crs: EPSG:4326`"),
        ({"crs": "EPSG:4326"}, r"coordinates from \(500[\d.]+, .*EPSG:4326 has longitudes and latitudes: are they in another"),
        ({"x_column": "lon"}, r"has no column 'lon'; it has easting, northing, crop, farm"),
        ({"column": "kind"}, r"has no column 'kind'; it has easting, northing, crop, farm"),
        ({"x_column": "farm"}, r"column farm of .*plots.csv holds no numbers"),
        ({"crs": "EPSG:32633"}, r"none of the 20 features of .*plots.csv.* lies in the scene .*reference system wrong\?"),
        (
            {"classes": {2: "wheat"}},
            r"holds codes that `classes` do not name: '1' \(20\); name them, or give all others one name",
        ),
    ],
)
def test_mistakes_in_tables(tmp_path: Path, change: dict[str, object], message: str) -> None:
    at = np.random.default_rng(0).uniform(1, 30, (20, 2))
    rows = [f"{x},{y},1,here" for x, y in shapely.get_coordinates(on_ground(shapely.points(at), UTM))]
    (tmp_path / "plots.csv").write_text("\n".join(["easting,northing,crop,farm", *rows]) + "\n")
    entry = {"points": "plots.csv", "x_column": "easting", "y_column": "northing", "crs": "EPSG:32631", "column": "crop"}
    entry = {key: value for key, value in (entry | {"classes": CLASSES} | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, UTM, **entry)
