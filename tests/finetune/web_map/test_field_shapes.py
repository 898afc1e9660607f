"""Polygons in a part of the map, against shapely."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

import finetune.web_map.field_shapes as field_shapes
from finetune.web_map.field_shapes import FieldShapes


def boxes() -> geopandas.GeoDataFrame:
    """Squares of growing size on a line, in UTM."""
    west = 500_000 + 1000 * np.arange(10)
    shapes = [shapely.box(x, 5_000_000, x + 50 * (n + 1), 5_000_000 + 50 * (n + 1)) for n, x in enumerate(west)]
    return geopandas.GeoDataFrame({"id": [str(n) for n in range(10)], "area": np.float32(1.5)}, geometry=shapes, crs="EPSG:32631")


@pytest.mark.parametrize("suffix", [".parquet", ".geojson"])
def test_the_polygons_of_a_box_are_given_in_degrees(tmp_path: Path, suffix: str) -> None:
    table = boxes()
    path = tmp_path / f"fields{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_crs("EPSG:4326").to_file(path, driver="GeoJSON")
    degrees = table.to_crs("EPSG:4326")
    west, south, east, north = degrees.geometry.iloc[3].bounds
    found = FieldShapes(path).inside(west - 1e-4, south, east + 0.0131, north)
    expected = degrees[degrees.intersects(shapely.box(west - 1e-4, south, east + 0.0131, north))]
    assert len(expected) == 2
    assert {feature["properties"]["id"] for feature in found["features"]} == set(expected["id"])
    assert found["left_out"] == 0
    by_id = {feature["properties"]["id"]: shapely.geometry.shape(feature["geometry"]) for feature in found["features"]}
    for name, geometry in zip(expected["id"], expected.geometry, strict=True):
        assert by_id[name].symmetric_difference(geometry).area < 1e-6 * geometry.area
    nothing = FieldShapes(path).inside(0, 0, 1, 1)
    assert nothing == {"type": "FeatureCollection", "features": [], "left_out": 0}


def test_fields_on_both_sides_of_the_antimeridian_lie_beside_each_other(tmp_path: Path) -> None:
    shapes = [shapely.box(179.98, -17, 179.99, -16.99), shapely.box(-179.99, -17, -179.98, -16.99)]
    geopandas.GeoDataFrame({"id": ["west", "east"]}, geometry=shapes, crs="EPSG:4326").to_parquet(tmp_path / "fields.parquet")
    for middle, places in ((180, (179.98, 180.01)), (-180, (-180.02, -179.99))):
        found = FieldShapes(tmp_path / "fields.parquet").inside(middle - 0.1, -18, middle + 0.1, -16)
        lefts = {f["properties"]["id"]: shapely.geometry.shape(f["geometry"]).bounds[0] for f in found["features"]}
        assert lefts == pytest.approx({"west": places[0], "east": places[1]})


def test_a_field_without_an_id(tmp_path: Path) -> None:
    table = boxes().head(2)
    table["id"] = ["a", None]
    table.to_crs("EPSG:4326").to_file(tmp_path / "fields.geojson", driver="GeoJSON")
    found = FieldShapes(tmp_path / "fields.geojson").inside(-180, -90, 180, 90)
    assert {feature["properties"]["id"] for feature in found["features"]} == {"a", None}


def test_of_too_many_the_largest_are_given_and_the_others_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_shapes, "MOST_SHAPES", 3)
    boxes().to_parquet(tmp_path / "fields.parquet")
    found = FieldShapes(tmp_path / "fields.parquet").inside(-180, -90, 180, 90)
    assert [feature["properties"]["id"] for feature in found["features"]] == ["9", "8", "7"]
    assert found["left_out"] == 7


def test_files_without_polygons_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fields.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read as polygons"):
        FieldShapes(tmp_path / "fields.parquet")
    table = boxes()
    table.set_crs(None, allow_override=True).to_parquet(tmp_path / "nowhere.parquet")
    with pytest.raises(ValueError, match="states no coordinate reference system"):
        FieldShapes(tmp_path / "nowhere.parquet")
    table.set_geometry(table.centroid).to_parquet(tmp_path / "points.parquet")
    with pytest.raises(ValueError, match="holds Point; expected polygons"):
        FieldShapes(tmp_path / "points.parquet")
