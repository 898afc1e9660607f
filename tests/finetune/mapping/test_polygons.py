"""Fields as polygons: against a hand-drawn map, scipy's components, and geodesy on the ellipsoid."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.features import rasterize
from rasterio.warp import transform as reproject
from scipy import ndimage

from finetune.mapping.cog import NO_DATA
from finetune.mapping.outlines import class_outlines
from finetune.mapping.polygons import write_polygons
from tests.support.class_maps import PLACE, write_map

WGS84 = Geod(ellps="WGS84")


def test_hand_drawn_fields(tmp_path: Path) -> None:
    drawing = """
        ##....#
        ##...#.
        ..###..
        ..#.#..
        ..###..
    """
    classes = np.array([[character == "#" for character in line.strip()] for line in drawing.split()], dtype=np.uint8)
    table = write_polygons(write_map(tmp_path / "map.tif", classes), "paddy_rice", tmp_path / "fields.parquet")
    # Pixels that meet at a corner are apart: the square and the ring, the ring and a pixel, the two single pixels.
    # In a UTM zone's middle 10 m on the map are 10 / 0.9996 m on the ellipsoid.
    scale = 1 / 0.9996
    found = sorted(zip(table["area"] * 10_000, table["perimeter"], strict=True))
    expected = [(100, 40), (100, 40), (400, 80), (800, 120 + 40)]
    np.testing.assert_allclose([area for area, _ in found], [area * scale**2 for area, _ in expected], rtol=1e-4)
    np.testing.assert_allclose([length for _, length in found], [length * scale for _, length in expected], rtol=1e-4)
    ring = table.geometry[table["area"].idxmax()]
    assert len(ring.interiors) == 1


@pytest.mark.parametrize("seed", range(4))
def test_random_maps_against_components(tmp_path: Path, seed: int) -> None:
    """Every component is one polygon and covers its pixels, though the map was written in blocks of 16 px."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((70, 90)), seed / 2)
    classes = (smooth > 0).astype(np.uint8)
    classes[rng.random(classes.shape) < 0.02] = NO_DATA
    path = write_map(tmp_path / "map.tif", classes)
    polygons = class_outlines(path, 1)
    components, count = ndimage.label(classes == 1)  # 4-connected
    assert len(polygons) == count
    assert shapely.is_valid(polygons).all()
    burnt = rasterize(
        ((polygon, number) for number, polygon in enumerate(polygons, 1)),
        classes.shape,
        transform=PLACE,
        dtype="int32",
    )
    pairs = np.unique(np.stack([burnt.ravel(), components.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1  # one to one, and nothing with nothing
    np.testing.assert_allclose(shapely.area(polygons), 100 * np.bincount(burnt.ravel())[1:])


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32631", Affine(10, 0, 300_000, 0, -10, 6_700_000)),  # 60 degrees north, off the central meridian
        ("EPSG:32733", Affine(30, 0, 600_000, 0, -30, 7_000_000)),  # 27 degrees south
        ("EPSG:4326", Affine(0.0003, 0, 8.0, 0, -0.0003, 51.0)),
        ("EPSG:3857", Affine(30, 0, 900_000, 0, -30, 8_000_000)),  # Web Mercator, where areas are four times too large here
    ],
)
def test_areas_and_perimeters_are_those_on_the_ellipsoid(tmp_path: Path, crs: str, transform: Affine) -> None:
    rng = np.random.default_rng(1)
    classes = (ndimage.gaussian_filter(rng.standard_normal((60, 60)), 3) > 0).astype(np.uint8)
    table = write_polygons(write_map(tmp_path / "map.tif", classes, crs, transform), "paddy_rice", tmp_path / "fields.parquet")
    assert table.crs == "EPSG:4326"
    for geometry, area, perimeter in zip(table.geometry, table["area"], table["perimeter"], strict=True):
        exact, _ = WGS84.geometry_area_perimeter(shapely.geometry.polygon.orient(geometry))
        assert area * 10_000 == pytest.approx(exact, rel=1e-5)
        rings = [geometry.exterior, *geometry.interiors]
        assert perimeter == pytest.approx(sum(WGS84.geometry_length(ring) for ring in rings), rel=1e-6)


def test_fields_across_the_antimeridian(tmp_path: Path) -> None:
    """A map of Taveuni, through which the antimeridian runs, against the same map moved away from it."""
    classes = (ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((60, 60)), 3) > 0).astype(np.uint8)
    (x,), (y,) = reproject("EPSG:4326", "EPSG:32760", [180.0], [-16.8])
    tables = {}
    for name, east in (("across", -900), ("beside", -60_900)):
        place = Affine(30, 0, round(x) + east, 0, -30, round(y) + 900)
        path = write_map(tmp_path / f"{name}.tif", classes, "EPSG:32760", place)
        tables[name] = write_polygons(path, "paddy_rice", tmp_path / f"{name}.parquet")
    across, beside = tables["across"], geopandas.read_parquet(tmp_path / "beside.parquet")
    cut = across.geometry.geom_type == "MultiPolygon"
    assert 0 < cut.sum() < len(across) == len(beside)
    np.testing.assert_allclose(across["area"], beside["area"], rtol=5e-3)  # the scale of UTM differs in 60 km
    np.testing.assert_allclose(across["perimeter"], beside["perimeter"], rtol=5e-3)
    for geometry, area in zip(across.geometry, across["area"], strict=True):
        parts = shapely.get_parts(geometry)
        assert sum(WGS84.geometry_area_perimeter(part)[0] for part in parts) == pytest.approx(area * 10_000, rel=2e-5)
        assert all(east - west < 0.1 for west, _, east, _ in shapely.bounds(parts))
        assert geometry.is_valid


@pytest.mark.parametrize("west", [179.99, 180.5, -180.001, 539.99])
def test_longitudes_of_a_map_in_degrees_go_on_beyond_180(tmp_path: Path, west: float) -> None:
    """Against the same map elsewhere on its parallel."""
    classes = (ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((60, 60)), 3) > 0).astype(np.uint8)
    tables = []
    for name, edge in (("there", west), ("elsewhere", 10.0)):
        path = write_map(tmp_path / f"{name}.tif", classes, "EPSG:4326", Affine(3e-4, 0, edge, 0, -3e-4, -16.8))
        write_polygons(path, "paddy_rice", tmp_path / f"{name}.parquet")
        tables.append(geopandas.read_parquet(tmp_path / f"{name}.parquet"))
    there, elsewhere = tables
    np.testing.assert_allclose(there["area"], elsewhere["area"], rtol=1e-5)
    np.testing.assert_allclose(there["perimeter"], elsewhere["perimeter"], rtol=1e-5)
    for geometry, moved in zip(there.geometry, elsewhere.geometry, strict=True):
        parts = shapely.get_parts(geometry)
        assert (np.abs(shapely.get_coordinates(geometry)[:, 0]) <= 180).all()
        assert sum(part.area for part in parts) == pytest.approx(moved.area, rel=1e-6)
        assert all(east - west < 0.02 for west, _, east, _ in shapely.bounds(parts))


def test_the_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    classes = (np.random.default_rng(0).random((50, 50)) < 0.5).astype(np.uint8)
    for name, block in (("one", 16), ("other", 50)):
        write_polygons(write_map(tmp_path / f"{name}.tif", classes, block=block), "paddy_rice", tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_no_field_is_a_table_without_rows(tmp_path: Path) -> None:
    write_polygons(write_map(tmp_path / "map.tif", np.full((20, 20), NO_DATA)), "paddy_rice", tmp_path / "fields.parquet")
    assert len(geopandas.read_parquet(tmp_path / "fields.parquet")) == 0
