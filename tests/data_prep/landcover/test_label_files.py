"""Vector files in all their formats, and what is wrong with some of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from aiohttp import web

from common.errors import UNREACHABLE
from common.grid import Grid
from common.storage import any_path
from data_prep.landcover import label_files
from data_prep.landcover.label_opening import label_notes
from tests.support.parcels import GRIDS, away_from_edges, by_points, on_ground, opened, random_parcels, scene_with, write_parcels
from tests.support.web_server import web_server

UTM = GRIDS["UTM north"]
CLASSES = {1: "rice", 7: "wheat"}
ENTRY = {"column": "crop", "classes": CLASSES}


def patchwork(number: int = 15) -> tuple[np.ndarray, list[int]]:
    parcels = random_parcels(UTM, seed=11, number=number)
    return on_ground(parcels, UTM), [1 if at % 3 else 7 for at in range(len(parcels))]


@pytest.mark.parametrize("heights", [False, True])
@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson", "a.parquet", "a.fgb"])
def test_formats_and_heights(tmp_path: Path, name: str, heights: bool) -> None:
    parcels, codes = patchwork()
    expected = by_points(UTM, parcels, codes, UTM.crs)
    ground = geopandas.GeoSeries(parcels, crs=UTM.crs)
    if name.endswith("geojson"):
        ground = ground.segmentize(5).to_crs(4326)
    geometry = [shapely.force_3d(one, 12.5) for one in ground] if heights else list(ground)
    write_parcels(tmp_path / name, geometry, ground.crs, crop=codes, note=[None, *"x" * (len(codes) - 1)])
    with opened(tmp_path, UTM, vector=name, **ENTRY) as label:
        np.testing.assert_array_equal(label.read(), expected)
        assert label.label.files[0] == tmp_path / name
        assert len(label.label.files) == (5 if name.endswith("shp") else 1)
    with opened(tmp_path, UTM, path=name, **ENTRY) as label:  # the ending tells that it is no raster
        np.testing.assert_array_equal(label.read(), expected)


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.parquet"])
def test_files_at_a_url(tmp_path: Path, name: str) -> None:
    """The same labels, also of a scene at a URL; a server that refuses is the fault of the storage, not of the label."""
    parcels, codes = patchwork()
    write_parcels(tmp_path / "web" / name, parcels, UTM.crs, crop=codes)
    refused = False

    def answer(_: web.Request) -> None:
        if refused:
            raise web.HTTPForbidden

    with web_server() as serve:
        url = serve(tmp_path / "web", answer)
        with opened(tmp_path, UTM, vector=f"{url}/{name}", **ENTRY) as label:
            np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))
        with opened(any_path(url), UTM, vector=name, **ENTRY) as label:
            np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))
        with pytest.raises(ValueError, match=f"b{Path(name).suffix} does not exist"):
            opened(tmp_path, UTM, vector=f"{url}/b{Path(name).suffix}", **ENTRY)
        refused = True
        with pytest.raises(UNREACHABLE, match=f"{url}/a"):  # of one of its parts
            opened(tmp_path, UTM, vector=f"{url}/{name}", **ENTRY)


@pytest.mark.parametrize("name", ["a.gpkg", "a.parquet"])
def test_files_with_many_features_are_read_around_the_scene(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two features that are alike but for their class are both read, and their ground is not labelled."""
    monkeypatch.setattr(label_files, "READ_WHOLE", 3)
    parcels, codes = patchwork(60)
    parcels, codes = np.append(parcels, parcels[5]), [*codes, 8 - codes[5]]
    far = on_ground(np.array([shapely.box(4000, 4000, 4010, 4010)] * 7), UTM)
    table = geopandas.GeoDataFrame({"crop": [*codes, *[99] * 7]}, geometry=[*parcels, *far], crs=UTM.crs).to_crs(4326)
    if name == "a.gpkg":
        table.to_file(tmp_path / name)
    else:
        table.to_parquet(tmp_path / name, write_covering_bbox=True, schema_version="1.1.0")
    with opened(tmp_path, UTM, vector=name, **ENTRY) as label:
        found, counts = label.read(), label.counts()
    expected = by_points(UTM, parcels, codes, UTM.crs)
    assert (found != expected).mean() < 0.001  # straight edges in degrees
    assert counts.features == len(table)
    assert counts.overlap_px > 10


