"""Label rasters on the grid of a source: extents that differ, other words for the CRS, pixels that do not coincide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from common.grid import Grid
from data_prep.archive.scene import Label, Scene
from data_prep.landcover.label_raster import LabelRaster
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


@pytest.mark.parametrize(
    ("crs", "origin"), [("EPSG:32636", -3_000_000), ("EPSG:32736", 7_000_000), (HLS_WKT.replace("-123", "33"), -3_000_000)]
)
@pytest.mark.parametrize("down", [0, -7, 11])
def test_windows_of_a_label_of_another_extent(tmp_path: Path, crs: str, origin: float, down: int) -> None:
    """The label begins `down` rows below the images and five columns to their left; outside of it nothing is labelled."""
    codes = np.random.default_rng(0).integers(0, 5, (36, 44)).astype(np.uint8)
    labelled = with_label(tmp_path, codes, crs, Affine(30, 0, 600_000 - 150, 0, -30, origin - 30 * down))
    expected = np.full((100, 100), 9, np.uint8)
    expected[30 + down : 66 + down, 25:69] = codes
    with LabelRaster(labelled, "crop", GRID) as label:
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
        LabelRaster(labelled, "crop", GRID)


def test_another_crs_is_named(tmp_path: Path) -> None:
    labelled = with_label(tmp_path, np.zeros(GRID.shape, np.uint8), "EPSG:32637", GRID.transform)
    with pytest.raises(ValueError, match=r"in EPSG:32637\) are not those of the images .* in EPSG:32636\), and labels are not"):
        LabelRaster(labelled, "crop", GRID)


def test_no_data_of_the_raster_is_not_labelled(tmp_path: Path) -> None:
    """Codes count from 0, which is a class; the raster says that 200 means no data."""
    codes = np.random.default_rng(0).choice([0, 1, 200], GRID.shape).astype(np.uint8)
    classes = {0: "other", 1: "rice"}
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, 200, classes=classes, nodata=255, nodata_stated=False)
    with LabelRaster(labelled, "crop", GRID) as label:
        np.testing.assert_array_equal(label.read(0, 0, 40, 2021), np.where(codes == 200, 255, codes)[:, :40])


def test_a_class_that_the_raster_calls_no_data_is_asked_for(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 2, GRID.shape).astype(np.uint8)
    about = {"classes": {0: "other", 1: "rice"}, "nodata": 255}
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, 0, **about, nodata_stated=False)
    with (
        LabelRaster(labelled, "crop", GRID) as label,
        pytest.raises(ValueError, match=r"states that 0 means no data, but scene.yaml names it as class 'other'; say there"),
    ):
        label.read(0, 0, 40, 2021)
    labelled = with_label(tmp_path, codes, GRID.crs, GRID.transform, 0, **about, nodata_stated=True)
    with LabelRaster(labelled, "crop", GRID) as label:
        np.testing.assert_array_equal(label.read(0, 0, 40, 2021), codes[:, :40])


def test_images_of_another_year_have_no_label(tmp_path: Path) -> None:
    labelled = with_label(tmp_path, np.ones(GRID.shape, np.uint8), GRID.crs, GRID.transform, year=2021)
    with LabelRaster(labelled, "crop", GRID) as label:
        assert (label.read(0, 0, 16, 2021) == 1).all()
        assert (label.read(0, 0, 16, 2022) == 9).all()
