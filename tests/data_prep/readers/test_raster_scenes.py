"""Readers of one file per band and date, on files with the names and layouts of HLS, Sentinel-2 and MODIS archives."""

from __future__ import annotations

import datetime
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject

from common.grid import Grid, nesting_factor
from data_prep.archive.sensor import Quality
from data_prep.readers.opening import open_reader
from data_prep.readers.resampling import read_nested
from tests.support.archives import BAND_METRES, PHYSICAL_BANDS, safe_metadata
from tests.support.containers import (
    SAFE_BASELINES,
    TRANSFORM_10M,
    expected_of_safe,
    on_fine_grid,
    safe_numbers,
    write_safe_products,
)
from tests.support.series import (
    BOX,
    CRS,
    DATES,
    FRAMES,
    HEIGHT,
    SENSORS,
    TRANSFORM,
    WIDTH,
    assert_windows_equal,
    coarse,
    naive_bilinear,
    numbers,
    repeated,
    scene,
    write_raster,
)

COARSE_TRANSFORM = TRANSFORM @ Affine.scale(2)
S2_PATTERN = r"S2._T?(?P<tile>\w{5})_(?P<date>\d{8})_\d_L2A/(?P<band>\w+)\.tif"


def cog(path: Path, values: np.ndarray, transform: Affine = TRANSFORM, nodata: int | None = None) -> None:
    write_raster(path, values, transform, driver="COG", BLOCKSIZE=128, COMPRESS="DEFLATE", nodata=nodata)


def write_hls(folder: Path, pixels: np.ndarray, quality: np.ndarray) -> None:
    for time, date in enumerate(DATES):
        stem = f"HLS.L30.T31TFJ.{date.item():%Y%j}T103000.v2.0"
        for channel, band in enumerate(SENSORS["landsat"].bands):
            cog(folder / stem / f"{stem}.{band}.tif", pixels[time, channel], nodata=-9999)
        cog(folder / stem / f"{stem}.Fmask.tif", quality[time], nodata=255)


def test_hls_of_the_cog_driver_with_a_folder_per_granule(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 9000, (FRAMES, 6, 300, 260)).astype(np.int16)
    quality = rng.integers(0, 256, (FRAMES, 300, 260)).astype(np.uint8)
    write_hls(tmp_path / "hls", pixels, quality)
    pattern = r".*/HLS\.L30\.T(?P<tile>\w{5})\.(?P<date>\d{7})T\d{6}\.v2\.0\.(?P<band>\w+)\.tif"
    options = {"container": "geotiff_scenes", "path": "hls", "pattern": pattern}
    with open_reader(scene(tmp_path, "landsat", **options), "landsat", SENSORS) as reader:
        assert reader.chunk == (128, 128)
        assert_windows_equal(reader, pixels, quality)


