"""Land-cover maps of samples, against maps indexed point by point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from common.grid import Grid
from data_prep.landcover.base import SampleWindow
from data_prep.landcover.maps import LandCoverMap
from data_prep.landcover.sample_map import MapLayout, check_number_of_codes, counts_and_map, map_layout
from tests.data_prep.landcover.test_maps import LEGEND, UTM, corner_of, indexed, open_map, patches
from tests.support.archives import CRS, NORTH, WEST
from tests.support.land_cover_maps import write_map
from tests.support.series import SENSORS

MODIS = Grid(crs="ESRI:54008", transform=Affine(463.3127, 0, 250_000, 0, -463.3127, 5_010_000), height=8, width=8)


def read(land_cover: LandCoverMap, source: str, grid: Grid, layout: MapLayout | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Counts and map of a sample that is the whole grid."""
    window = SampleWindow(source=source, file=None, grid=grid, row=0, col=0, size=grid.height, year=2021)
    with land_cover:
        sensor = replace(SENSORS[source], chip_px=grid.height)
        counts, found = counts_and_map(land_cover, LEGEND, layout or map_layout(sensor, LEGEND), window, None)
    assert found is not None
    return counts, found


@pytest.mark.parametrize("gsd", [10, 30])
def test_codes_are_those_at_the_centres_of_pixels(tmp_path: Path, gsd: int) -> None:
    grid = replace(UTM, transform=Affine(gsd, 0, WEST, 0, -gsd, NORTH))
    corner, codes = corner_of(grid), patches(np.random.default_rng(0), 400)
    codes[:20] = 0
    write_map(tmp_path / "map.tif", codes[None], corner)
    _, found = read(open_map(tmp_path / "map.tif"), {10: "sentinel2", 30: "landsat"}[gsd], grid)
    expected = indexed(grid, codes, corner)
    assert (found.dtype, found.shape) == (np.uint8, (64, 64))
    as_codes = np.where(found == 255, 0, np.array([*LEGEND.codes, *[0] * 221])[found])
    assert (as_codes == expected).mean() > 0.99  # GDAL's warping is exact to an eighth of a pixel


def test_counts_of_coarse_pixels_are_those_of_the_footprint_and_near_the_shares_of_each_pixel(tmp_path: Path) -> None:
    corner, codes = corner_of(MODIS), patches(np.random.default_rng(0), 400)
    codes[:, :30] = 0
    write_map(tmp_path / "map.tif", codes[None], corner)
    counts, found = read(open_map(tmp_path / "map.tif"), "modis", MODIS)
    assert (found.dtype, found.shape) == (np.uint16, (len(LEGEND.codes), 8, 8))
    np.testing.assert_array_equal(found.sum(axis=(1, 2)), counts)
    cells = (463.3127 / 27.8) ** 2 / np.cos(np.radians(45.1))  # of a map of 0.00025 degrees in a pixel
    full = found.sum(axis=0)[:, 4:]
    assert full.min() > 0.85 * cells
    assert full.max() < 1.15 * cells
    dense = replace(MODIS, transform=MODIS.transform @ Affine.scale(1 / 48), height=8 * 48, width=8 * 48)
    points = indexed(dense, codes, corner).reshape(8, 48, 8, 48)
    for position, code in enumerate(LEGEND.codes):
        share = (points == code).mean(axis=(1, 3))
        np.testing.assert_allclose(found[position] / cells, share, atol=0.07)


def test_cells_larger_than_pixels_leave_no_gaps(tmp_path: Path) -> None:
    codes = np.random.default_rng(2).choice(np.array([10, 61, 190]), (6, 6))
    grid = Grid(crs=CRS, transform=Affine(463, 0, WEST, 0, -463, NORTH), height=8, width=8)
    write_map(tmp_path / "map.tif", codes[None], (WEST, NORTH), step=700, crs=CRS)
    _, found = read(open_map(tmp_path / "map.tif"), "modis", grid)
    centres = ((np.arange(8) + 0.5) * 463 // 700).astype(int)
    np.testing.assert_array_equal(found, [codes[np.ix_(centres, centres)] == code for code in LEGEND.codes])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    grid = Grid(crs=CRS, transform=Affine(3_000, 0, WEST, 0, -3_000, NORTH), height=1, width=1)
    write_map(tmp_path / "map.tif", np.full((1, 300, 300), 10), (WEST, NORTH), step=10, crs=CRS)
    with pytest.raises(ValueError, match=r"holds 90000 cells of land cover.*counts up to 65535"):
        read(open_map(tmp_path / "map.tif"), "modis", grid)
    many = tuple(range(256))
    legend = replace(LEGEND, codes=many, code_names=("",) * 256, groups=("water",) * 256)
    with pytest.raises(ValueError, match="256 codes, and the land-cover maps of samples know 255"):
        check_number_of_codes(legend)
