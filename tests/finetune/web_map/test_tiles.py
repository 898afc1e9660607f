"""Tiles against the coordinates of their pixels, computed one by one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.warp import transform

from finetune.web_map.tiles import (
    HALF_WORLD_M,
    MERCATOR,
    PROBABILITY_COLORS,
    class_png,
    probability_png,
    read_tile,
    tile_transform,
)

PIXEL = 30.0


def write_raster(path: Path, numbers: np.ndarray, crs: str, west: float, north: float, overviews: tuple[int, ...] = ()) -> Affine:
    affine = Affine(PIXEL, 0, west, 0, -PIXEL, north)
    height, width = numbers.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": crs, "transform": affine, "nodata": 255}
    with rasterio.open(path, "w", height=height, width=width, tiled=True, blockxsize=256, blockysize=256, **profile) as raster:
        raster.write(numbers, 1)
    if overviews:
        with rasterio.open(path, "r+") as raster:
            raster.build_overviews(overviews, Resampling.nearest)
    return affine


def tile_at(zoom: int, crs: str, x: float, y: float) -> tuple[int, int]:
    (east,), (north,) = transform(crs, MERCATOR, [x], [y])
    side = 2 * HALF_WORLD_M / 2**zoom
    return int((east + HALF_WORLD_M) // side) % 2**zoom, int((HALF_WORLD_M - north) // side)


def places(crs: str, affine: Affine, zoom: int, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """Fractional columns and rows of the raster at the centres of a tile's pixels."""
    cols, rows = np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5)
    side = 2 * HALF_WORLD_M / 2**zoom
    east, north = -HALF_WORLD_M + (x + cols / 256) * side, HALF_WORLD_M - (y + rows / 256) * side
    there = [np.array(axis) for axis in transform(MERCATOR, crs, east.ravel(), north.ravel())]
    col, row = ~affine @ tuple(there)
    return col.reshape(256, 256), row.reshape(256, 256)


@pytest.mark.parametrize(
    ("crs", "west", "north"),
    [("EPSG:32631", 500_040.0, 5_000_040.0), ("EPSG:32733", 300_000.0, 7_000_000.0), ("EPSG:3413", 1_000_000.0, -1_500_000.0)],
)
def test_a_tile_shows_the_pixel_at_each_place(tmp_path: Path, crs: str, west: float, north: float) -> None:
    numbers = np.random.default_rng(0).integers(0, 200, (80, 70)).astype(np.uint8)
    affine = write_raster(tmp_path / "map.tif", numbers, crs, west, north)
    zoom = 14
    x, y = tile_at(zoom, crs, *(affine @ (35, 40)))
    found = read_tile(tmp_path / "map.tif", zoom, x, y, [1], 255)[0]
    col, row = places(crs, affine, zoom, x, y)
    inside = (col >= 0) & (col < 70) & (row >= 0) & (row < 80)
    expected = np.full((256, 256), 255, np.uint8)
    expected[inside] = numbers[row[inside].astype(int), col[inside].astype(int)]
    # GDAL interpolates coordinates within an eighth of a pixel of the tile.
    sure = np.ones((256, 256), bool)
    for axis in (col, row):
        sure &= np.abs(axis - np.round(axis)) > 0.13 * np.abs(np.gradient(axis)).max()
    assert sure.mean() > 0.5
    assert inside[sure].any()
    np.testing.assert_array_equal(found[sure], expected[sure])


@pytest.mark.parametrize(("crs", "west"), [("EPSG:32601", 165_000.0), ("EPSG:32660", 832_500.0)])
def test_a_map_across_the_antimeridian_has_tiles_on_both_sides(tmp_path: Path, crs: str, west: float) -> None:
    numbers = np.arange(100, dtype=np.uint8)[None].repeat(20, 0)
    affine = write_raster(tmp_path / "map.tif", numbers, crs, west, 500_000.0)
    ends = [transform(crs, "EPSG:4326", *([value] for value in affine @ (col, 10)))[0][0] for col in (1, 99)]
    assert ends[0] > 0 > ends[1], "the map does not cross the antimeridian"
    zoom, shown = 13, set()
    for col in (5, 95):
        x, y = tile_at(zoom, crs, *(affine @ (col, 10)))
        assert x in (0, 2**zoom - 1)
        shown |= set(np.unique(read_tile(tmp_path / "map.tif", zoom, x, y, [1], 255)).tolist())
    assert {5, 95, 255} <= shown


def test_a_tile_of_a_wide_area_is_read_from_an_overview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((512, 512), np.uint8))
    affine = write_raster(tmp_path / "map.tif", numbers, "EPSG:32631", 500_040.0, 5_000_040.0, (2, 4, 8))
    opened: list[dict[str, int]] = []
    real = rasterio.open

    def recorded(*arguments: object, **options: int) -> object:
        opened.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr("finetune.web_map.tiles.rasterio.open", recorded)
    for zoom, level in ((14, None), (11, None), (10, 0), (9, 1), (8, 2)):
        opened.clear()
        x, y = tile_at(zoom, "EPSG:32631", *(affine @ (1024, 1024)))
        tile = read_tile(tmp_path / "map.tif", zoom, x, y, [1], 255)
        # At 45 degrees north a pixel of zoom 10 is 108 m wide, 3.6 pixels of the map.
        assert opened[-1].get("overview_level") == level, zoom
        assert len(np.unique(tile)) > 1


@pytest.mark.parametrize("tile", [(2, 4, 0), (2, 0, 4), (25, 0, 0), (-1, 0, 0)])
def test_tiles_that_do_not_exist_are_refused(tile: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="there is no tile"):
        tile_transform(*tile)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_colours_of_classes_and_probabilities() -> None:
    classes = np.full((256, 256), 255, np.uint8)
    classes[0, :2] = 0, 1
    picture = opened(class_png(classes, {0: (1, 2, 3), 1: (200, 100, 50)}))
    assert picture[0, :3].tolist() == [[1, 2, 3, 255], [200, 100, 50, 255], [0, 0, 0, 0]]
    stored = np.full((256, 256), 255, np.uint8)
    stored[0, :3] = 0, 125, 250
    picture = opened(probability_png(stored, 250, 255))
    assert picture[0, :4].tolist() == [*([*PROBABILITY_COLORS[at], 255] for at in (0, 2, 4)), [0, 0, 0, 0]]