def test_a_date_that_lacks_a_band_is_named_or_left_out(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    for time, date in enumerate(DATES):
        for channel, band in enumerate(sensor.bands):
            if (time, band) not in ((2, "B04"), (5, "B07")):
                write_raster(tmp_path / f"{date}_{band}.tif", pixels[time, channel])
        if time != 5:
            write_raster(tmp_path / f"{date}_Fmask.tif", quality[time])
    options: dict[str, Any] = {"pattern": r"(?P<date>[\d-]+)_(?P<band>\w+)\.tif", "date_format": "%Y-%m-%d"}

    def reader(**more: Any) -> Any:
        here = scene(tmp_path, "landsat", container="geotiff_scenes", path=".", **options, **more)
        return open_reader(here, "landsat", SENSORS)

    lacking = f"missing: B04 of {DATES[2]}; B07, Fmask of {DATES[5]}"
    with pytest.raises(ValueError, match=f"2 of 7 images are incomplete, {lacking}; fetch"):
        reader()
    with pytest.warns(UserWarning, match=f"2 of 7 images left out, as `incomplete: leave_out` says, {lacking}"):
        opened = reader(incomplete="leave_out")
    kept = [0, 1, 3, 4, 6]
    with opened:
        assert_windows_equal(opened, pixels[kept], quality[kept], DATES[kept])
    with pytest.raises(ValueError, match="incomplete is 'ignore'; expected one of refuse, leave_out"):
        reader(incomplete="ignore")


def write_sentinel2_cogs(folder: Path, pixels: np.ndarray, scl: np.ndarray, dates: np.ndarray = DATES) -> None:
    """Write one file per band and date, as in cloud archives: B02 ... at 10 m, B05 ... and SCL at 20 m."""
    for time, date in enumerate(dates):
        granule = folder / f"S2A_31TFJ_{date.item():%Y%m%d}_0_L2A"
        for channel, (band, metres) in enumerate(BAND_METRES.items()):
            values = pixels[time, channel]
            if metres == 10:
                write_raster(granule / f"{band}.tif", values, tiled=True, blockxsize=16, blockysize=16, nodata=0)
            else:
                write_raster(
                    granule / f"{band}.tif", coarse(values), COARSE_TRANSFORM, tiled=True, blockxsize=16, blockysize=16, nodata=0
                )
        write_raster(granule / "SCL.tif", coarse(scl[time]), COARSE_TRANSFORM)


def test_sentinel2_cogs_of_two_resolutions(tmp_path: Path) -> None:
    sensor = SENSORS["sentinel2"]
    assert tuple(BAND_METRES) == sensor.bands
    pixels, quality = numbers(sensor)
    write_sentinel2_cogs(tmp_path / "s2", pixels, quality)
    options = {"container": "geotiff_scenes", "path": "s2", "pattern": S2_PATTERN, "date_format": "%Y%m%d", "offset": 0}
    with open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS) as reader:
        assert reader.grid == Grid(crs=CRS, transform=TRANSFORM, height=HEIGHT, width=WIDTH)
        assert reader.chunk == (HEIGHT, WIDTH)  # a tile of 16 x 16 pixels of a coarse band covers 32 x 32, more than the grid has
        assert_windows_equal(reader, on_fine_grid(pixels), repeated(coarse(quality)), tries=40)

    with pytest.raises(ValueError, match="resampling is 'cubic'; expected one of nearest, bilinear"):
        open_reader(scene(tmp_path, "sentinel2", **options, resampling="cubic"), "sentinel2", SENSORS)
    with open_reader(scene(tmp_path, "sentinel2", **options, resampling="bilinear"), "sentinel2", SENSORS) as reader:
        got = reader.read(*BOX, slice(None))
        np.testing.assert_array_equal(got.pixels[:, :4], pixels[:, :4])
        np.testing.assert_array_equal(got.quality, repeated(coarse(quality)))
        for time, channel in ((0, 4), (3, 9)):
            expected = naive_bilinear(coarse(pixels[time, channel]), 2, sensor.nodata)
            np.testing.assert_array_equal(got.pixels[time, channel], expected)
        part = reader.read(3, 5, 8, 7, np.array([1, 4]))
        np.testing.assert_array_equal(part.pixels, got.pixels[[1, 4]][:, :, 3:11, 5:12])


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_bilinear_equals_gdal_inside(factor: int) -> None:
    values = np.random.default_rng(0).integers(1, 9000, (9, 11)).astype(np.uint16)
    own = Grid(crs=CRS, transform=TRANSFORM @ Affine.scale(factor), height=9, width=11)
    fine = Grid(crs=CRS, transform=TRANSFORM, height=9 * factor, width=11 * factor)
    assert nesting_factor(own, fine, "x") == factor

    def read(row: int, col: int, height: int, width: int) -> np.ndarray:
        return values[row : row + height, col : col + width]

    got = read_nested(read, own, factor, (0, 0, *fine.shape), bilinear_nodata=0)
    np.testing.assert_array_equal(got, naive_bilinear(values, factor, 0))
    expected = np.zeros(fine.shape, dtype=np.uint16)
    reproject(
        values,
        expected,
        src_transform=own.transform,
        dst_transform=fine.transform,
        src_crs=CRS,
        dst_crs=CRS,
        src_nodata=0,
        resampling=Resampling.bilinear,
    )
    inside = np.s_[factor:-factor, factor:-factor]  # GDAL weights the border differently
    assert np.abs(got[inside].astype(int) - expected[inside]).max() <= 1  # GDAL rounds halves up


