"""Sentinel-2 products in ESA's EOPF layout, compared with the arrays that they were written from."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from affine import Affine
from zarr.storage import LocalStore

from data_prep.archive.sensor import Sensor
from data_prep.readers.opening import open_reader
from tests.support.archives import NORTH, WEST, Cube, days, write_land_cover, write_scene
from tests.support.containers import on_fine_grid, safe_numbers
from tests.support.eopf import ORIGIN, product_name, write_product, write_products
from tests.support.series import DATES, SENSORS, assert_windows_equal, coarse, naive_bilinear, repeated, scene
from tests.support.sharding import run_shard

SENSOR: Sensor = SENSORS["sentinel2"]
TIMES = DATES[:4]
ROWS, COLS = 180, 120
WHOLE = 0, 0, ROWS, COLS
R10M, R20M = "measurements/reflectance/r10m", "measurements/reflectance/r20m"
SCL = "conditions/mask/l2a_classification/r20m/scl"


def opened(folder: Path, path: Any = "p", **options: Any) -> Any:
    where = {"paths": path} if isinstance(path, list) else {"path": path}
    return open_reader(scene(folder, "sentinel2", container="sentinel2_eopf", **where, **options), "sentinel2", SENSORS)


def refused(folder: Path, message: str, path: Any = "p", **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        opened(folder, path, **options)


def without_offset(pixels: np.ndarray, offset: int = -1000) -> np.ndarray:
    """Pixels as the reader shall give them: bands of 20 m repeated, the offset removed, no data kept, others at least 1."""
    fine = on_fine_grid(pixels).astype(int)
    return np.where(fine == 0, 0, np.maximum(fine + offset, 1)).astype(np.uint16)


def set_attributes(product: Path, name: str, **attributes: Any) -> None:
    """Change attributes of an array, or of the product (""), and consolidate the metadata anew."""
    node = zarr.open_group(str(product), mode="r+", use_consolidated=False)
    (node[name] if name else node).attrs.update(attributes)
    zarr.consolidate_metadata(LocalStore(product))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_windows_equal_slicing(tmp_path: Path, zarr_format: int, consolidated: bool) -> None:
    pixels, scl = safe_numbers()
    write_products(tmp_path / "p", pixels, scl, TIMES, zarr_format=zarr_format, consolidated=consolidated)
    with opened(tmp_path) as reader:
        assert_windows_equal(reader, without_offset(pixels), repeated(coarse(scl)), TIMES, tries=2)
        assert (reader.grid.crs, reader.grid.transform, reader.chunk) == ("EPSG:32631", ORIGIN, (60, 60))
    one = f"p/{product_name(TIMES[1])}"
    with opened(tmp_path, one) as reader:
        assert_windows_equal(reader, without_offset(pixels[1:2]), repeated(coarse(scl[1:2])), TIMES[1:2], tries=1)


def test_products_in_subfolders_and_lists(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    first, second, *_ = write_products(tmp_path / "p" / "2021" / "01", pixels, scl, TIMES)
    (tmp_path / "p/readme.txt").write_text("no product")
    with opened(tmp_path) as reader:
        assert_windows_equal(reader, without_offset(pixels), repeated(coarse(scl)), TIMES, tries=1)
    with opened(tmp_path, [str(second), str(first)]) as reader:
        np.testing.assert_array_equal(reader.read(*WHOLE, slice(None)).pixels, without_offset(pixels[:2]))


def test_each_band_at_its_finest_resolution(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    # A product without B03 at 10 m has it at 20 m, and without SCL at 20 m at 60 m.
    skip = (f"{R10M}/b03", SCL)
    write_products(tmp_path / "p", pixels, scl, TIMES[:1], skip=skip)
    expected = without_offset(pixels[:1])
    expected[:, 1] = repeated(coarse(np.where(pixels[:1, 1] == 0, 0, np.maximum(pixels[:1, 1].astype(int) - 1000, 1))))
    with opened(tmp_path) as reader:
        series = reader.read(*WHOLE, slice(None))
    np.testing.assert_array_equal(series.pixels, expected)
    np.testing.assert_array_equal(series.quality[0], repeated(coarse(scl[0], 6), 6))


def test_bilinear(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    write_products(tmp_path / "p", pixels, scl, TIMES[:1], offset=0)
    (tmp_path / "p" / product_name(TIMES[0])).rename(tmp_path / "p" / product_name(TIMES[0], "N0301"))
    with opened(tmp_path, resampling="bilinear") as reader:
        got = reader.read(10, 6, 40, 30, slice(None)).pixels[0]
    np.testing.assert_array_equal(got[5], naive_bilinear(coarse(pixels[0, 5]), 2, 0)[10:50, 6:36])
    np.testing.assert_array_equal(got[0], pixels[0, 0, 10:50, 6:36])


def test_a_series_spans_baselines(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    for time, (baseline, offset) in enumerate([("N0301", 0), ("N0400", -0.1), ("N0511", -0.1)]):
        name = product_name(TIMES[time], baseline)
        write_product(tmp_path / "p" / name, pixels[time], scl[time], TIMES[time], offset=offset)
    expected = np.concatenate([without_offset(pixels[:1], 0), without_offset(pixels[1:3])])
    for options in ({}, {"offset": {"00.00": 0, "04.00": -1000}}, {"offset": {"2015-06-23": 0, str(TIMES[1]): -1000}}):
        with opened(tmp_path, **options) as reader:
            np.testing.assert_array_equal(reader.read(*WHOLE, slice(None)).pixels, expected)
    refused(tmp_path, f"states the offset -1000 for {TIMES[0]}, but its processing baseline is N0301", offset=-1000)


@pytest.mark.parametrize(
    ("baseline", "in_file", "options", "message"),
    [
        # ESA's converter writes -0.1 for every product, also for those of baselines without an offset.
        ("N0301", -0.1, {}, r"the array states the offset -1000 for 2021-01-03, but its processing baseline is N0301"),
        ("N0511", 0, {}, r"the array states the offset 0 for 2021-01-03, but its processing baseline is N0511"),
        ("N0511", -0.1, {"offset": {"04.00": 0}}, r"b02: the file states the offset -1000, but scene.yaml .* state 0"),
        ("N0511", -0.1, {"offset": -900}, r"b02: the file states the offset -1000, but scene.yaml .* state -900"),
        ("N0511", None, {}, "archives of sentinel2 differ in an additive offset, and the file states none"),
    ],
)
def test_offsets_that_contradict(tmp_path: Path, baseline: str, in_file: float, options: Any, message: str) -> None:
    pixels, scl = safe_numbers()
    write_product(tmp_path / "p" / product_name(TIMES[0], baseline), pixels[0], scl[0], TIMES[0], offset=in_file)
    refused(tmp_path, message, **options)


def test_offsets_that_scene_yaml_states(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    write_products(tmp_path / "p", pixels, scl, TIMES[:1], offset=None)
    with opened(tmp_path, offset=-1000) as reader:
        np.testing.assert_array_equal(reader.read(*WHOLE, slice(None)).pixels, without_offset(pixels[:1]))
    # An archive that has removed the offset says so by baseline, as for the other containers.
    write_products(tmp_path / "q", pixels, scl, TIMES[:1], offset=0)
    with opened(tmp_path, "q", offset={"00.00": 0, "04.00": 0}) as reader:
        np.testing.assert_array_equal(reader.read(*WHOLE, slice(None)).pixels, without_offset(pixels[:1], 0))


def test_attributes_that_are_only_nested(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    (product,) = write_products(tmp_path / "p", pixels, scl, TIMES[:1])
    group = zarr.open_group(str(product), mode="r+", use_consolidated=False)
    for name in (f"{R10M}/b02", f"{R20M}/b05"):
        for attribute in ("scale_factor", "add_offset", "fill_value"):
            del group[name].attrs[attribute]
    zarr.consolidate_metadata(LocalStore(product))
    with opened(tmp_path) as reader:
        np.testing.assert_array_equal(reader.read(*WHOLE, slice(None)).pixels, without_offset(pixels[:1]))
    set_attributes(product, f"{R10M}/b02", add_offset=0)
    refused(tmp_path, r"b02: add_offset is 0, but -0.1 in _eopf_attrs")


@pytest.mark.parametrize(
    ("array", "attributes", "message"),
    [
        ("b03", {"scale_factor": 0.001}, r"b03: the file states reflectance = 0.001 \* number -0.1"),
        ("b03", {"fill_value": 65535}, "b03: no data is 65535 in the file, but 0 for source sentinel2"),
        ("b03", {"common_name": "red"}, "b03: the file says that this band is red"),
        ("b03", {"proj:epsg": 32632}, "b03: contradicting coordinate reference systems"),
        ("b03", {"proj:transform": [10, 0, 600_100, 0, -10, 4_900_020]}, "contradicts the coordinates x"),
        ("x", {}, None),
    ],
)
def test_attributes_that_contradict(tmp_path: Path, array: str, attributes: dict[str, Any], message: str | None) -> None:
    pixels, scl = safe_numbers()
    (product,) = write_products(tmp_path / "p", pixels, scl, TIMES[:1], nested=False)
    set_attributes(product, f"{R10M}/{array}", **attributes)
    if message is None:
        opened(tmp_path).__exit__()
    else:
        refused(tmp_path, message)


def test_the_coordinate_reference_system_is_stated_once_or_the_same(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    where = tmp_path / "p"
    write_product(where / product_name(TIMES[0]), pixels[0], scl[0], TIMES[0], epsg=32632)
    refused(tmp_path, r"contradicting coordinate reference systems: .*'the tile in its name': 'EPSG:32631'")
    write_product(where / product_name(TIMES[0]), pixels[0], scl[0], TIMES[0], epsg=None)  # the name of the tile says it
    with opened(tmp_path) as reader:
        assert reader.grid.crs == "EPSG:32631"
    for tile, code in (("33MXT", 32733), ("01CDH", 32701), ("60NWF", 32660)):
        write_product(tmp_path / "q" / product_name(TIMES[0], tile=tile), pixels[0], scl[0], TIMES[0], epsg=code)
        with opened(tmp_path, f"q/{product_name(TIMES[0], tile=tile)}") as reader:
            assert reader.grid.crs == f"EPSG:{code}"
    write_product(tmp_path / "r" / "own.zarr", pixels[0], scl[0], TIMES[0], epsg=None)
    refused(tmp_path, "no coordinate reference system", "r")


def test_products_of_other_names_are_dated_by_their_attributes(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    where = tmp_path / "p"
    write_product(where / "a", pixels[1], scl[1], TIMES[1])
    write_product(where / "S02MSIL2A_20210103T103329_0000_B108_T123.zarr", pixels[0], scl[0], TIMES[0])
    with opened(tmp_path) as reader:
        assert_windows_equal(reader, without_offset(pixels[:2]), repeated(coarse(scl[:2])), TIMES[:2], tries=1)
    set_attributes(where / "a", "", stac_discovery={"properties": {"datetime": "null", "start_datetime": None}})
    refused(tmp_path, "neither its name nor its attributes stac_discovery contain the date")
    (product,) = write_products(tmp_path / "q", pixels, scl, TIMES[:1])
    set_attributes(product, "", stac_discovery={"properties": {"datetime": "2021-01-04T00:00:10Z"}})
    opened(tmp_path, "q").__exit__()  # an image may begin and end on different days
    set_attributes(product, "", stac_discovery={"properties": {"datetime": "2021-02-03T10:30:10Z"}})
    refused(tmp_path, "its name is of 2021-01-03, but its attributes stac_discovery of 2021-02-03", "q")


def test_coordinates_are_checked(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    (product,) = write_products(tmp_path / "p", pixels, scl, TIMES[:1], nested=False)
    group = zarr.open_group(str(product), mode="r+", use_consolidated=False)
    x = group[f"{R10M}/x"]
    whole = x[:]
    x[:] = whole + 1000
    refused(tmp_path, "contradicts the coordinates x")
    write_products(tmp_path / "q", pixels, scl, TIMES[:1], zarr_format=3)  # which has coordinates only
    x = zarr.open_group(str(tmp_path / "q" / product_name(TIMES[0])), mode="r+", use_consolidated=False)[f"{R10M}/x"]
    x[:] = whole + 1000
    refused(tmp_path, r"r20m/b05: its grid .* does not nest in that of the series", "q")
    x[:] = whole**2
    refused(tmp_path, "b02: coordinates x are not evenly spaced", "q")
    skip = (f"{R10M}/x",)
    write_products(tmp_path / "r", pixels, scl, TIMES[:1], zarr_format=3, skip=skip)
    refused(tmp_path, "b02: neither an attribute transform nor coordinates x and y", "r")
    write_products(tmp_path / "s", pixels, scl, TIMES[:1], zarr_format=2, skip=skip)
    with opened(tmp_path, "s") as reader:
        assert reader.grid.transform == ORIGIN


def test_dates_that_lack_a_band(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    write_products(tmp_path / "p", pixels, scl, TIMES)
    write_product(tmp_path / "p" / product_name(TIMES[1]), pixels[1], scl[1], TIMES[1], skip=("b8a", "scl"))
    refused(tmp_path, f"1 of 4 images are incomplete, missing: B8A, SCL of {TIMES[1]}")
    with opened(tmp_path, incomplete="leave_out") as reader:
        np.testing.assert_array_equal(reader.dates, TIMES[[0, 2, 3]])
        np.testing.assert_array_equal(reader.read(*WHOLE, slice(1, 2)).pixels, without_offset(pixels[2:3]))


def test_what_is_no_product_is_named(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    refused(tmp_path, "p: no such folder")
    (tmp_path / "p").mkdir()
    refused(tmp_path, "p: no product there: no folder like S2B_MSIL2A_")
    zarr.create_group(store=str(tmp_path / "p" / "cube.zarr"))
    refused(tmp_path, "neither its name nor its attributes")
    zarr.create_group(store=str(tmp_path / "q" / product_name(TIMES[0])))
    refused(tmp_path, r"no Sentinel-2 Level-2A product in the EOPF layout: it has no arrays like .*r10m/b02", "q")
    (tmp_path / "r" / product_name(TIMES[0])).mkdir(parents=True)
    refused(tmp_path, "no Zarr group there", "r")
    level = product_name(TIMES[0], level="MSIL1C")
    write_product(tmp_path / "l1c" / level, pixels[0], scl[0], TIMES[0])
    refused(tmp_path, "no Level-2A product; .*passed over 1 products of MSIL1C", "l1c")
    write_products(tmp_path / "l1c", pixels, scl, TIMES)
    with opened(tmp_path, "l1c") as reader:
        assert_windows_equal(reader, without_offset(pixels), repeated(coarse(scl)), TIMES, tries=1)


def test_several_products_of_a_day(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    scl[:] = 4
    scl[0, :, :60] = 9
    # Another orbit on the first day, which sees all; and a processing of the first image that a newer one replaces.
    write_products(tmp_path / "p", pixels, scl, TIMES[:1])
    other = product_name(TIMES[0], orbit="R065").replace("T103329_N", "T104829_N")
    write_product(tmp_path / "p" / other, pixels[1], scl[1], TIMES[0])
    write_product(tmp_path / "p" / product_name(TIMES[0], "N0301"), pixels[2], scl[2], TIMES[0], offset=0)
    write_product(tmp_path / "p" / product_name(TIMES[3]), pixels[3], scl[3], TIMES[3])
    first, second = without_offset(pixels[:1])[0], without_offset(pixels[1:2])[0]
    seen, also = (first != 0).all(axis=0) & (repeated(coarse(scl[0])) == 4), (second != 0).all(axis=0)
    with opened(tmp_path) as reader:
        np.testing.assert_array_equal(reader.dates, TIMES[[0, 3]])
        series = reader.read(*WHOLE, slice(None))
    np.testing.assert_array_equal(series.valid[0], seen | also)
    # Both are of one baseline, so that the later name is preferred.
    for mine, image in ((also, second), (seen & ~also, first)):
        np.testing.assert_array_equal(series.pixels[0][:, mine], image[:, mine])
    np.testing.assert_array_equal(series.pixels[1], without_offset(pixels[3:])[0])
    refused(tmp_path, f"1 of 2 days have several images, such as {TIMES[0]}: .*N0301.*N0511", same_day="error")
    refused(tmp_path, "2 images of .* are of the newest processing baseline", same_day="newest_baseline")


def test_two_tiles_are_refused(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    write_products(tmp_path / "q", pixels, scl, TIMES[:2])
    write_product(tmp_path / "q" / product_name(TIMES[0], tile="31TGJ"), pixels[0], scl[0], TIMES[0])
    refused(tmp_path, "holds the tiles 31TFJ .* 31TGJ", "q")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_absent_and_damaged_chunks(tmp_path: Path, zarr_format: int) -> None:
    pixels, scl = safe_numbers()
    pixels[pixels < 1001] = 1001  # so that 1 after the offset is removed is no clipped number
    scl[:] = 4
    products = write_products(tmp_path / "p", pixels, scl, TIMES, zarr_format=zarr_format)

    def chunk(time: int, array: str, row: int, col: int) -> Path:
        return products[time] / array / (f"{row}.{col}" if zarr_format == 2 else f"c/{row}/{col}")

    chunk(0, f"{R10M}/b02", 1, 1).unlink()
    chunk(1, f"{R20M}/b05", 2, 0).unlink()
    chunk(2, SCL, 0, 1).unlink()
    expected, codes = without_offset(pixels), np.full_like(scl, 4)
    expected[0, 0, 60:120, 60:] = expected[1, 4, 120:, :60] = 0
    codes[2, :60, 60:] = 0
    with opened(tmp_path) as reader:
        series = reader.read(*WHOLE, slice(None))
        np.testing.assert_array_equal(series.pixels, expected)
        np.testing.assert_array_equal(series.quality, codes)
        np.testing.assert_array_equal(series.valid, (expected != 0).all(axis=1) & (codes == 4))
        damaged = chunk(3, f"{R10M}/b04", 0, 0)
        damaged.write_bytes(damaged.read_bytes()[:20])
        assert reader.read(60, 0, 60, 60, slice(3, 4)).valid.all()
        with pytest.raises(ValueError, match=r"r10m/b04: a chunk cannot be decoded, it is damaged or cut off"):
            reader.read(0, 0, 12, 12, slice(3, 4))
        products[2].rename(tmp_path / "elsewhere")
        with pytest.raises(ConnectionError, match="could not be reached: neither the chunk nor the metadata"):
            reader.read(*WHOLE, slice(2, 3))


def test_a_fill_value_of_scl_that_is_clear_counts_as_unobserved(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    scl[:] = 4
    (product,) = write_products(tmp_path / "p", pixels, scl, TIMES[:1])
    metadata = product / SCL / ".zarray"
    metadata.write_text(metadata.read_text().replace('"fill_value": 0', '"fill_value": 4'))
    zarr.consolidate_metadata(LocalStore(product))
    (product / SCL / "0.0").unlink()
    with opened(tmp_path) as reader:
        series = reader.read(*WHOLE, slice(None))
    assert (series.quality[0, :60, :60] == 0).all()
    assert not series.valid[0, :60, :60].any()
    assert (series.quality[0, 60:] == 4).all()


def test_grids_of_later_products_must_be_the_same(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    write_products(tmp_path / "p", pixels, scl, TIMES[:1])
    moved = ORIGIN @ ORIGIN.translation(6, 0)
    write_product(tmp_path / "p" / product_name(TIMES[1]), pixels[1], scl[1], TIMES[1], origin=moved)
    with opened(tmp_path) as reader, pytest.raises(ValueError, match=r"b02: its grid .* does not nest in that of the series"):
        reader.read(*WHOLE, slice(None))


def test_stores_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of whole chunks reads each of them once, and no metadata or coordinates again."""
    pixels, scl = safe_numbers()
    write_products(tmp_path / "p", pixels, scl, TIMES)
    asked: list[str] = []
    get = LocalStore.get

    async def recorded(self: LocalStore, key: str, *arguments: Any, **options: Any) -> Any:
        asked.append(f"{self.root.name}/{key}")
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(LocalStore, "get", recorded)
    with opened(tmp_path) as reader:
        rows, cols = reader.chunk
        reader.read(0, 0, rows, cols, slice(None))  # coordinates of later products are read when they are first needed
        opening = len(asked)
        assert sum(key.endswith(".zmetadata") for key in asked) == len(TIMES)
        assert not any(key.endswith("r60m/x/0") for key in asked)
        asked.clear()
        reader.read(rows, 0, 2 * rows, 2 * cols, slice(None))
        assert len(asked) == len(set(asked)) == len(TIMES) * 11 * 2 * 2, opening
        assert all(re.search(r"/(b\w\w|scl)/\d\.\d$", key) for key in asked)


