"""Areas of classes on the ellipsoid, transitions, classes at points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from pyproj import Geod
from rasterio.warp import transform as reproject

from finetune.mapping import class_areas
from finetune.mapping.class_areas import check_comparable, classes_at, joint_areas, open_map
from finetune.mapping.cog import NO_DATA
from tests.support.class_maps import CRS, PLACE, write_map

WGS84 = Geod(ellps="WGS84")


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32631", Affine(10, 0, 300_000, 0, -10, 6_700_000)),
        ("EPSG:4326", Affine(0.001, 0, 8.0, 0, -0.001, 61.0)),
        ("EPSG:4326", Affine(0.001, 0, 179.93, 0, -0.001, -16.0)),
        ("EPSG:3857", Affine(30, 0, 900_000, 0, -30, 8_000_000)),
        ("EPSG:32760", Affine(30, 0, 818_000, 0, -30, 8_140_000)),  # across the antimeridian
    ],
)
def test_areas_are_those_on_the_ellipsoid(tmp_path: Path, crs: str, transform: Affine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixel by pixel on the ellipsoid: the sum of quadrangles of each class."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, (20, 100)).astype(np.uint8)
    classes[:, 70:] = 0
    classes[5:9, 40:60] = NO_DATA
    path = write_map(tmp_path / "map.tif", classes, crs, transform)
    monkeypatch.setattr(class_areas, "TILE_PX", 64)
    found = joint_areas([open_map(path)])
    expected = np.zeros(3)
    for row, col in np.ndindex(classes.shape):
        corners = [transform @ at for at in ((col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1))]
        lon, lat = reproject(crs, "EPSG:4326", *zip(*corners, strict=True))
        expected[min(classes[row, col], 2)] += abs(WGS84.polygon_area_perimeter(lon, lat)[0]) / 10_000
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_transitions(tmp_path: Path) -> None:
    before = np.array([[0, 0, 1, 1], [0, 1, NO_DATA, 1]], dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    after = np.array([[0, 1, 1, 0], [0, 1, 1, NO_DATA]], dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    maps = [open_map(write_map(tmp_path / f"{name}.tif", classes)) for name, classes in (("before", before), ("after", after))]
    check_comparable(maps)
    found = joint_areas(maps)
    np.testing.assert_allclose(found, 4 / 0.9996**2 * np.array([[2, 1, 0], [1, 2, 1], [0, 1, 0]]), rtol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), joint_areas(maps[:1]))
    np.testing.assert_allclose(found.sum(axis=0), joint_areas(maps[1:]))


def test_maps_that_cannot_be_compared(tmp_path: Path) -> None:
    classes = np.zeros((20, 20), np.uint8)
    first = open_map(write_map(tmp_path / "first.tif", classes))
    shifted = open_map(write_map(tmp_path / "shifted.tif", classes, CRS, PLACE @ Affine.translation(3, 0)))
    with pytest.raises(ValueError, match=r"do not have the same pixels; map the years together with --years"):
        check_comparable([first, shifted])
    with pytest.raises(ValueError, match="no map at"):
        open_map(tmp_path / "absent.tif")


def test_the_class_at_a_point_is_that_of_its_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    classes = rng.choice(np.array([0, 1, NO_DATA], np.uint8), (40, 50))
    one = open_map(write_map(tmp_path / "map.tif", classes))
    rows, cols = rng.uniform(-3, 43, 400), rng.uniform(-3, 53, 400)
    x, y = PLACE @ (cols, rows)
    lon, lat = (np.array(values) for values in reproject(CRS, "EPSG:4326", x, y))
    inside = (rows >= 0) & (rows < 40) & (cols >= 0) & (cols < 50)
    expected = np.where(inside, classes[np.clip(rows, 0, 39).astype(int), np.clip(cols, 0, 49).astype(int)], NO_DATA)
    np.testing.assert_array_equal(classes_at(one, lon, lat), np.where(expected == NO_DATA, -1, expected.astype(int)))
