"""Mosaics of scene maps: against rasterio and pyproj, seams, order, blocks, no data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.merge import merge
from rasterio.warp import Resampling, reproject
from scipy import ndimage

from common.grid import Grid
from finetune.mapping.cog import NO_DATA, probabilities_path
from finetune.mapping.mosaic import FEATHER_PX, Mosaic, default_mosaic_block, edge_distance
from finetune.mapping.mosaic_grid import MosaicOptions, mosaic_grid
from finetune.mapping.resampling import SceneMap, probabilities_on
from finetune.mapping.tiling import Block
from finetune.mapping.vrt import check_pixels, offset_in_region
from tests.support.launching import ROOT

CLASSES = 3
SIDE = 110  # px of a scene
LAEA = MosaicOptions(crs="EPSG:3035", pixel_m=10)


def scene_map(folder: Path, name: str, grid: Grid, probabilities: np.ndarray, hole: tuple[slice, ...] | None = None) -> SceneMap:
    """A map of these probabilities (classes, H, W), which add up to one, without data in the `hole`."""
    stored = np.rint(250 * probabilities).astype(np.uint8)
    classes = probabilities.argmax(axis=0).astype(np.uint8)
    if hole is not None:
        stored[:, *hole], classes[hole] = NO_DATA, NO_DATA
    one = SceneMap(name=name, path=folder / f"{name}.tif", grid=grid)
    for path, bands in ((one.path, classes[None]), (probabilities_path(one.path), stored)):
        profile = {"driver": "GTiff", "count": len(bands), "dtype": "uint8", "nodata": NO_DATA, **grid.profile()}
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(bands)
    return one


def smooth(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth random probabilities (classes, H, W)."""
    noise = np.random.default_rng(seed).standard_normal((CLASSES, *shape))
    weights = np.exp(25 * ndimage.gaussian_filter(noise, (0, 5, 5)))
    return np.asarray(weights / weights.sum(axis=0))


def square(crs: str, west: float, north: float, side: int = SIDE, gsd: float = 10) -> Grid:
    return Grid(crs=crs, transform=Affine(gsd, 0, west, 0, -gsd, north), height=side, width=side)


def two_zones(folder: Path) -> list[SceneMap]:
    """Four overlapping scenes, two in each of UTM zones 31 and 32."""
    place = {"a": ("EPSG:32631", 735_100, 4_988_000), "b": ("EPSG:32631", 735_700, 4_987_500)}
    place |= {"c": ("EPSG:32632", 263_500, 4_988_100), "d": ("EPSG:32632", 263_300, 4_987_400)}
    hole = np.s_[30:50, 15:45]
    return [
        scene_map(folder, name, square(*where), smooth((SIDE, SIDE), seed), hole if name == "c" else None)
        for seed, (name, where) in enumerate(place.items())
    ]


def grid_of(scenes: list[SceneMap], options: MosaicOptions) -> Grid:
    return mosaic_grid({one.name: one.grid for one in scenes}, options)


def whole(scenes: list[SceneMap], grid: Grid, block_px: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Classes (H, W) and probabilities (classes, H, W) of a mosaic, made in blocks."""
    mosaic = Mosaic(scenes=scenes, grid=grid, num_classes=CLASSES, block_px=block_px, probabilities=True)
    classes, probabilities = np.zeros(grid.shape, np.uint8), np.zeros((CLASSES, *grid.shape), np.uint8)
    for block in mosaic.blocks:
        inside = np.s_[..., block.row : block.row + block.height, block.col : block.col + block.width]
        found = mosaic.block(block)
        classes[inside], probabilities[inside] = found["classes"], found["probabilities"]
    return classes, probabilities


def stored(one: SceneMap) -> np.ndarray:
    with rasterio.open(probabilities_path(one.path)) as raster:
        return raster.read()


def exactly_on(one: SceneMap, grid: Grid) -> np.ndarray:
    """Probabilities of a scene on all of a mosaic, NaN without data: pyproj at every pixel, and scipy's interpolation."""
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = Transformer.from_crs(grid.crs, one.grid.crs, always_xy=True).transform(*(grid.transform @ (col, row)))
    in_col, in_row = ~one.grid.transform @ (x, y)
    bands = stored(one).astype(float)
    known = bands[0] != NO_DATA
    at = [in_row - 0.5, in_col - 0.5]
    weight = ndimage.map_coordinates(np.pad(known.astype(float), 1), [at[0] + 1, at[1] + 1], order=1, cval=0)
    values = [ndimage.map_coordinates(np.pad(np.where(known, b, 0), 1), [at[0] + 1, at[1] + 1], order=1, cval=0) for b in bands]
    inside = (in_row >= 0) & (in_col >= 0) & (in_row < one.grid.height) & (in_col < one.grid.width)
    below = known[np.where(inside, in_row, 0).astype(int), np.where(inside, in_col, 0).astype(int)] & inside
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below, np.array(values) / weight, np.nan)