@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize("factor", [2, 3, 6])
def test_any_window_is_part_of_the_whole(factor: int, nodata: int | None) -> None:
    rng = np.random.default_rng(factor)
    values = rng.integers(0, 4, (2, 7, 5)).astype(np.int16)  # a quarter is 0, no data
    own = Grid(crs=CRS, transform=TRANSFORM @ Affine.scale(factor), height=7, width=5)

    def read(row: int, col: int, height: int, width: int) -> np.ndarray:
        assert 0 <= row < row + height <= 7
        assert 0 <= col < col + width <= 5
        return values[:, row : row + height, col : col + width]

    whole = read_nested(read, own, factor, (0, 0, 7 * factor, 5 * factor), nodata)
    if nodata is None:
        np.testing.assert_array_equal(whole, repeated(values, factor))
    else:
        np.testing.assert_array_equal(whole, [naive_bilinear(layer, factor, nodata) for layer in values])
    for _ in range(200):
        row, col = int(rng.integers(0, 7 * factor)), int(rng.integers(0, 5 * factor))
        height, width = int(rng.integers(1, 7 * factor - row + 1)), int(rng.integers(1, 5 * factor - col + 1))
        part = read_nested(read, own, factor, (row, col, height, width), nodata)
        np.testing.assert_array_equal(part, whole[:, row : row + height, col : col + width])


@pytest.mark.parametrize(
    ("transform", "shape", "crs"),
    [
        (COARSE_TRANSFORM @ Affine.translation(0.5, 0), (12, 10), CRS),
        (COARSE_TRANSFORM, (11, 10), CRS),
        (COARSE_TRANSFORM, (13, 10), CRS),
        (COARSE_TRANSFORM, (12, 10), "EPSG:32632"),
        (TRANSFORM @ Affine.scale(2.5), (10, 8), CRS),
        (TRANSFORM @ Affine.scale(2, 1), (24, 10), CRS),
    ],
)
def test_grids_that_do_not_nest(transform: Affine, shape: tuple[int, int], crs: str) -> None:
    fine = Grid(crs=CRS, transform=TRANSFORM, height=HEIGHT, width=WIDTH)
    with pytest.raises(ValueError, match="does not nest in that of the series"):
        nesting_factor(Grid(crs=crs, transform=transform, height=shape[0], width=shape[1]), fine, "B05")


