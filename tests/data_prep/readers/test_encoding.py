"""Scale, offset and no-data numbers that files state, in every container: they decide, or one error names the contradiction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import zarr

from data_prep.archive.sensor import Sensor
from data_prep.readers.encoding import cf_encoding, check_encoding
from data_prep.readers.offsets import check_baseline
from data_prep.readers.opening import open_reader
from tests.support.archives import mcd43a4_name, write_mcd43a4
from tests.support.containers import SAFE_BASELINES, safe_numbers, write_safe_products
from tests.support.series import BOX, DATES, SENSORS, numbers, scene, write_raster
from tests.support.written_series import WRITERS, Writer, geotiff, hdf5_stacked

pytestmark = pytest.mark.filterwarnings("ignore")  # zarr: strings have no version 3 specification yet
FLOAT32_SCALE = float(np.float32(0.0001))  # as files of other tools have it


def opened(folder: Path, sensor: Sensor, options: dict[str, Any]) -> Any:
    return open_reader(scene(folder, sensor.name, **options), sensor.name, {sensor.name: sensor})


@pytest.mark.parametrize("write", WRITERS)
def test_an_offset_that_the_file_states_is_known(tmp_path: Path, write: Writer) -> None:
    """reflectance = scale_factor * number + add_offset, by the formula of CF and GDAL."""
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    options = write(tmp_path, sensor, pixels, quality, {"scale_factor": FLOAT32_SCALE, "add_offset": float(np.float32(-0.1))})
    reflectance = pixels * 0.0001 - 0.1
    for stated in ({}, {"offset": -1000}):
        with opened(tmp_path, sensor, options | stated) as reader:
            got = reader.read(*BOX, slice(None))
        seen = pixels != 0
        np.testing.assert_allclose(got.pixels[seen] * sensor.scale, np.maximum(reflectance[seen], 0.0001), atol=1e-9)
        assert (got.pixels[~seen] == 0).all()
    message = "the file states the offset -1000, but scene.yaml or the metadata of the product state 0; leave `offset` out"
    for wrong in (0, {"2015-06-23": 0, str(DATES[-1]): -1000}):
        with pytest.raises(ValueError, match=message), opened(tmp_path, sensor, options | {"offset": wrong}) as reader:
            reader.read(*BOX, slice(None))


@pytest.mark.parametrize("write", WRITERS)
def test_a_scale_alone_states_no_offset(tmp_path: Path, write: Writer) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    options = write(tmp_path, sensor, pixels, quality, {"scale_factor": 0.0001})
    with pytest.raises(ValueError, match=r"and the file states none, so scene\.yaml must state it"):
        opened(tmp_path, sensor, options)
    for offset in (0, -1000):
        with opened(tmp_path, sensor, options | {"offset": offset}) as reader:
            got = reader.read(*BOX, slice(None)).pixels
        np.testing.assert_array_equal(got, np.where(pixels == 0, 0, np.maximum(pixels.astype(int) + offset, 1)))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("attributes", "stated"),
    [
        ({"scale_factor": 0.00005, "add_offset": 0.0}, r"5e-05 \* number \+0"),
        ({"scale_factor": 0.00005, "add_offset": -0.05}, r"5e-05 \* number -0\.05"),
        ({"add_offset": -1000.0}, r"1 \* number -1000"),
    ],
)
def test_another_scale_is_one_error(tmp_path: Path, write: Writer, attributes: dict[str, Any], stated: str) -> None:
    sensor = SENSORS["landsat"]
    options = write(tmp_path, sensor, *numbers(sensor), attributes)
    message = (
        rf"the file states reflectance = {stated}, but it is 0\.0001 \* number for source landsat; describe the data as a sensor"
    )
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, sensor, options)


@pytest.mark.parametrize("write", WRITERS)
def test_encodings_that_say_nothing_or_the_same(tmp_path: Path, write: Writer) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    for attributes in ({"scale_factor": 1.0, "add_offset": 0.0}, {"scale_factor": FLOAT32_SCALE, "add_offset": 0.0}):
        with opened(tmp_path, sensor, write(tmp_path, sensor, pixels, quality, attributes)) as reader:
            np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, pixels)


@pytest.mark.parametrize("write", WRITERS)
def test_an_offset_of_a_source_that_has_none(tmp_path: Path, write: Writer) -> None:
    sensor = SENSORS["landsat"]
    options = write(tmp_path, sensor, *numbers(sensor), {"scale_factor": 0.0001, "add_offset": -0.1})
    with pytest.raises(ValueError, match=r"states the offset -1000, but source landsat has none; .* offset_varies: true"):
        opened(tmp_path, sensor, options)


def test_an_offset_between_two_numbers_is_rounded(tmp_path: Path) -> None:
    """Landsat Collection 2: reflectance = 0.0000275 * number - 0.2, an offset of -7272.7 numbers."""
    sensor = replace(
        SENSORS["sentinel2"], name="c2", scale=0.0000275, bands=("B02", "B03", "B04"), common_names={}, wavelengths_nm={}
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(7274, 43_637, (len(DATES), 3, 24, 20)).astype(np.uint16)
    quality = np.full((len(DATES), 24, 20), 4, np.uint8)
    options = hdf5_stacked(tmp_path, sensor, pixels, quality, {"scale_factor": 0.0000275, "add_offset": -0.2})
    for stated in ({}, {"offset": -7273}, {"offset": -7272}):
        with opened(tmp_path, sensor, options | stated) as reader:
            got = reader.read(*BOX, slice(None)).pixels
        np.testing.assert_allclose(got * sensor.scale, pixels * 0.0000275 - 0.2, atol=0.0000275)


def test_each_raster_states_its_own_offset(tmp_path: Path) -> None:
    """A series over two processing baselines whose files state their offsets needs no statement in scene.yaml."""
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    options = geotiff(tmp_path, sensor, pixels, quality, {"scale_factor": 0.0001, "add_offset": -0.1})
    for time, date in enumerate(DATES[:3]):
        for channel, band in enumerate(sensor.bands):
            write_raster(tmp_path / "t" / f"{date.item():%Y%m%d}_{band}.tif", pixels[time, channel])
    early = {"offset": {"2015-06-23": 0, str(DATES[3]): -1000}}
    with opened(tmp_path, sensor, options | early) as reader:
        got = reader.read(*BOX, slice(None)).pixels
    np.testing.assert_array_equal(got[:3], pixels[:3])
    np.testing.assert_array_equal(got[3:], np.where(pixels[3:] == 0, 0, np.maximum(pixels[3:].astype(int) - 1000, 1)))
    with pytest.raises(ValueError, match=f"{DATES[0].item():%Y%m%d}_B02.tif: .* the file states none"):
        opened(tmp_path, sensor, options)
    late = tmp_path / "t" / f"{DATES[5].item():%Y%m%d}_B11.tif"
    with rasterio.open(late, "r+") as file:
        file.offsets = (-0.09,)
    with opened(tmp_path, sensor, options | early) as reader:
        assert reader.read(*BOX, slice(3, 5)).valid.any()
        with pytest.raises(ValueError, match=f"{late.name}: the file states the offset -900, but .* state -1000"):
            reader.read(*BOX, slice(None))


@pytest.mark.parametrize(
    ("scale", "offset", "message"),
    [
        (0.0001, 0.0, None),
        (10_000.0, 0.0, None),  # MOD09 states the inverse
        (0.00005, 0.0, r"reflectance = 5e-05 \* number \+0"),
        (0.0001, 1000.0, "the file states the offset -1000, but source modis has none"),  # HDF4: scale * (number - offset)
    ],
)
def test_scale_of_hdf4_fields(tmp_path: Path, scale: float, offset: float, message: str | None) -> None:
    from pyhdf.SD import SD, SDC

    sensor = SENSORS["modis"]
    pixels, _ = numbers(sensor)
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / mcd43a4_name(DATES[0])
    write_mcd43a4(path, pixels[0], np.zeros(pixels[0].shape, np.uint8))
    file = SD(str(path), SDC.WRITE)
    for band in range(1, 8):
        field = file.select(f"Nadir_Reflectance_Band{band}")
        field.attr("scale_factor").set(SDC.FLOAT64, scale)
        field.attr("add_offset").set(SDC.FLOAT64, offset)
        field.endaccess()
    file.end()
    options = {"container": "modis_hdf4", "path": "m"}
    if message is None:
        with opened(tmp_path, sensor, options) as reader:
            np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, pixels[:1])
    else:
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, sensor, options)


@pytest.mark.parametrize("write", WRITERS)
def test_no_data_of_a_quality_layer_that_is_a_clear_code(tmp_path: Path, write: Writer) -> None:
    """A file says that 0 is not observed, and the sensor that 0 is clear: nobody can know which holds."""
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    options = write(tmp_path, sensor, pixels, quality, {})
    for nodata, refused in ((255, False), (2, False), (0, True)):  # 2: cloud, so such a pixel is not clear anyway
        if options["container"] == "zarr_cube":
            zarr.open_group(str(tmp_path / "s.zarr"))["Fmask"].attrs["_FillValue"] = nodata
        elif options["container"] == "geotiff_scenes":
            for time, date in enumerate(DATES):
                write_raster(tmp_path / "t" / f"{date.item():%Y%m%d}_Fmask.tif", quality[time], nodata=nodata)
        else:
            with h5py.File(tmp_path / options["path"], "a") as file:
                file["Fmask"].attrs["_FillValue"] = np.uint8(nodata)
        if refused:
            with pytest.raises(ValueError, match="no data is 0 in the file, but that code of Fmask is clear for source landsat"):
                opened(tmp_path, sensor, options)
        else:
            opened(tmp_path, sensor, options).__exit__()


def test_what_is_no_scale_is_named() -> None:
    sensor = SENSORS["landsat"]
    dtype = np.dtype("int16")
    for value in ("one", [0.0001, 0.0002], float("nan")):
        with pytest.raises(ValueError, match=r"r: scale_factor is .*; expected one number"):
            cf_encoding(dtype, {"scale_factor": value}, "r")
    assert check_encoding(cf_encoding(dtype, {"scale_factor": [0.0001, 0.0001]}, "r"), sensor, "r") is None
    for name in ("missing_value", "nodata"):
        with pytest.raises(ValueError, match="r: no data is 0 in the file, but -9999 for source landsat"):
            check_encoding(cf_encoding(dtype, {name: np.int16(0)}, "r"), sensor, "r")


def test_a_baseline_in_file_names_contradicts_a_wrong_offset(tmp_path: Path) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    for time, date in enumerate(DATES):
        baseline = "N0301" if time < 2 else "N0500"
        for channel, band in enumerate(sensor.bands):
            write_raster(tmp_path / "t" / f"{date.item():%Y%m%d}_{baseline}_{band}.tif", pixels[time, channel])
        write_raster(tmp_path / "t" / f"{date.item():%Y%m%d}_{baseline}_SCL.tif", quality[time])
    pattern = r"(?P<date>\d{8})_(?P<baseline>N\d+)_(?P<band>\w+)\.tif"
    options = {"container": "geotiff_scenes", "path": "t", "pattern": pattern, "date_format": "%Y%m%d"}

    def refused(offset: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, sensor, options | {"offset": offset})

    # All images were processed again, so the dates of 2022 say nothing about the offset.
    refused(0, f"states the offset 0 for {DATES[2]}, but its processing baseline is N0500, and the offset is -1000 from 04.00")
    refused({"2015-06-23": 0, "2022-01-25": -1000}, f"states the offset 0 for {DATES[2]}, but its processing baseline is N0500")
    refused(
        -1000,
        f"states the offset -1000 for {DATES[0]}, but its processing baseline is N0301, and the offset is none before 04.00",
    )
    refused({"00.00": -1000}, "its processing baseline is N0301")
    for offset, added in (({"00.00": 0, "04.00": -1000}, -1000), ({"00.00": 0, "04.00": 0}, 0)):  # the second: harmonised
        with opened(tmp_path, sensor, options | {"offset": offset}) as reader:
            got = reader.read(*BOX, slice(None)).pixels
        np.testing.assert_array_equal(got[:2], pixels[:2])
        np.testing.assert_array_equal(got[2:], np.where(pixels[2:] == 0, 0, np.maximum(pixels[2:].astype(int) + added, 1)))
    check_baseline(-1000, "N0301", replace(sensor, offset_varies=False), DATES[0], "x")  # a baseline of another kind of product


def test_the_name_of_a_safe_product_contradicts_a_wrong_offset(tmp_path: Path) -> None:
    pixels, scl = safe_numbers()
    sensor = SENSORS["sentinel2"]
    for product in write_safe_products(tmp_path / "s2", pixels[:3], scl[:3], SAFE_BASELINES[:3]):
        (product / "MTD_MSIL2A.xml").unlink()
    options = {"container": "sentinel2_safe", "path": "s2"}
    with pytest.raises(ValueError, match=f"states the offset 0 for {DATES[2]}, but its processing baseline is N0400"):
        opened(tmp_path, sensor, options | {"offset": 0})
    with pytest.raises(ValueError, match=f"states the offset -1000 for {DATES[0]}, but its processing baseline is N0209"):
        opened(tmp_path, sensor, options | {"offset": -1000})
    opened(tmp_path, sensor, options | {"offset": {"2015-06-23": 0, str(DATES[2]): -1000}}).__exit__()