@pytest.mark.parametrize("covered", [False, True])
@pytest.mark.parametrize("west", [-8.0, 3.0, 179.997])
def test_alike_parcels_of_two_years_in_degrees(
    tmp_path: Path, west: float, covered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """West of Greenwich the longitudes of a scene may be those of a file from -180 or from 0 degrees on."""
    monkeypatch.setattr(label_files, "READ_WHOLE", 1)
    grid = Grid(crs="EPSG:4326", transform=Affine(3e-4, 0, west, 0, -3e-4, 40), height=20, width=20)
    squares = [shapely.box(west + 6e-4, 39.995, west + 24e-4, 39.999), shapely.box(west + 36e-4, 39.995, west + 54e-4, 39.999)]
    columns = {"crop": [1, 7, 7], "year": [2020, 2021, 2021]}
    table = geopandas.GeoDataFrame(columns, geometry=[squares[0], *squares], crs=4326, index=[5, 5, 6])
    table.to_parquet(tmp_path / "a.parquet", write_covering_bbox=covered, schema_version="1.1.0")
    with opened(tmp_path, grid, vector="a.parquet", year_column="year", **ENTRY) as label:
        for year, codes, objects in ((2020, [1], {1: 1}), (2021, [7, 7], {7: 2})):
            expected = by_points(grid, squares[: len(codes)], codes, grid.crs)
            np.testing.assert_array_equal(label.read(year=year), expected)
            counts = label.counts(year)
            assert (counts.features, counts.outside, dict(counts.objects)) == (3, 0, objects)


@pytest.mark.parametrize("name", ["a.gpkg", "a.parquet"])
def test_a_file_of_another_datum(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ED50 places are some hundred metres from those in WGS 84, more than a small scene's margin."""
    monkeypatch.setattr(label_files, "READ_WHOLE", 3)
    grid = Grid(crs="EPSG:32631", transform=Affine(10, 0, 500_040, 0, -10, 5_000_040), height=64, width=64)
    parcels = on_ground(random_parcels(grid, seed=3, number=30), grid)
    codes = [1 if at % 3 else 7 for at in range(len(parcels))]
    table = geopandas.GeoDataFrame({"crop": codes}, geometry=list(parcels), crs=grid.crs).segmentize(5)
    table = geopandas.GeoDataFrame({"crop": codes}, geometry=table, crs=grid.crs).to_crs("EPSG:4230")
    if name.endswith("gpkg"):
        table.to_file(tmp_path / name)
    else:
        table.to_parquet(tmp_path / name, write_covering_bbox=True, schema_version="1.1.0")
    with opened(tmp_path, grid, vector=name, **ENTRY) as label:
        found = label.read()
    expected, far = by_points(grid, parcels, codes, grid.crs), away_from_edges(grid, parcels, grid.crs, 0.05)
    np.testing.assert_array_equal(found[far], expected[far])
    assert (expected[:, [0, -1]] > 0).mean() > 0.5, "parcels lie at the edges"


def test_a_shapefile_in_capitals_is_all_of_its_parts(tmp_path: Path) -> None:
    parcels, codes = patchwork()
    write_parcels(tmp_path / "made" / "a.shp", parcels, UTM.crs, crop=codes)
    for part in (tmp_path / "made").iterdir():
        part.rename(tmp_path / part.name.upper())
    with opened(tmp_path, UTM, vector="A.SHP", **ENTRY) as label:
        np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))
        assert {path.name for path in label.label.files} >= {"A.SHP", "A.DBF", "A.SHX", "A.PRJ"}


def test_a_layer_is_named_where_there_are_several(tmp_path: Path) -> None:
    parcels, codes = patchwork()
    table = geopandas.GeoDataFrame({"crop": codes}, geometry=parcels, crs=UTM.crs)
    for layer in ("year_2020", "year_2021"):
        table.to_file(tmp_path / "a.gpkg", layer=layer)
        table["crop"] = 1
    with pytest.raises(ValueError, match=r"a\.gpkg has the layers year_2020, year_2021; name one with `layer`"):
        opened(tmp_path, UTM, vector="a.gpkg", **ENTRY)
    with pytest.raises(ValueError, match=r"has no layer 'year_2022'; it has year_2020, year_2021"):
        opened(tmp_path, UTM, vector="a.gpkg", layer="year_2022", **ENTRY)
    with opened(tmp_path, UTM, vector="a.gpkg", layer="year_2020", **ENTRY) as label:
        np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    """A bow tie is repaired; lines, features without geometry and those without a class are left out."""
    bow = shapely.Polygon([(2.3, 2), (8.3, 8), (8.3, 2), (2.3, 8)])
    square, apart = shapely.box(12, 12, 20, 20), shapely.box(-20, -20, -10, -10)
    geometry = [bow, square, None, shapely.LineString([(1, 1), (9, 30)]), apart, square, shapely.Polygon()]
    ground = [None if one is None else on_ground(one, UTM) for one in geometry]
    codes = [1, 7, 1, 1, 1, None, 7]
    write_parcels(tmp_path / "a.gpkg", ground, UTM.crs, crop=codes)
    with opened(tmp_path, UTM, vector="a.gpkg", **ENTRY) as label:
        found, counts = label.read(), label.counts()
    expected = by_points(UTM, [shapely.make_valid(ground[0]), ground[1]], [1, 7], UTM.crs)
    np.testing.assert_array_equal(found, expected)
    assert (found == 1).sum() >= 12, "both halves of the bow tie"
    assert label_notes(label.label, counts, scene_with(tmp_path, vector="a.gpkg", **ENTRY)) == [
        "scene s: a.gpkg: 1 of 7 features lie outside of the scene",
        "scene s: a.gpkg: features that are not used: 1 that are no polygons, 1 without a class, 2 without a geometry",
        "scene s: a.gpkg: the geometry of 1 features was invalid and has been repaired",
    ]


