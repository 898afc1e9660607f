"""Scenes with rasters from south to north give the bytes of the shards of the same scenes stored north-up."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from affine import Affine
from pyproj import Transformer

from common.grid import Grid
from data_prep.archive.scene import load_scene
from data_prep.landcover.base import SampleWindow
from data_prep.landcover.legend import load_legend
from data_prep.landcover.opening import open_land_cover
from data_prep.plan.build import make_plan
from data_prep.plan.settings import PlanSettings
from data_prep.readers.opening import open_reader
from data_prep.shards.map_adder import add_maps_to_shards
from tests.support.archives import CODES, days, make_cube, write_land_cover, write_scene
from tests.support.rice_scenes import write_label
from tests.support.series import CRS, SENSORS
from tests.support.sharding import write_shard
from tests.support.stored_orders import store_cube_south_up, store_raster_south_up

SETTINGS = PlanSettings(chip_px={"sentinel2": 12}, labels={"sentinel2": "crop_type"})


def write_one(folder: Path) -> Path:
    """A scene of 30 x 30 pixels, so that two windows of 12 px leave a rest at its southern edge."""
    rng = np.random.default_rng(0)
    cube = make_cube(SENSORS["sentinel2"], 30, days(2021, 17), rng)
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    labels = {"crop_type": {"path": "crop_type.tif", "classes": {1: "rice", 2: "maize"}, "nodata": 0}}
    write_scene(folder / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover=land_cover, labels=labels)
    write_land_cover(folder / "delta" / "landcover.tif", rng.choice(CODES, (10, 10)))
    write_label(folder / "delta" / "crop_type.tif", rng.integers(0, 3, (30, 30)), gsd=10.0)
    return folder


def shards_of(scenes: Path, corpus: Path) -> list[bytes]:
    plan = make_plan(scenes, corpus, SETTINGS)
    for number in range(plan.num_shards):
        write_shard(scenes, corpus, number)
    return [(corpus / f"{name}.tar").read_bytes() for name in plan.names]


@pytest.mark.parametrize("flipped", ["cover", "images", "images label", "images label cover"])
def test_shards_are_those_of_the_scene_stored_north_up(tmp_path: Path, flipped: str) -> None:
    plain = write_one(tmp_path / "plain")
    scenes = Path(shutil.copytree(plain, tmp_path / "scenes"))
    if "cover" in flipped:
        store_raster_south_up(scenes / "delta" / "landcover.tif")
    if "label" in flipped:
        store_raster_south_up(scenes / "delta" / "crop_type.tif")
    if "images" in flipped:
        store_cube_south_up(scenes / "delta" / "sentinel2.zarr")
    found, expected = shards_of(scenes, tmp_path / "corpus"), shards_of(plain, tmp_path / "of_plain")
    assert len(expected) == 1
    assert [hashlib.sha256(shard).hexdigest() for shard in found] == [hashlib.sha256(shard).hexdigest() for shard in expected]


@pytest.mark.parametrize("is_cropped", [False, True])
@pytest.mark.parametrize("side", [6, 12])
def test_land_cover_in_the_file_of_a_sample_is_flipped_with_its_images(tmp_path: Path, side: int, is_cropped: bool) -> None:
    """`label` has half the resolution of the images, and is stored in the same order of rows and columns.

    A box in scene.yaml leaves only the pixels of the window, and the file keeps the label of all.
    """
    rng, placed = np.random.default_rng(0), (-10.0, 0.0, 500_160.0, 0.0, 10.0, 5_000_000.0)
    pixels, label = rng.integers(1, 9_000, (4, 10, 12, 12)).astype(np.uint16), rng.choice([10, 61, 190], (6, 6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["label"] = pixels, label
        file["images"].attrs.update({"crs": CRS, "transform": placed})
    dates = {"start": "2021-01-04", "every_days": 90}
    options = {"container": "hdf5_sample", "path": "a.h5", "dataset": "images", "dates": dates, "offset": 0}
    if is_cropped:
        to_degrees = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
        west, south = to_degrees.transform(500_043, 5_000_003)
        east, north = to_degrees.transform(500_037 + 10 * side, 4_999_997 + 10 * side)
        options["bbox"] = [west, south, east, north]
    values = {"name": "s", "sources": {"sentinel2": options}, "land_cover": {"label": "label", "legend": "glc_fcs30d"}}
    (tmp_path / "scene.yaml").write_text(yaml.safe_dump(values))
    scene = load_scene(tmp_path)
    with open_reader(scene, "sentinel2", SENSORS) as reader:
        grid = reader.grid
        row = 0 if is_cropped else 12 - side
        images = reader.read(row, 0, side, side, slice(None))
    extent = side if is_cropped else 12
    north = 5_000_000 + 10 * extent
    assert grid == Grid(crs=CRS, transform=Affine(10, 0, 500_040, 0, -10, north), height=extent, width=extent)
    window = SampleWindow(source="sentinel2", file=None, grid=grid, row=row, col=0, size=side, year=2021)
    with open_land_cover(scene, load_legend("glc_fcs30d")) as land_cover:
        codes = land_cover.codes(window, None)
    # The window is the south-west, which is stored last in columns and first in rows.
    np.testing.assert_array_equal(codes, label[::-1, ::-1][6 - side // 2 :, : side // 2])
    np.testing.assert_array_equal(images.pixels, pixels[..., ::-1, ::-1][..., 12 - side :, :side])


def test_maps_are_added_to_a_corpus_of_south_up_land_cover(tmp_path: Path) -> None:
    scenes = write_one(tmp_path / "scenes")
    store_raster_south_up(scenes / "delta" / "landcover.tif")
    expected = shards_of(scenes, tmp_path / "expected")
    without = make_plan(scenes, tmp_path / "former", PlanSettings(**{**vars(SETTINGS), "land_cover_maps": False}))
    write_shard(scenes, tmp_path / "former", 0)
    make_plan(scenes, tmp_path / "added", SETTINGS)
    list(add_maps_to_shards(scenes, tmp_path / "former", without.hash, tmp_path / "added", 0, [0]))
    assert [(tmp_path / "added" / f"{without.names[0]}.tar").read_bytes()] == expected
