"""Fields as polygons: against a hand-drawn map, scipy's components, and geodesy on the ellipsoid."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.features import rasterize
from scipy import ndimage

from common.command_line import run_command
from common.grid import Grid
from finetune.fields import fields, outlines, write_fields
from finetune.mapping.cog import NO_DATA, write_classes
from finetune.mapping.tiling import Mosaic
from finetune.task import load_task

WGS84 = Geod(ellps="WGS84")
TAGS = {"task": "paddy_rice", "scene": "delta_2021", "last_image": "2021-10-28"}
CRS, PLACE = "EPSG:32631", Affine(10, 0, 500_000, 0, -10, 5_000_000)  # at the zone's central meridian, 45 degrees north


def write_map(
    path: Path,
    classes: np.ndarray,
    crs: str = CRS,
    transform: Affine = PLACE,
    block: int = 16,
) -> Path:
    """A map with classes other (0) and paddy_rice (1), written in blocks of 16 px."""
    height, width = classes.shape
    mosaic = Mosaic(height=height, width=width, window=16, stride=16, step=1, block=block)
    blocks = [(b, classes[b.row : b.row + b.height, b.col : b.col + b.width].astype(np.uint8)) for b in mosaic.blocks]
    write_classes(
        path, path.parent, Grid(crs=crs, transform=transform, height=height, width=width), load_task("paddy_rice"), blocks, TAGS
    )
    return path


def test_hand_drawn_fields(tmp_path: Path) -> None:
    drawing = """
        ##....#
        ##...#.
        ..###..
        ..#.#..
        ..###..
    """
    classes = np.array([[character == "#" for character in line.strip()] for line in drawing.split()], dtype=np.uint8)
    table = write_fields(write_map(tmp_path / "map.tif", classes), "paddy_rice", tmp_path / "fields.parquet")
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
    polygons = list(outlines(path, 1))
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
    table = write_fields(write_map(tmp_path / "map.tif", classes, crs, transform), "paddy_rice", tmp_path / "fields.parquet")
    assert table.crs == "EPSG:4326"
    for geometry, area, perimeter in zip(table.geometry, table["area"], table["perimeter"], strict=True):
        exact, _ = WGS84.geometry_area_perimeter(shapely.geometry.polygon.orient(geometry))
        assert area * 10_000 == pytest.approx(exact, rel=1e-5)
        rings = [geometry.exterior, *geometry.interiors]
        assert perimeter == pytest.approx(sum(WGS84.geometry_length(ring) for ring in rings), rel=1e-6)


def test_file_is_geoparquet_with_the_names_of_fiboa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[2:30, 2:30] = 1
    classes[35, 35] = 1
    write_map(tmp_path / "map.tif", classes)
    fields(tmp_path / "map.tif", "paddy_rice", tmp_path / "new" / "fields.parquet", min_area_ha=0.05)
    assert "1 of 2 areas are smaller than 0.05 ha and left out" in capsys.readouterr().out
    schema = pq.read_schema(tmp_path / "new" / "fields.parquet")
    types = {field.name: field.type for field in schema}
    text = {pa.string(), pa.large_string()}
    assert types["id"] in text
    assert types["determination_method"] in text
    assert types["determination_datetime"] == pa.timestamp("ms", tz="UTC")
    assert (types["area"], types["perimeter"]) == (pa.float32(), pa.float32())
    determination = {"determination_datetime", "determination_method", "determination_details"}
    assert set(types) == {"id", "geometry", "area", "perimeter", "collection"} | determination
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    assert json.loads(schema.metadata[b"fiboa"])["fiboa_version"] == "0.2.0"
    (row,) = geopandas.read_parquet(tmp_path / "new" / "fields.parquet").to_dict("records")
    assert (row["id"], row["determination_method"], row["collection"]) == ("1", "auto-imagery", "delta_2021")
    assert row["determination_datetime"].isoformat() == "2021-10-28T00:00:00+00:00"
    assert row["area"] == pytest.approx(28 * 28 / 100 / 0.9996**2, rel=1e-4)


def test_the_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    classes = (np.random.default_rng(0).random((50, 50)) < 0.5).astype(np.uint8)
    for name, block in (("one", 16), ("other", 50)):
        write_fields(write_map(tmp_path / f"{name}.tif", classes, block=block), "paddy_rice", tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_no_field_is_a_table_without_rows(tmp_path: Path) -> None:
    write_fields(write_map(tmp_path / "map.tif", np.full((20, 20), NO_DATA)), "paddy_rice", tmp_path / "fields.parquet")
    assert len(geopandas.read_parquet(tmp_path / "fields.parquet")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class_name", "rice_paddy"], "the map has no class 'rice_paddy', did you mean paddy_rice? it has other, paddy_rice"),
        (["--map", "nowhere.tif"], "no map at nowhere.tif"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    path = write_map(tmp_path / "map.tif", np.ones((20, 20)))
    known = ["--map", str(path), "--class_name", "paddy_rice", "--output", str(tmp_path / "fields.parquet")]
    with pytest.raises(SystemExit) as stopped:
        run_command(fields, [*known, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "fields.parquet").exists()