def without_crs(path: Path) -> None:
    parcels, codes = patchwork()
    write_parcels(path, parcels, None, crop=codes)


def other_place(path: Path) -> None:
    parcels, codes = patchwork()
    write_parcels(path, parcels, "EPSG:32633", crop=codes)


def empty(path: Path) -> None:
    pyogrio.write_dataframe(
        geopandas.GeoDataFrame({"crop": np.zeros(0, int)}, geometry=[], crs=UTM.crs), path, geometry_type="Polygon"
    )


def points(path: Path) -> None:
    write_parcels(path, on_ground(shapely.points(np.random.default_rng(0).uniform(0, 20, (9, 2))), UTM), UTM.crs, crop=1)


def cut(path: Path) -> None:
    parcels, codes = patchwork()
    write_parcels(path, parcels, UTM.crs, crop=codes)
    path.write_bytes(path.read_bytes()[:5_000])


def two_columns(path: Path) -> None:
    parcels, codes = patchwork()
    write_parcels(path, parcels, UTM.crs, crop=codes, owner="me")


@pytest.mark.parametrize(
    ("write", "change", "message"),
    [
        (without_crs, {}, r"a\.gpkg states no coordinate reference system; state the one it is in: `crs: EPSG:4326`"),
        (other_place, {}, r"none of the 14 features of .*a\.gpkg, which extend over .* in EPSG:32633, lies in the scene"),
        (two_columns, {"crs": "EPSG:32633"}, r"a\.gpkg states EPSG:32631, scene.yaml EPSG:32633; leave `crs` out"),
        (empty, {}, r"a\.gpkg holds no features"),
        (cut, {}, r"a\.gpkg cannot be read as a vector file"),
        (lambda _: None, {}, r"a\.gpkg does not exist"),
        (two_columns, {"column": None}, r"a\.gpkg has the columns crop, owner; name the one that holds the class with `column`"),
        (two_columns, {"column": "crops"}, r"a\.gpkg has no column 'crops'; it has crop, owner"),
        (two_columns, {"year_column": "year"}, r"a\.gpkg has no column 'year'; it has crop, owner"),
        (two_columns, {"year_column": "owner"}, r"column owner of .* holds 'me'; expected years such as 2021"),
        (two_columns, {"date_column": "owner"}, r"column owner of .* holds 'me'; expected dates such as 2021-06-15"),
        (two_columns, {"classes": {1: "rice"}}, r"do not name: '7' \(5\); name them, or .*: `\"\*\": other` or `\"\*\": null`"),
        (two_columns, {"classes": None}, r"column crop of .* holds numbers such as \d; say what they mean with `classes`"),
    ],
)
def test_mistakes(tmp_path: Path, write: Any, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.gpkg")
    entry = {key: value for key, value in ({"vector": "a.gpkg"} | ENTRY | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, UTM, **entry)


def test_a_file_of_points_has_no_parcels(tmp_path: Path) -> None:
    points(tmp_path / "a.gpkg")
    with pytest.raises(ValueError, match=r"a\.gpkg holds 9 features that are no polygons, and no others; name points"):
        opened(tmp_path, UTM, vector="a.gpkg", **ENTRY)


def test_a_crs_that_the_file_lacks_may_be_stated(tmp_path: Path) -> None:
    without_crs(tmp_path / "a.gpkg")
    parcels, codes = patchwork()
    with opened(tmp_path, UTM, vector="a.gpkg", crs="EPSG:32631", **ENTRY) as label:
        np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))


def test_geoparquet_without_a_crs_is_in_longitude_and_latitude(tmp_path: Path) -> None:
    """As the format says; one that states that its CRS is not known is refused."""
    parcels, codes = patchwork()
    ground = geopandas.GeoSeries(parcels, crs=UTM.crs).segmentize(5).to_crs("OGC:CRS84")
    write_parcels(tmp_path / "a.parquet", ground, ground.crs, crop=codes)
    table = pq.read_table(tmp_path / "a.parquet")
    for crs in ({}, {"crs": None}):
        geo = json.loads(table.schema.metadata[b"geo"])
        del geo["columns"]["geometry"]["crs"]
        geo["columns"]["geometry"] |= crs
        pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(geo).encode()}), tmp_path / "b.parquet")
        if crs:
            with pytest.raises(ValueError, match="states no coordinate reference system"):
                opened(tmp_path, UTM, vector="b.parquet", **ENTRY)
        else:
            with opened(tmp_path, UTM, vector="b.parquet", **ENTRY) as label:
                np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    parcels, codes = patchwork()
    for shift in (0, 1):
        codes = [codes[0], *[8 - code if shift else code for code in codes[1:]]]
        write_parcels(
            tmp_path / "a.geojson", geopandas.GeoSeries(parcels, crs=UTM.crs).segmentize(5).to_crs(4326), 4326, crop=codes
        )
        with opened(tmp_path, UTM, vector="a.geojson", **ENTRY) as label:
            np.testing.assert_array_equal(label.read(), by_points(UTM, parcels, codes, UTM.crs))