def test_shards_equal_those_of_a_cube(tmp_path: Path) -> None:
    """An archive of products, and one of the same numbers in one Zarr cube, give the same samples."""
    rng, dates = np.random.default_rng(3), days(2021, 16)
    pixels = rng.integers(1_001, 9_000, (len(dates), 10, 24, 24)).astype(np.uint16)
    scl = repeated(coarse(rng.choice(np.array([4, 5, 6, 9], np.uint8), (len(dates), 24, 24))))
    place = Affine(10.0, 0.0, WEST, 0.0, -10.0, NORTH)
    description = {"split": "train", "land_cover": {"raster": "landcover.tif", "legend": "glc_fcs30d"}}
    cube = Cube(on_fine_grid(pixels), scl, dates)
    write_scene(tmp_path / "cube" / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, **description)
    write_products(tmp_path / "eopf" / "delta" / "s2", pixels, scl, dates, origin=place, chunk=24)
    for kind, source in (
        ("cube", {"container": "zarr_cube", "path": "sentinel2.zarr", "bands": list(SENSOR.bands), "offset": -1000}),
        ("eopf", {"container": "sentinel2_eopf", "path": "s2"}),
    ):
        here = tmp_path / kind / "delta"
        write_land_cover(here / "landcover.tif", np.full((8, 8), 10))
        (here / "scene.yaml").write_text(yaml.safe_dump({"name": "delta", "sources": {"sentinel2": source}, **description}))
        assert run_shard("--input", tmp_path / kind, "--output", tmp_path / f"{kind}_corpus", "--chip_px.sentinel2", "12") == 0
    of_cube, of_products = members(tmp_path / "cube_corpus"), members(tmp_path / "eopf_corpus")
    assert sum(name.endswith("pixels.npy") for name in of_cube) == 4
    assert of_products == of_cube


def members(corpus: Path) -> dict[str, bytes]:
    """The files in the shards of a corpus, by name."""
    found = {}
    for path in sorted(corpus.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    return found
