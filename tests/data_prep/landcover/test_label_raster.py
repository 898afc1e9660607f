"""Label rasters on the grid of a source: other extents and words for the CRS, other pixels, and resampled on request."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from pyproj import Transformer

from common.grid import Grid
from data_prep.archive.label import Label
from data_prep.archive.scene import Scene
from data_prep.landcover.label_opening import LabelOnSource, open_label
from tests.support.archives import HLS_WKT

GRID = Grid(crs="EPSG:32636", transform=Affine(30, 0, 600_000, 0, -30, -3_000_000), height=40, width=50)


def with_label(
    folder: Path, codes: np.ndarray, crs: str, transform: Affine, nodata_of_raster: int | None = None, **changes: Any
) -> Scene:
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": codes.shape[0], "width": codes.shape[1]}
    with rasterio.open(folder / "label.tif", "w", crs=crs, transform=transform, nodata=nodata_of_raster, **profile) as raster:
        raster.write(codes, 1)
    label = Label(path=folder / "label.tif", **({"classes": {1: "rice"}, "nodata": 9} | changes))
    return Scene(
        name="s", region="r", split="train", folder=folder, sources={"landsat": {}}, land_cover=None, labels={"crop": label}
    )


def on_source(scene: Scene) -> LabelOnSource:
    return LabelOnSource(scene, "crop", "landsat", GRID, {})


@pytest.mark.parametrize(
    ("crs", "origin"), [("EPSG:32636", -3_000_000), ("EPSG:32736", 7_000_000), (HLS_WKT.replace("-123", "33"), -3_000_000)]
)
@pytest.mark.parametrize("down", [0, -7, 11])
def test_windows_of_a_label_of_another_extent(tmp_path: Path, crs: str, origin: float, down: int) -> None:
    """The label begins `down` rows below the images and five columns to their left; outside of it nothing is labelled."""
    codes = np.random.default_rng(0).integers(0, 5, (36, 44)).astype(np.uint8)
    classes = {code: f"class {code}" for code in range(5)}
    labelled = with_label(tmp_path, codes, crs, Affine(30, 0, 600_000 - 150, 0, -30, origin - 30 * down), classes=classes)
    expected = np.full((100, 100), 9, np.uint8)
    expected[30 + down : 66 + down, 25:69] = codes
    with on_source(labelled) as label:
        for row, col in ((0, 0), (8, 3), (24, 34)):
            np.testing.assert_array_equal(label.read(row, col, 16, 2021), expected[30 + row : 46 + row, 30 + col : 46 + col])


@pytest.mark.parametrize(
    "transform",
    [
        GRID.transform @ Affine.translation(0.5, 0),
        GRID.transform @ Affine.scale(1.001),  # half a tenth of a pixel at its end
        GRID.transform @ Affine.rotation(0.1),
        GRID.transform @ Affine.scale(0.5),
    ],
)
def test_pixels_that_do_not_coincide_are_refused(tmp_path: Path, transform: Affine) -> None:
    labelled = with_label(tmp_path, np.zeros(GRID.shape, np.uint8), GRID.crs, transform)
    with pytest.raises(ValueError, match=r"its pixels \(40 x 50 px .* in EPSG:32636\) are not those of the images \(40 x 50 px"):
        on_source(labelled)


def test_another_crs_is_named(tmp_path: Path) -> None:
    labelled = with_label(tmp_path, np.zeros(GRID.shape, np.uint8), "EPSG:32637", GRID.transform)
    with pytest.raises(ValueError, match=r"in EPSG:32637\) are not those of the images .* in EPSG:32636\), and labels are not"):
        on_source(labelled)


@pytest.mark.parametrize("resample", [None, "nearest"])
def test_a_raster_of_several_bands_is_refused_unless_the_last_is_alpha(tmp_path: Path, resample: str | None) -> None:
    """Codes of two years beside each other: nothing says which of them is meant."""
    codes = np.random.default_rng(0).integers(0, 5, (2, *GRID.shape)).astype(np.uint8)
    classes = {code: f"class {code}" for code in range(5)}
    labelled = with_label(tmp_path, codes[0], GRID.crs, GRID.transform, resample=resample, classes=classes)

    def write(**last: Any) -> None:
        profile = {"driver": "GTiff", "count": 2, "dtype": "uint8", "height": GRID.height, "width": GRID.width, **last}
        with rasterio.open(tmp_path / "label.tif", "w", crs=GRID.crs, transform=GRID.transform, **profile) as raster:
            raster.write(codes)

    write()
    with pytest.raises(ValueError, match=r"label.tif has 2 bands; expected one, .*gdal_translate -b 1 label.tif"):
        on_source(labelled)
    write(alpha="yes")
    with on_source(labelled) as label:
        np.testing.assert_array_equal(label.read(0, 0, 40, 2021), np.where(codes[1] == 0, 9, codes[0])[:, :40])


def test_no_data_of_the_raster_is_not_labelled(tmp_path: Path) -> None:
    """Codes count from 0, which is a class; the raster says that 200 means no data."""
    codes = np.random.default_rng(0).choice([0, 1, 200], GRID.shape).astype(np.uint8)
    classes = {0: "other", 1: "rice"}
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, 200, classes=classes, nodata=255, nodata_stated=False)
    with on_source(labelled) as label:
        np.testing.assert_array_equal(label.read(0, 0, 40, 2021), np.where(codes == 200, 255, codes)[:, :40])


def test_a_class_that_the_raster_calls_no_data_is_asked_for(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 2, GRID.shape).astype(np.uint8)
    about = {"classes": {0: "other", 1: "rice"}, "nodata": 255}
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, 0, **about, nodata_stated=False)
    with (
        on_source(labelled) as label,
        pytest.raises(ValueError, match=r"states that 0 means no data, but scene.yaml names it as class 'other'; say there"),
    ):
        label.read(0, 0, 40, 2021)
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, 0, **about, nodata_stated=True)
    with on_source(labelled) as label:
        np.testing.assert_array_equal(label.read(0, 0, 40, 2021), codes[:, :40])


def test_images_of_another_year_have_no_label(tmp_path: Path) -> None:
    labelled = with_label(tmp_path, np.ones(GRID.shape, np.uint8), GRID.crs, GRID.transform, year=2021)
    with on_source(labelled) as label:
        assert (label.read(0, 0, 16, 2021) == 1).all()
        assert (label.read(0, 0, 16, 2022) == 9).all()


def test_files_that_a_raster_is_read_from(tmp_path: Path) -> None:
    codes = np.ones(GRID.shape, np.uint8)
    with_label(tmp_path, codes, GRID.crs, GRID.transform)
    rasterio.shutil.copy(tmp_path / "label.tif", tmp_path / "label.vrt", driver="VRT")
    (tmp_path / "label.tif.msk").write_bytes(b"")
    for name, files in (("label.tif", {"label.tif", "label.tif.msk"}), ("label.vrt", {"label.tif", "label.vrt"})):
        assert {path.name for path in Label(path=tmp_path / name, classes={1: "rice"}, nodata=9).files} == files


def by_samples(codes: np.ndarray, of_codes: Grid, grid: Grid, points: int) -> np.ndarray:
    """The most frequent code (0 for none) of points x points places in each pixel of a grid, 0 for ties, one pixel at a time."""
    inverse, result = ~of_codes.transform, np.zeros(grid.shape, int)
    transformer = Transformer.from_crs(grid.crs, of_codes.crs, always_xy=True)
    for row in range(grid.height):
        for col in range(grid.width):
            seen: Counter[int] = Counter()
            for down in range(points):
                for right in range(points):
                    x, y = grid.transform @ (col + (right + 0.5) / points, row + (down + 0.5) / points)
                    c, r = (int(np.floor(at)) for at in inverse @ transformer.transform(x, y))
                    inside = 0 <= r < of_codes.height and 0 <= c < of_codes.width
                    seen[int(codes[r, c]) if inside else 0] += 1
            (code, most), *others = [*seen.most_common(2), (0, 0)]
            result[row, col] = code if most > others[0][1] else 0
    return result


@pytest.mark.parametrize(
    ("resample", "crs", "transform", "points"),
    [
        ("nearest", "EPSG:32636", Affine(10, 0, 600_003, 0, -10, -3_000_004), 1),
        ("nearest", "EPSG:4326", Affine(2.5e-4, 0, 33.999, 0, -2.5e-4, -27.119), 1),
        ("mode", "EPSG:32636", Affine(10, 0, 600_000, 0, -10, -3_000_000), 3),
        ("mode", "EPSG:32636", Affine(30, 0, 599_985, 0, -30, -2_999_985), 2),  # half a pixel beside
        ("mode", "EPSG:32636", Affine(15, 0, 599_992.5, 0, -15, -2_999_992.5), 4),
        ("mode", "EPSG:32636", Affine(90, 0, 599_970, 0, -90, -2_999_970), 2),
        ("mode", "EPSG:4326", Affine(1e-4, 0, 34.0005, 0, -1e-4, -27.1185), None),
    ],
)
def test_rasters_are_resampled_on_request(tmp_path: Path, resample: str, crs: str, transform: Affine, points: int | None) -> None:
    height, width = 160, 170
    rng = np.random.default_rng(0)
    codes = np.kron(rng.integers(0, 4, (height // 5, width // 5)), np.ones((5, 5), int)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.1] = 0
    labelled = with_label(
        tmp_path, codes, crs, transform, classes={1: "a", 2: "b", 3: "c"}, nodata=0, grid="landsat", resample=resample
    )
    if points is None:
        pixel_m = 1e-4 * 111_320  # of the sides that are measured, the one from north to south is the longer
        points = 2 * int(np.ceil(30 / (pixel_m * np.cos(np.radians(27.1)))))
    with open_label(labelled, "crop", ("landsat",), lambda _: GRID) as label:
        found, part = label.read(), label.read(3, 4, 20, 10)
        assert label.grid == GRID
    of_codes = Grid(crs=crs, transform=transform, height=height, width=width)
    expected = by_samples(codes, of_codes, GRID, points)
    assert len(np.unique(expected)) == 4
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(part, found[3:23, 4:14])
    np.testing.assert_array_equal(on_source(labelled).read(5, 6, 16, 2021), found[5:21, 6:22])


def test_a_grid_of_a_source_that_the_scene_lacks_is_refused(tmp_path: Path) -> None:
    codes = np.ones(GRID.shape, np.uint8)
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, grid="modis", resample="nearest")
    with pytest.raises(ValueError, match=r"label crop: grid is 'modis'; the scene has the sources landsat"):
        on_source(labelled)


def test_a_resampled_raster_is_of_its_year_and_holds_whole_numbers(tmp_path: Path) -> None:
    codes = np.ones(GRID.shape, np.uint8)
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, grid="landsat", resample="nearest", year=2021)
    with on_source(labelled) as label:
        assert (label.read(0, 0, 16, 2021) == 1).all()
        assert (label.read(0, 0, 16, 2022) == 9).all()
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "height": 40, "width": 50, "crs": GRID.crs}
    with rasterio.open(tmp_path / "label.tif", "w", transform=GRID.transform, **profile) as raster:
        raster.write(codes.astype(np.float32), 1)
    with pytest.raises(ValueError, match=r"label\.tif holds float32; expected whole numbers"):
        on_source(labelled)
