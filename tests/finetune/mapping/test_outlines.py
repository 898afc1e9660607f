"""Outlines: growth onto boundaries, simplification with common sides, windows that leave no trace."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize
from scipy import ndimage

from common.grid import Grid
from finetune.mapping import outlines
from finetune.mapping.cog import NO_DATA, write_classes
from finetune.mapping.outlines import PolygonOptions, class_outlines, grow
from finetune.mapping.polygons import write_polygons
from finetune.mapping.tiling import Block
from finetune.task import load_task
from tests.support.class_maps import CRS, PLACE

BACKGROUND, INTERIOR, BOUNDARY = range(3)


def write_fields(path: Path, classes: np.ndarray, crs: str = CRS, transform: Affine = PLACE) -> Path:
    """A map of the task field_boundary."""
    grid = Grid(crs=crs, transform=transform, height=classes.shape[0], width=classes.shape[1])
    tags = {"task": "field_boundary", "scene": "a", "last_image": "2021-10-28"}
    blocks = [(Block(0, 0, *classes.shape), classes.astype(np.uint8))]
    write_classes(path, path.parent, grid, load_task("field_boundary"), blocks, tags)
    return path


def made_up_fields(seed: int, side: int = 120, width: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Fields as the cells of a Voronoi diagram: classes with boundaries `width` px wide, and the cells int (H, W)."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, side, (25, 2))
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1)
    cells = ((at[:, :, None] - seeds) ** 2).sum(axis=-1).argmin(axis=-1)
    edge = ndimage.maximum_filter(cells, width) != ndimage.minimum_filter(cells, width)
    classes = np.where(edge, BOUNDARY, INTERIOR)
    classes[:6] = BACKGROUND
    classes[60:64, 60:64] = NO_DATA
    return classes.astype(np.uint8), cells


def numbered(polygons: list[shapely.Polygon], shape: tuple[int, int], transform: Affine = PLACE) -> np.ndarray:
    """Number of the polygon that holds the centre of each pixel, from 1 on."""
    return np.asarray(
        rasterize(zip(polygons, range(1, len(polygons) + 1), strict=True), shape, transform=transform, dtype="int32")
    )


@pytest.mark.parametrize("window", [1024, 32])
@pytest.mark.parametrize("seed", range(2))
def test_fields_meet_where_the_boundary_was_and_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, window: int
) -> None:
    monkeypatch.setattr(outlines, "WINDOW_PX", window)
    classes, _ = made_up_fields(seed)
    path = write_fields(tmp_path / "map.tif", classes)
    plain = class_outlines(path, INTERIOR)
    grown = class_outlines(path, INTERIOR, BOUNDARY, PolygonOptions(boundary_px=4))
    assert len(grown) == len(plain) > 15
    before, after = numbered(plain, classes.shape), numbered(grown, classes.shape)
    components, count = ndimage.label(classes == INTERIOR)
    assert count == len(plain)
    pairs = np.unique(np.stack([after[components > 0], components[components > 0]]), axis=1)
    assert pairs.shape[1] == count, "each field is one polygon, and no polygon holds two"
    assert ((after > 0) <= (classes == INTERIOR) | (classes == BOUNDARY)).all(), "background and no data are never taken"
    # Each pixel of the boundary near a field belongs to a field that is as near as any other, by steps over the boundary.
    near = np.where(classes == INTERIOR, 0, 99)
    for _ in range(4):
        around = ndimage.minimum_filter(near, footprint=ndimage.generate_binary_structure(2, 1), mode="constant", cval=99) + 1
        near = np.where(classes == BOUNDARY, np.minimum(near, around), near)
    np.testing.assert_array_equal(after > 0, near <= 4)
    assert (before > 0).sum() < (after > 0).sum()
    assert shapely.coverage_is_valid(np.array(grown)) or shapely.area(shapely.intersection(grown[0], grown[1])) == 0
    assert sum(shapely.area(grown)) == pytest.approx(shapely.union_all(grown).area)


def test_windows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fields(tmp_path / "map.tif", made_up_fields(3)[0])
    options = PolygonOptions(boundary_px=5, simplify_m=25)
    whole = class_outlines(path, INTERIOR, BOUNDARY, options)
    monkeypatch.setattr(outlines, "WINDOW_PX", 17)
    parts = class_outlines(path, INTERIOR, BOUNDARY, options)
    assert shapely.equals_exact(whole, parts, tolerance=0).all()


def test_growth_by_hand() -> None:
    labels = np.array([[1, 0, 0, 0, 2], [0, 0, 0, 0, 0]], dtype=np.int32)
    allowed = np.array([[0, 1, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(grow(labels, allowed, 1), [[1, 1, 0, 2, 2], [0, 0, 0, 0, 2]])
    np.testing.assert_array_equal(grow(labels, allowed, 9), [[1, 1, 1, 2, 2], [0, 0, 0, 0, 2]])


@pytest.mark.parametrize("simplify_m", [15, 60])
def test_simplified_neighbours_keep_their_common_side(tmp_path: Path, simplify_m: float) -> None:
    classes, _ = made_up_fields(1, width=3)
    path = write_fields(tmp_path / "map.tif", classes)
    exact = class_outlines(path, INTERIOR, BOUNDARY, PolygonOptions())
    found = class_outlines(path, INTERIOR, BOUNDARY, PolygonOptions(simplify_m=simplify_m))
    assert len(found) == len(exact)
    assert shapely.is_valid(found).all()
    assert sum(shapely.get_num_coordinates(found)) < 0.5 * sum(shapely.get_num_coordinates(exact))
    assert shapely.coverage_is_valid(np.array(found)), "no gap and no overlap between neighbours"
    # All together they cover nearly the same, and so does each of them.
    union, before = shapely.union_all(found), shapely.union_all(exact)
    assert union.symmetric_difference(before).area < 0.05 * before.area
    for one, other in zip(found, exact, strict=True):
        distance = shapely.hausdorff_distance(one, other)
        assert distance <= 4 * simplify_m, (distance, other.area)


def test_nothing_is_simplified_below_the_size_of_a_step(tmp_path: Path) -> None:
    """The triangle at a step of one pixel has half the area of the pixel: 7 m of 10 m keep it, 8 m do not."""
    classes = np.full((40, 40), BACKGROUND)
    classes[np.tri(40, dtype=bool)] = INTERIOR
    path = write_fields(tmp_path / "map.tif", classes)
    (steps,) = class_outlines(path, INTERIOR)
    (kept,) = class_outlines(path, INTERIOR, None, PolygonOptions(simplify_m=7))
    (smooth,) = class_outlines(path, INTERIOR, None, PolygonOptions(simplify_m=8))
    assert shapely.equals(kept, steps)
    assert shapely.get_num_coordinates(smooth) < 10


def test_simplification_is_in_metres_on_the_ground(tmp_path: Path) -> None:
    """The same map in Web Mercator at 60 degrees north, where 20 units are 10 m."""
    classes, _ = made_up_fields(2)
    utm = write_fields(tmp_path / "utm.tif", classes)
    mercator = write_fields(tmp_path / "mercator.tif", classes, "EPSG:3857", Affine(20, 0, 900_000, 0, -20, 8_399_700))
    options = PolygonOptions(simplify_m=30)
    one, other = (class_outlines(path, INTERIOR, BOUNDARY, options) for path in (utm, mercator))
    counts = [[shapely.get_num_coordinates(polygon) for polygon in polygons] for polygons in (one, other)]
    assert np.abs(np.subtract(*counts)).mean() < 0.5


def test_the_table_of_grown_fields(tmp_path: Path) -> None:
    """Two fields that a wide boundary separates, after growth: areas add up to all of it."""
    classes = np.full((40, 40), BOUNDARY)
    classes[2:38, 2:18], classes[2:38, 22:38] = INTERIOR, INTERIOR
    path = write_fields(tmp_path / "map.tif", classes)
    options = PolygonOptions(boundary="boundary", boundary_px=4, min_area_ha=1)
    table = write_polygons(path, "interior", tmp_path / "fields.parquet", options)
    assert len(geopandas.read_parquet(tmp_path / "fields.parquet")) == 2
    assert table["area"].sum() * 10_000 == pytest.approx(40 * 40 * 100 / 0.9996**2, rel=1e-4)
    assert table["area"].iloc[0] == pytest.approx(table["area"].iloc[1], rel=1e-4)
    with pytest.raises(
        ValueError, match="boundary is 'interior'; expected one of the other classes of the map: background, boundary"
    ):
        write_polygons(path, "interior", tmp_path / "fields.parquet", PolygonOptions(boundary="interior"))
    with pytest.raises(ValueError, match="boundary_px is 0"):
        PolygonOptions(boundary_px=0)


def test_no_field_at_all(tmp_path: Path) -> None:
    path = write_fields(tmp_path / "map.tif", np.full((20, 20), BOUNDARY))
    assert class_outlines(path, INTERIOR, BOUNDARY, PolygonOptions(simplify_m=10)) == []
    with rasterio.open(path) as raster:
        assert (raster.read(1) == BOUNDARY).all()
