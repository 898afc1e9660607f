"""The option `bbox` of any container, against slices of the whole series and against pyproj."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from pyproj import Transformer

from common.grid import Grid
from data_prep.readers.crop import Crop
from data_prep.readers.opening import open_reader
from tests.support.containers import write_hls, write_sample
from tests.support.series import CRS, HEIGHT, SENSORS, TRANSFORM, WIDTH, assert_windows_equal, numbers, scene

TO_DEGREES = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)


def box_of(first_col: float, first_row: float, end_col: float, end_row: float) -> list[float]:
    """A box in degrees that covers these pixels of the test series, by pyproj."""
    west, north = TRANSFORM @ (first_col, first_row)
    east, south = TRANSFORM @ (end_col, end_row)
    return list(TO_DEGREES.transform_bounds(west, south, east, north, densify_pts=101))


def opened(folder: Path, **options: Any) -> Any:
    return open_reader(scene(folder, "landsat", container="geotiff_scenes", path="hls", **options), "landsat", SENSORS)


@pytest.fixture
def series(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    pixels, quality = numbers(SENSORS["landsat"])
    write_hls(tmp_path / "hls", pixels, quality)
    return tmp_path, pixels, quality


@pytest.mark.parametrize(
    ("first_row", "end_row", "first_col", "end_col"),
    [(3.4, 15.2, 5.5, 12.5), (0.2, 2.3, 0.2, 1.3), (-9, 7.5, 6.5, 400), (-9, 99, -9, 99)],
)
def test_a_part_is_a_slice_of_the_series(series: Any, first_row: float, end_row: float, first_col: float, end_col: float) -> None:
    """The part holds all pixels that the box touches, to the border of the series."""
    folder, pixels, quality = series
    rows = slice(max(0, int(np.floor(first_row))), min(HEIGHT, int(np.ceil(end_row))))
    cols = slice(max(0, int(np.floor(first_col))), min(WIDTH, int(np.ceil(end_col))))
    with opened(folder, bbox=box_of(first_col, first_row, end_col, end_row)) as reader:
        assert reader.grid.transform == TRANSFORM @ Affine.translation(cols.start, rows.start)
        assert max(np.subtract(reader.chunk, reader.grid.shape)) <= 0
        assert_windows_equal(reader, pixels[:, :, rows, cols], quality[:, rows, cols], tries=3)


def test_a_part_is_composed(series: Any) -> None:
    folder, *_ = series
    compose = {"every_days": 16, "method": "best"}
    with opened(folder, compose=compose) as whole, opened(folder, compose=compose, bbox=box_of(5.5, 3.5, 12.5, 9.5)) as part:
        assert part.grid.shape == (7, 8)
        expected = whole.read(3, 5, 7, 8, slice(None))
        np.testing.assert_array_equal(part.read(0, 0, 7, 8, slice(None)).pixels, expected.pixels)


@pytest.mark.parametrize("bbox", [[3, 36], "3 36 4 37", [3, 37, 4, 36], [300, 36, 301, 37], [True, None, 4, 37]])
def test_what_is_no_box_is_refused(series: Any, bbox: Any) -> None:
    with pytest.raises(ValueError, match=r"expected \[west, south, east, north\] in degrees"):
        opened(series[0], bbox=bbox)


def test_a_box_elsewhere_is_refused(series: Any) -> None:
    with pytest.raises(ValueError, match=r"bbox \[13, 36, 14, 37\] lies outside of the series, 24 x 20 px of 30"):
        opened(series[0], bbox=[13, 36, 14, 37])


def test_a_series_without_a_place_has_no_part(tmp_path: Path) -> None:
    pixels, _ = numbers(SENSORS["modis"])
    write_sample(tmp_path / "0001.h5", pixels)
    options = {"dataset": "S2", "dates": [f"2021-01-{day:02d}" for day in range(1, 8)], "bbox": [3, 36, 4, 37]}
    with pytest.raises(ValueError, match="bbox is of no use"):
        open_reader(scene(tmp_path, "modis", container="hdf5_sample", path="0001.h5", **options), "modis", SENSORS)


@dataclass
class PlacedReader:
    """A reader of which only the place matters."""

    grid: Grid
    sensor = SENSORS["landsat"]
    dates = np.array(["2021-01-01"], dtype="datetime64[D]")
    chunk = 8, 8


def test_a_box_that_crosses_180_degrees() -> None:
    """UTM zone 1 begins at 180 degrees west, and a tile of it goes on to the west, where longitudes are positive."""
    grid = Grid(crs="EPSG:32601", transform=Affine(1000.0, 0, 100_000, 0, -1000.0, 100_000), height=100, width=200)
    part = Crop(PlacedReader(grid), [179.5, 0.1, -179.8, 0.5], "here")  # type: ignore[arg-type]
    x, _ = Transformer.from_crs("EPSG:4326", "EPSG:32601", always_xy=True).transform([179.5, -179.8], [0.3, 0.3])
    assert abs(part.grid.bounds[0] - x[0]) < 1000
    assert abs(part.grid.bounds[2] - x[1]) < 1000