def test_offset_by_date_and_by_baseline_in_file_names(tmp_path: Path) -> None:
    """A series over two processing baselines: dark pixels, no data, and each date with its own offset."""
    sensor = SENSORS["sentinel2"]
    stored = np.full((FRAMES, 10, HEIGHT, WIDTH), 3000, dtype=np.uint16)
    stored[:, :, 0, :3] = [0, 400, 1001]
    baselines = ["0301", "0301", "0400", "0400", "0509", "0509", "0510"]
    for time, date in enumerate(DATES):
        for channel, band in enumerate(sensor.bands):
            write_raster(tmp_path / "s2" / f"{date}_N{baselines[time]}_{band}.tif", stored[time, channel])
        write_raster(tmp_path / "s2" / f"{date}_N{baselines[time]}_SCL.tif", np.full((HEIGHT, WIDTH), 4, dtype=np.uint8))
    base = {
        "container": "geotiff_scenes",
        "path": "s2",
        "date_format": "%Y-%m-%d",
        "pattern": r"(?P<date>[\d-]+)_(?P<baseline>N\d+)_(?P<band>\w+)\.tif",
    }

    def reader(offset: Any, **more: Any) -> Any:
        return open_reader(scene(tmp_path, "sentinel2", **{**base, "offset": offset, **more}), "sentinel2", SENSORS)

    for offset in (
        {"00.00": 0, "04.00": -1000},
        {0.0: 0, 4.0: -1000},  # YAML parses 00.00 and 04.00 to these
        {datetime.date(2015, 6, 23): 0, DATES[2].item(): -1000},
        {str(DATES[2]): -1000, "2015-06-23": 0},  # in any order
    ):
        with reader(offset) as opened:
            got = opened.read(0, 0, 1, 4, slice(None))
        for time in range(FRAMES):
            expected = [0, 400, 1001, 3000] if time < 2 else [0, 1, 1, 2000]
            assert (got.pixels[time, :, 0] == expected).all(), (offset, time)
            assert got.valid[time, 0].tolist() == [False, True, True, True]
    with reader({"05.10": -1000, "00.00": 0}) as opened:
        got = opened.read(0, 3, 1, 1, slice(None))
    assert got.pixels[:, 0, 0, 0].tolist() == [3000] * 6 + [2000]

    with pytest.raises(ValueError, match=f"says nothing of {DATES[0]}, which lies before all of its keys"):
        reader({str(DATES[2]): -1000})
    with pytest.raises(ValueError, match="keys must all be dates like 2022-01-25, or baselines"):
        reader({"04.00": -1000, "2015-06-23": 0})
    with pytest.raises(ValueError, match=r"offset is .*'none'.*; expected a whole number"):
        reader({"04.00": "none"})
    with pytest.raises(ValueError, match="file names give none; `pattern` needs a group baseline"):
        reader({"00.00": 0}, pattern=r"(?P<date>[\d-]+)_N\d+_(?P<band>\w+)\.tif")
    with pytest.raises(ValueError, match=r"must state it: .* or both by date or baseline"):
        reader(None)
    (tmp_path / "s2" / f"{DATES[0]}_N0301_B02.tif").rename(tmp_path / "s2" / f"{DATES[0]}_N0400_B02.tif")
    with pytest.raises(ValueError, match=rf"B02 of {DATES[0]} \(baseline N0301\); B03, .* SCL of {DATES[0]} \(baseline N0400\)"):
        reader({"00.00": 0})


def test_modis_geotiffs_with_a_quality_file_for_each_band(tmp_path: Path) -> None:
    sensor = SENSORS["modis"]
    pixels, _ = numbers(sensor)
    rng = np.random.default_rng(3)
    qualities = rng.choice(np.array([0, 1, 255], np.uint8), (FRAMES, 7, HEIGHT, WIDTH), p=[0.7, 0.25, 0.05])
    for time, date in enumerate(DATES):
        stem = f"MCD43A4.A{date.item():%Y%j}.h18v04.061.2021010041045"
        for band in range(7):
            write_raster(tmp_path / "m" / f"{stem}_Nadir_Reflectance_Band{band + 1}.tif", pixels[time, band], nodata=32767)
            name = f"{stem}_BRDF_Albedo_Band_Mandatory_Quality_Band{band + 1}.tif"
            write_raster(tmp_path / "m" / name, qualities[time, band], nodata=255)
    options = {
        "container": "geotiff_scenes",
        "path": "m",
        "pattern": r"MCD43A4\.A(?P<date>\d{7})\.(?P<tile>h\d\dv\d\d)\.\d+\.\d+_(?P<band>\w+)\.tif",
        "band_names": {f"b{n}": f"Nadir_Reflectance_Band{n}" for n in range(1, 8)}
        | {sensor.quality.name: [f"BRDF_Albedo_Band_Mandatory_Quality_Band{n}" for n in range(1, 8)]},
    }
    with open_reader(scene(tmp_path, "modis", **options), "modis", SENSORS) as reader:
        assert_windows_equal(reader, pixels, qualities.max(axis=1))
    options["band_names"] = {**options["band_names"], "b1": ["Nadir_Reflectance_Band1", "Nadir_Reflectance_Band2"]}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"gives \['b1'\] several names; only the quality layer may have a list"):
        open_reader(scene(tmp_path, "modis", **options), "modis", SENSORS)