def by_gdal(one: SceneMap, grid: Grid) -> np.ndarray:
    """The same by GDAL's warper, which approximates coordinates."""
    result = np.full((CLASSES, *grid.shape), NO_DATA, np.float32)
    reproject(
        stored(one).astype(np.float32), result, src_transform=one.grid.transform, src_crs=one.grid.crs, src_nodata=NO_DATA,
        dst_transform=grid.transform, dst_crs=grid.crs, dst_nodata=NO_DATA, resampling=Resampling.bilinear,
    )  # fmt: skip
    return np.where(result[0] == NO_DATA, np.nan, result)


def blended(sampled: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Classes and mean probabilities of whole scenes: weights by the distance to no data on the whole mosaic, all at once."""
    weights = []
    for one in sampled:
        valid = np.pad(np.isfinite(one[0]), 1)  # beyond the mosaic there is nothing
        weights.append(np.minimum(ndimage.distance_transform_edt(valid)[1:-1, 1:-1], FEATHER_PX))
    total = np.sum(weights, axis=0)
    mean = np.einsum("skij,sij->kij", np.nan_to_num(np.array(sampled)), np.array(weights)) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean.argmax(axis=0), NO_DATA), np.where(total > 0, mean, np.nan)


def test_four_scenes_in_two_zones_against_whole_rasters(tmp_path: Path) -> None:
    scenes = two_zones(tmp_path)
    grid = grid_of(scenes, LAEA)
    classes, probabilities = whole(scenes, grid, 100)
    expected, mean = blended([exactly_on(one, grid) for one in scenes])
    np.testing.assert_array_equal(classes == NO_DATA, expected == NO_DATA)
    np.testing.assert_array_equal(probabilities[0] == NO_DATA, expected == NO_DATA)
    known = classes != NO_DATA
    assert 0.3 < known.mean() < 0.95
    assert np.abs(probabilities - mean)[:, known].max() < 0.51  # of 250; half of it is rounding
    top = np.sort(mean, axis=0)
    clear = known & (top[-1] - top[-2] > 0.01)
    np.testing.assert_array_equal(classes[clear], expected[clear])
    # GDAL misses coordinates by an eighth of a pixel: nearly all is the same.
    warped, _ = blended([by_gdal(one, grid) for one in scenes])
    assert (classes == warped)[known].mean() > 0.99


@pytest.mark.parametrize("options", [LAEA, MosaicOptions(crs="EPSG:32632"), MosaicOptions(crs="EPSG:4326", pixel_degrees=1e-4)])
def test_neither_the_order_of_scenes_nor_blocks_change_a_bit(tmp_path: Path, options: MosaicOptions) -> None:
    scenes = two_zones(tmp_path)
    grid = grid_of(scenes, options)
    assert grid_of(scenes[::-1], options) == grid
    classes, probabilities = whole(scenes, grid)
    for order, block_px in (([3, 1, 0, 2], 128), ([1, 3, 2, 0], 93)):
        again = whole([scenes[index] for index in order], grid, block_px)
        np.testing.assert_array_equal(again[0], classes)
        np.testing.assert_array_equal(again[1], probabilities)


def test_scenes_beside_each_other_are_copied_as_rasterio_merges_them(tmp_path: Path) -> None:
    sides = [square("EPSG:32631", 500_000, 5_000_000, 90), square("EPSG:32631", 500_900, 5_000_000, 90)]
    scenes = [
        scene_map(tmp_path, name, grid, smooth(grid.shape, seed))
        for seed, (name, grid) in enumerate(zip("ab", sides, strict=True))
    ]
    grid = grid_of(scenes, MosaicOptions())
    classes, probabilities = whole(scenes, grid, 64)
    for found, paths in (
        (classes[None], [one.path for one in scenes]),
        (probabilities, [probabilities_path(one.path) for one in scenes]),
    ):
        expected, transform = merge(paths)
        np.testing.assert_array_equal(found, expected)
        assert transform == grid.transform


def test_scenes_that_disagree_leave_no_seam(tmp_path: Path) -> None:
    """One scene says 0.9, the other 0.1: steps between neighbouring pixels are as small as the ramp of the weights."""
    sides = [square("EPSG:32631", 500_000, 5_000_000, 300), square("EPSG:32631", 502_000, 5_000_300, 300)]
    scenes = []
    for name, grid, level in zip("ab", sides, (0.9, 0.1), strict=True):
        constant = np.array([level, 1 - level, 0.0])[:, None, None] * np.ones((1, *grid.shape))
        scenes.append(scene_map(tmp_path, name, grid, constant))
    _, probabilities = whole(scenes, grid_of(scenes, MosaicOptions()))
    first = np.where(probabilities[0] == NO_DATA, np.nan, probabilities[0].astype(float))
    middle = first[150].copy()
    for corner in ((30, 200), (300, 300)):  # where the edges of both meet, one side must be one scene and the other the other
        first[max(corner[0] - 32, 0) : corner[0] + 32, corner[1] - 32 : corner[1] + 32] = np.nan
    for axis in (0, 1):
        # Two ramps of 64 px meet at most at a corner: 200 steps of 1/250 from one scene to the other over at least 32 px.
        assert np.nanmax(np.abs(np.diff(first, axis=axis))) <= 250 * 0.8 / (FEATHER_PX / 2)
    assert np.nanmin(middle) == 25
    assert np.nanmax(middle) == 225


def test_a_pixel_that_one_scene_has_seen_has_data(tmp_path: Path) -> None:
    grid = square("EPSG:32631", 500_000, 5_000_000, 120)
    left, right = smooth(grid.shape, 0), smooth(grid.shape, 1)
    scenes = [scene_map(tmp_path, "a", grid, left, np.s_[:, 50:]), scene_map(tmp_path, "b", grid, right, np.s_[:, :60])]
    classes, _ = whole(scenes, grid_of(scenes, MosaicOptions()))
    np.testing.assert_array_equal(classes == NO_DATA, np.broadcast_to((np.arange(120) >= 50) & (np.arange(120) < 60), (120, 120)))
    np.testing.assert_array_equal(classes[:, :50], left.argmax(axis=0)[:, :50])
    np.testing.assert_array_equal(classes[:, 60:], right.argmax(axis=0)[:, 60:])


def test_larger_pixels_are_the_mean_of_those_below(tmp_path: Path) -> None:
    grid = square("EPSG:32631", 500_000, 5_000_000, 120)
    one = scene_map(tmp_path, "a", grid, smooth(grid.shape, 0), np.s_[:12, :12])
    coarse = grid_of([one], MosaicOptions(pixel_m=40))
    assert coarse.shape == (30, 30)
    found = probabilities_on(coarse, Block(0, 0, 30, 30), one, CLASSES)
    assert found is not None
    expected = stored(one).astype(float).reshape(CLASSES, 30, 4, 30, 4).mean(axis=(2, 4))
    known = np.ones((30, 30), bool)
    known[:3, :3] = False
    np.testing.assert_array_equal(found[0][0] != NO_DATA, known)
    np.testing.assert_allclose(found[0][:, known], expected[:, known], atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(10, 40), (30, 10)])
def test_pixels_that_are_no_squares_are_the_mean_of_those_below(tmp_path: Path, width: int, height: int) -> None:
    """As those of an equal-area or geographic CRS are in high latitudes."""
    grid = square("EPSG:32631", 500_000, 5_000_000, 120)
    one = scene_map(tmp_path, "a", grid, smooth(grid.shape, 0))
    rows, cols = 1200 // height, 1200 // width
    oblong = Grid(crs=grid.crs, transform=Affine(width, 0, 500_000, 0, -height, 5_000_000), height=rows, width=cols)
    found = probabilities_on(oblong, Block(0, 0, rows, cols), one, CLASSES)
    assert found is not None
    expected = stored(one).astype(float).reshape(CLASSES, rows, height // 10, cols, width // 10).mean(axis=(2, 4))
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_a_virtual_raster_across_the_antimeridian_in_degrees() -> None:
    west = Grid(crs="EPSG:4326", transform=Affine(1e-3, 0, 179.9, 0, -1e-3, -16), height=50, width=100)
    east = Grid(crs="EPSG:4326", transform=Affine(1e-3, 0, -180, 0, -1e-3, -16.01), height=50, width=100)
    grid = mosaic_grid({"west": west, "east": east}, MosaicOptions())
    assert grid.shape == (60, 200)
    check_pixels({"west": west, "east": east}, grid)
    assert [offset_in_region(grid, scene) for scene in (west, east)] == [(0, 0), (10, 100)]


def test_distances_do_not_depend_on_the_window() -> None:
    valid = np.random.default_rng(0).random((200, 200)) < 0.9995
    everywhere = edge_distance(valid, 20)
    np.testing.assert_array_equal(edge_distance(valid[30:130, 50:170], 20)[20:-20, 20:-20], everywhere[50:110, 70:150])
    assert (edge_distance(np.ones((5, 5), bool), 20) == 20).all()


def test_scenes_without_a_common_crs_are_refused(tmp_path: Path) -> None:
    scenes = two_zones(tmp_path)
    with pytest.raises(ValueError, match=r"\(EPSG:32631: a, b; EPSG:32632: c, d\), a mosaic has one: state it with --mosaic.crs"):
        grid_of(scenes, MosaicOptions())
    with pytest.raises(ValueError, match=r"is in degrees: give --mosaic\.pixel_degrees"):
        grid_of(scenes, MosaicOptions(crs="EPSG:4326", pixel_m=10))
    with pytest.raises(ValueError, match=r"different units: state the pixel size with --mosaic.pixel_degrees"):
        grid_of(scenes, MosaicOptions(crs="EPSG:4326"))
    with pytest.raises(ValueError, match="'EPSG:99999999' is no coordinate reference system"):
        grid_of(scenes, MosaicOptions(crs="EPSG:99999999"))
    with pytest.raises(ValueError, match="a mosaic has one pixel size"):
        MosaicOptions(pixel_m=1, pixel_degrees=1)


def test_a_region_across_the_antimeridian(tmp_path: Path) -> None:
    """Two scenes of Taveuni, in zones 60 and 1: one mosaic in a zone or in degrees, none where the antimeridian is an edge."""
    place = {}
    for name, crs, west in (("a", "EPSG:32760", -900), ("b", "EPSG:32701", -200)):
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180, -16.8)
        place[name] = square(crs, round(x, -1) + west, round(y, -1))
    scenes = [scene_map(tmp_path, name, grid, smooth(grid.shape, seed)) for seed, (name, grid) in enumerate(place.items())]
    ground = 2 * SIDE**2 - 40 * SIDE  # px of 10 m; they overlap by 400 m
    for options, pixel_area in (
        (MosaicOptions(crs="EPSG:32760"), 100),
        (MosaicOptions(crs="EPSG:4326", pixel_degrees=1e-4), 117.9),
    ):
        grid = grid_of(scenes, options)
        assert max(grid.shape) < 2 * SIDE, grid
        classes, _ = whole(scenes, grid, 128)
        assert (classes != NO_DATA).sum() * pixel_area == pytest.approx(100 * ground, rel=0.03)
        if options.pixel_degrees is None:
            expected, _ = blended([exactly_on(one, grid) for one in scenes])
            assert (classes == expected).mean() > 0.999
    with pytest.raises(ValueError, match=r"scene [ab] crosses the edge of EPSG:3857, which tears it apart"):
        grid_of(scenes, MosaicOptions(crs="EPSG:3857"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_mosaic(tmp_path: Path) -> None:
    """Mosaics of 2 and of 11 million pixels with 16 classes take the same, less than 1.3 GB, in processes of their own."""
    peaks = []
    for side in (1200, 2600):
        (tmp_path / str(side)).mkdir()
        command = [sys.executable, "-m", "tests.support.large_region", str(tmp_path / str(side)), str(side), "16"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        peaks.append(json.loads(done.stdout.strip().splitlines()[-1])["peak_gb"])
    assert peaks[1] < 1.3
    assert peaks[1] < 1.15 * peaks[0]


def test_blocks_of_many_classes_are_small() -> None:
    assert [default_mosaic_block(count) for count in (2, 16, 64, 255)] == [1024, 1024, 512, 256]