def test_the_worst_of_several_quality_layers() -> None:
    classes = Quality(name="SCL", kind="classes", nodata=0, valid=(2, 4, 5))
    layers = [np.array([2, 4, 5, 0, 9]), np.array([4, 3, 0, 8, 2]), np.array([5, 4, 5, 4, 5])]
    assert classes.worst(layers).tolist() == [5, 3, 0, 8, 9]
    assert classes.clear(classes.worst(layers)).tolist() == np.all([classes.clear(layer) for layer in layers], axis=0).tolist()
    bits = Quality(name="QA", kind="bits", nodata=255, reject_bits=(1,))
    assert bits.worst([np.array([1, 2, 255], np.uint8), np.array([4, 0, 1], np.uint8)]).tolist() == [5, 2, 255]


def test_bad_rasters_are_named(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    folder = tmp_path / "landsat"
    write_hls(folder, pixels, quality)
    pattern = r".*/HLS\.L30\.T(?P<tile>\w{5})\.(?P<date>\d{7})T\d{6}\.v2\.0\.(?P<band>\w+)\.tif"

    def reader() -> Any:
        here = scene(tmp_path, "landsat", container="geotiff_scenes", path="landsat", pattern=pattern)
        return open_reader(here, "landsat", SENSORS)

    stem = f"HLS.L30.T31TFJ.{DATES[3].item():%Y%j}T103000.v2.0"
    red = folder / stem / f"{stem}.B04.tif"
    whole = red.read_bytes()

    def refused(message: str) -> None:
        """The fourth date is bad: the file is named, and other dates can be read."""
        with reader() as opened:
            assert opened.read(*BOX, slice(0, 3)).pixels.any()
            with pytest.raises(ValueError, match=message) as caught:
                opened.read(*BOX, slice(2, 5))
            assert red.name in str(caught.value)

    red.write_bytes(whole[: len(whole) // 2])
    refused("cannot be read as a raster: it is missing, damaged or cut off")
    red.write_bytes(b"no TIFF at all")
    refused("cannot be read as a raster: .*not recognized")
    write_raster(red, np.stack([pixels[3, 2], pixels[3, 3]]))
    refused("has 2 bands; expected one file per band")
    write_raster(red, pixels[3, 2], crs="EPSG:32632")
    refused(r"its grid .*EPSG:32632\) does not nest in that of the series .*EPSG:32631\)")
    write_raster(red, pixels[3, 2].astype(np.float32) * 1e-4)
    refused(r"stored as float32; .* convert with round\(reflectance / 0\.0001\), NaN to -9999, as int16")
    write_raster(red, pixels[3, 2].astype(np.int32))
    refused("stored as int32; source landsat has int16")
    with warnings.catch_warnings(action="ignore"):
        write_raster(red, pixels[3, 2], Affine.identity(), crs=None)
    refused("is not georeferenced")
    with reader() as opened:
        red.unlink()
        with pytest.raises(ValueError, match=rf"{stem}\.B04\.tif: cannot be read as a raster: it is missing"):
            opened.read(*BOX, slice(None))
    red.write_bytes(whole)
    write_raster(folder / "x" / f"HLS.L30.T32TGJ.{DATES[0].item():%Y%j}T103000.v2.0.SZA.tif", quality[0])
    other = folder / "x" / "HLS.L30.T32TGJ.2021364T103000.v2.0.B04.tif"
    with reader():
        write_raster(other, pixels[0, 0])
    with pytest.raises(ValueError, match=r"holds the tiles 31TFJ \(49 files\), 32TGJ \(1 files\); .* keep one tile a folder"):
        reader()


# Sentinel-2 SAFE


def open_safe(folder: Path, path: str = "s2", **options: Any) -> Any:
    return open_reader(scene(folder, "sentinel2", container="sentinel2_safe", path=path, **options), "sentinel2", SENSORS)


@pytest.mark.parametrize("listed", [True, False])
def test_safe_products_of_several_baselines(tmp_path: Path, listed: bool) -> None:
    pixels, scl = safe_numbers()
    products = write_safe_products(tmp_path / "s2", pixels, scl, SAFE_BASELINES, listed=listed)
    with open_safe(tmp_path) as reader:
        assert reader.grid == Grid(crs=CRS, transform=TRANSFORM_10M, height=180, width=120)
        assert_windows_equal(reader, expected_of_safe(pixels), repeated(coarse(scl)), DATES[:4])
    with open_safe(tmp_path, path=f"s2/{products[2].name}") as reader:  # a single product
        assert_windows_equal(reader, expected_of_safe(pixels)[2:3], repeated(coarse(scl))[2:3], DATES[2:3])
    with open_safe(tmp_path, resampling="bilinear") as reader:
        got = reader.read(10, 10, 20, 20, slice(0, 1)).pixels[0, 5]
        np.testing.assert_array_equal(got, naive_bilinear(coarse(pixels[0, 5]), 2, 0)[10:30, 10:30])


def test_safe_offset_is_never_guessed(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    early, late = write_safe_products(tmp_path / "s2", pixels[1:3], scl[1:3], ["03.01", "04.00"])
    metadata = late / "MTD_MSIL2A.xml"
    whole = metadata.read_text()

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            open_safe(tmp_path, **options)
        assert late.name in str(caught.value)

    refused(r"the offsets of 2021-01-11 are \[-1000, .*-900, .*\], but scene.yaml states 0", offset=0)
    metadata.write_text(safe_metadata("04.00", None))
    refused("is missing or does not state the additive offset, so scene.yaml must: `offset: -1000`")
    metadata.unlink()
    refused("is missing or does not state the additive offset")
    with open_safe(tmp_path, offset={"2015-06-23": 0, str(DATES[1]): -1000}) as reader:
        got = reader.read(0, 0, 180, 120, slice(None)).pixels
    shifted = np.where(pixels[2] == 0, 0, np.maximum(pixels[2].astype(int) - 1000, 1))
    np.testing.assert_array_equal(got[0], on_fine_grid(pixels[1:2])[0])
    np.testing.assert_array_equal(got[1], on_fine_grid(shifted[None])[0])
    metadata.write_text(whole[:300])
    refused("is not readable XML")
    metadata.write_text('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>')
    refused("is not readable XML: EntitiesForbidden")
    metadata.write_text(safe_metadata("04.00", {"B2": -1000}))
    refused("BOA_ADD_OFFSET does not give a whole number for each band")
    metadata.write_text(safe_metadata("04.00", dict.fromkeys(PHYSICAL_BANDS, -1000), quantification=4000))
    refused("reflectance is number / 4000, but number \\* 0.0001")
    assert early.is_dir()


def test_safe_mistakes_are_named(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    with pytest.raises(ValueError, match="s2: no such folder"):
        open_safe(tmp_path)
    (tmp_path / "s2").mkdir()
    (tmp_path / "s2" / "README").write_text("")
    with pytest.raises(ValueError, match="no Level-2A product: none of its 1 files is like"):
        open_safe(tmp_path)
    products = write_safe_products(tmp_path / "s2", pixels, scl, SAFE_BASELINES)
    (image,) = products[1].glob("GRANULE/*/IMG_DATA/R20m/*_B11_20m.jp2")
    whole = image.read_bytes()
    image.unlink()
    with pytest.raises(ValueError, match=rf"1 of 4 images are incomplete, missing: B11 of {DATES[1]} \(baseline N0301\)"):
        open_safe(tmp_path)
    with pytest.warns(UserWarning, match="1 of 4 images left out"):
        opened = open_safe(tmp_path, incomplete="leave_out")
    with opened as reader:
        kept = [0, 2, 3]
        assert_windows_equal(reader, expected_of_safe(pixels)[kept], repeated(coarse(scl))[kept], DATES[kept], tries=3)
    image.with_name(image.name.replace("T31TFJ", "T32TGJ")).write_bytes(whole)
    with pytest.raises(ValueError, match=r"holds the tiles 31TFJ \(\d+ files\), 32TGJ \(1 files\)"):
        open_safe(tmp_path)
    image.with_name(image.name.replace("T31TFJ", "T32TGJ")).rename(image)
    (granule,) = products[2].glob("GRANULE/*")
    shutil.copytree(granule, granule.with_name("L2A_T31TFJ_A034949_20210119T103309"))
    with pytest.raises(ValueError, match=f"two files for B02 of {DATES[2]}, .*T103308/.*T103309/.*; keep one granule"):
        open_safe(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_jpeg_2000_that_is_cut_off_is_an_error_not_zeros(tmp_path: Path, share: float) -> None:
    """With the default number of threads GDAL reads such a file as zeros, that is no data, without an error."""
    pixels, scl = safe_numbers()
    products = write_safe_products(tmp_path / "s2", pixels[:2], scl[:2], SAFE_BASELINES[:2])
    (image,) = products[1].glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2")
    image.write_bytes(image.read_bytes()[: int(share * image.stat().st_size)])
    with open_safe(tmp_path) as reader:
        assert reader.read(0, 0, 180, 120, slice(0, 1)).pixels.any()
        with pytest.raises(ValueError, match=r"_B04_10m\.jp2: cannot be read as a raster: it is missing, damaged or cut off"):
            reader.read(0, 0, 180, 120, slice(None))


# Products and bands


def write_granules(folder: Path, source: str, product: str, pixels: np.ndarray, quality: np.ndarray, later: int = 0) -> None:
    """HLS granules as a download leaves them: all files in one folder, `later` days after DATES."""
    for time, date in enumerate(DATES + later):
        stem = f"{product}.T31TFJ.{date.item():%Y%j}T103000.v2.0"
        for channel, band in enumerate(SENSORS[source].bands):
            write_raster(folder / f"{stem}.{band}.tif", pixels[time, channel], nodata=-9999)
        write_raster(folder / f"{stem}.Fmask.tif", quality[time], nodata=255)


def test_s30_granules_beside_l30_are_a_source_of_their_own(tmp_path: Path) -> None:
    """B05 is near infrared in L30 and red edge in S30: files of the other product never enter a series."""
    landsat, sentinel = numbers(SENSORS["landsat"]), numbers(SENSORS["hls_s30"], seed=1)
    write_granules(tmp_path / "hls", "landsat", "HLS.L30", *landsat)
    write_granules(tmp_path / "hls", "hls_s30", "HLS.S30", *sentinel, later=3)
    with pytest.warns(UserWarning, match=r"over 77 files of HLS\.S30; .*landsat reads HLS\.L30; HLS\.S30 is source hls_s30"):
        l30 = open_reader(scene(tmp_path, "landsat", container="geotiff_scenes", path="hls"), "landsat", SENSORS)
    with l30 as reader:
        assert_windows_equal(reader, *landsat, tries=3)
    with pytest.warns(UserWarning, match=r"over 49 files of HLS\.L30; .*hls_s30 reads HLS\.S30; HLS\.L30 is source landsat"):
        s30 = open_reader(scene(tmp_path, "hls_s30", container="geotiff_scenes", path="hls"), "hls_s30", SENSORS)
    with s30 as reader:
        assert_windows_equal(reader, *sentinel, DATES + 3, tries=3)
    for file in (tmp_path / "hls").glob("HLS.L30*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"no GeoTIFF fits .*passed over 77 files of HLS\.S30; source landsat reads HLS\.L30"):
        open_reader(scene(tmp_path, "landsat", container="geotiff_scenes", path="hls"), "landsat", SENSORS)


def test_an_own_sensor_without_products_says_which_it_means(tmp_path: Path) -> None:
    own = replace(SENSORS["landsat"], name="own", products=(), common_names={}, wavelengths_nm={}, bands=("B02", "B03", "B04"))
    pixels, quality = numbers(own)
    options = {"container": "geotiff_scenes", "path": "hls"}
    for product, later in (("HLS.L30", 0), ("HLS.S30", 3)):
        sensors = {"own": own}
        for time, date in enumerate(DATES + later):
            stem = f"{product}.T31TFJ.{date.item():%Y%j}T103000.v2.0"
            for channel, band in enumerate(own.bands):
                write_raster(tmp_path / "hls" / f"{stem}.{band}.tif", pixels[time, channel], nodata=-9999)
            write_raster(tmp_path / "hls" / f"{stem}.Fmask.tif", quality[time], nodata=255)
        if later == 0:  # a single product is no question
            with open_reader(scene(tmp_path, "own", **options), "own", sensors) as reader:
                assert_windows_equal(reader, pixels, quality, tries=2)
    with pytest.raises(ValueError, match=r"holds 28 files of HLS\.L30, 28 files of HLS\.S30.*which of them source own is"):
        open_reader(scene(tmp_path, "own", **options), "own", sensors)
    both = {"own": replace(own, products=("HLS.L30", "HLS.S30"))}  # blue, green and red are the same in both
    with open_reader(scene(tmp_path, "own", **options), "own", both) as reader:
        np.testing.assert_array_equal(reader.dates, np.sort(np.concatenate([DATES, DATES + 3])))


def test_files_that_do_not_fit_the_pattern_are_counted(tmp_path: Path) -> None:
    pixels, quality = numbers(SENSORS["landsat"])
    write_granules(tmp_path / "hls", "landsat", "HLS.L30", pixels, quality)
    for name in ("labels.tif", "old/HLS.L30.T31TFJ.2020003T103000.v1.4.tif"):
        write_raster(tmp_path / "hls" / name, quality[0])
    with pytest.warns(UserWarning, match=r"passed over 2 GeoTIFFs whose names do not fit the pattern, such as labels\.tif"):
        open_reader(scene(tmp_path, "landsat", container="geotiff_scenes", path="hls"), "landsat", SENSORS).__exit__()


@pytest.mark.parametrize(
    ("tags", "stated"),
    [
        ({"common_name": "rededge071"}, "rededge071"),
        ({"center_wavelength": "0.704"}, "704 nm"),  # micrometres, as STAC has it
        ({"wavelength": "704.1 nm"}, "704.1 nm"),
        ({"CENTRAL_WAVELENGTH_UM": "0.704", "COMMON_NAME": "rededge071"}, "rededge071 at 704 nm"),
    ],
)
def test_a_file_that_says_it_holds_another_band_is_refused(tmp_path: Path, tags: dict[str, str], stated: str) -> None:
    pixels, quality = numbers(SENSORS["landsat"])
    write_granules(tmp_path / "hls", "landsat", "HLS.L30", pixels, quality)
    nir = tmp_path / "hls" / f"HLS.L30.T31TFJ.{DATES[0].item():%Y%j}T103000.v2.0.B05.tif"
    with rasterio.open(nir, "r+") as file:
        file.update_tags(common_name="nir", wavelength="0.86")  # in other words the same band
    here = scene(tmp_path, "landsat", container="geotiff_scenes", path="hls")
    open_reader(here, "landsat", SENSORS).__exit__()
    with rasterio.open(nir, "r+") as file:
        file.update_tags(common_name="", wavelength="")
        file.update_tags(1, **tags)
    message = rf"{nir.name}: the file says that this band is {stated}, but B05 of source landsat is nir08 at 865 nm"
    with pytest.raises(ValueError, match=message):
        open_reader(here, "landsat", SENSORS)


def test_level_1c_beside_level_2a_is_passed_over(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    write_safe_products(tmp_path / "s2", pixels[:1], scl[:1], SAFE_BASELINES[:1])
    product = tmp_path / "s2" / "S2A_MSIL1C_20210111T103021_N0400_R108_T31TFJ_20210111T154321.SAFE"
    images = product / "GRANULE" / "L1C_T31TFJ_A034949_20210111T103308" / "IMG_DATA"
    images.mkdir(parents=True)
    for band in ("B02", "B03"):
        (images / f"T31TFJ_20210111T103021_{band}.jp2").write_bytes(b"")
    with pytest.warns(UserWarning, match="s2: passed over 2 files of MSIL1C; source sentinel2 reads MSIL2A and L2A"):
        opened = open_safe(tmp_path)
    with opened as reader:
        np.testing.assert_array_equal(reader.dates, DATES[:1])
    with pytest.raises(ValueError, match=r"no Level-2A product: none of its 2 files .* passed over 2 files of MSIL1C"):
        open_safe(tmp_path, path=f"s2/{product.name}")
