"""Readers, against files written with zarr, rasterio and h5py: every window equals a slice of the written arrays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine

from common.grid import grid_from_centres
from data_prep.readers.geotiff_scenes import HLS_PATTERN
from data_prep.readers.offsets import check_offset
from data_prep.readers.opening import CONTAINERS, open_reader
from data_prep.readers.radiometry import harmonised_series
from tests.support.containers import X, Y, write_hls, write_stacked, write_zarr
from tests.support.series import (
    BOX,
    CRS,
    DATES,
    DAYS,
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


@pytest.mark.filterwarnings("ignore")  # zarr: strings have no version 3 specification yet
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("source", ["sentinel2", "modis"])
def test_zarr_windows_equal_slicing(tmp_path: Path, source: str, zarr_format: int) -> None:
    sensor = SENSORS[source]
    pixels, quality = numbers(sensor)
    write_zarr(tmp_path / "c.zarr", sensor, pixels, quality, zarr_format)
    with open_reader(scene(tmp_path, source, container="zarr_cube", path="c.zarr", offset=0), source, SENSORS) as reader:
        assert reader.grid.crs == CRS
        assert reader.grid.transform == TRANSFORM
        assert reader.chunk == (8, 8)
        assert_windows_equal(reader, pixels, quality)


@pytest.mark.filterwarnings("ignore")
def test_zarr_bands_are_chosen_by_name(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    write_zarr(tmp_path / "l.zarr", sensor, pixels[:, ::-1], quality, skip=("band",))
    options = {"container": "zarr_cube", "path": "l.zarr", "bands": list(sensor.bands[::-1])}
    with open_reader(scene(tmp_path, "landsat", **options), "landsat", SENSORS) as reader:
        assert_windows_equal(reader, pixels, quality)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "values", "stated"),
    [
        ("common_name", ["blue", "green", "red", "rededge071", "swir16", "swir22"], "rededge071"),
        ("center_wavelength", [0.48, 0.56, 0.655, 0.704, 1.61, 2.2], "704 nm"),
    ],
)
def test_bands_of_a_stack_that_are_others_by_wavelength(tmp_path: Path, name: str, values: list[Any], stated: str) -> None:
    """A stack of HLS S30 whose bands have the names of L30: its coordinates or attributes say what they are."""
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    message = f"the file says that this band is {stated}, but B05 of source landsat is nir08 at 865 nm"

    def refused(container: str, path: str, **options: Any) -> None:
        here = scene(tmp_path, "landsat", container=container, path=path, **options)
        with pytest.raises(ValueError, match=f"{path}/reflectance: {message}"):
            open_reader(here, "landsat", SENSORS)

    right = {"common_name": "nir", "center_wavelength": 0.859}[name]
    write_zarr(tmp_path / "l.zarr", sensor, pixels, quality)
    group = zarr.open_group(str(tmp_path / "l.zarr"))
    group.create_array(name, data=np.array(values))
    open_reader(scene(tmp_path, "landsat", container="zarr_cube", path="l.zarr"), "landsat", SENSORS).__exit__()
    group["reflectance"].attrs["coordinates"] = f"spatial_ref {name}"  # as xarray names further coordinates
    refused("zarr_cube", "l.zarr")
    refused("zarr_cube", "l.zarr", bands=list(sensor.bands))
    group["reflectance"].attrs["coordinates"] = ""
    group["reflectance"].attrs[f"{name}s"] = values
    refused("zarr_cube", "l.zarr")
    group["reflectance"].attrs[f"{name}s"] = [*values[:3], right, *values[4:]]
    open_reader(scene(tmp_path, "landsat", container="zarr_cube", path="l.zarr"), "landsat", SENSORS).__exit__()

    write_stacked(tmp_path / "l.h5", sensor, pixels, quality)
    with h5py.File(tmp_path / "l.h5", "a") as file:
        file["reflectance"].attrs["coordinates"] = name
        file[name] = np.array(values, dtype="S" if name == "common_name" else None)
    refused("hdf5_cube", "l.h5")
    days = [str(date) for date in DATES]
    with h5py.File(tmp_path / "l.h5", "a") as file:
        file["reflectance"].attrs[name] = values
    refused("hdf5_sample", "l.h5", dataset="reflectance", dates=days)
    variables = {band: f"r_{band}" for band in sensor.bands}
    layers = {variables[band]: pixels[:, channel] for channel, band in enumerate(sensor.bands)}
    write_netcdf(tmp_path / "v.nc", layers | {"Fmask": quality}, 30.0, DAYS)
    with h5py.File(tmp_path / "v.nc", "a") as file:
        for variable in variables.values():
            file[variable].attrs["_FillValue"] = np.int16(-9999)
        file["Fmask"].attrs["_FillValue"] = np.uint8(255)
        file["r_B05"].attrs[name] = values[3]
    here = scene(tmp_path, "landsat", container="hdf5_cube", path="v.nc", variables=variables)
    with pytest.raises(ValueError, match=f"v.nc/r_B05: {message}"):
        open_reader(here, "landsat", SENSORS)


@pytest.mark.filterwarnings("ignore")
def test_offset_is_removed_and_no_data_kept(tmp_path: Path) -> None:
    sensor = SENSORS["sentinel2"]
    pixels = np.full((FRAMES, 10, HEIGHT, WIDTH), 3000, dtype=np.uint16)
    pixels[0, 0, 0, :4] = [0, 1000, 400, 1001]  # no data, reflectance 0, below 0, just above 0
    quality = np.full((FRAMES, HEIGHT, WIDTH), 4, dtype=np.uint8)
    write_zarr(tmp_path / "s2.zarr", sensor, pixels, quality)
    options = {"container": "zarr_cube", "path": "s2.zarr", "offset": -1000}
    with open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS) as reader:
        got = reader.read(0, 0, 1, 5, slice(0, 1))
    assert got.pixels[0, 0, 0].tolist() == [0, 1, 1, 1, 2000]
    assert got.valid[0, 0].tolist() == [False, True, True, True, True]
    assert (got.quality == 4).all(), "the offset never touches quality"


@pytest.mark.parametrize("source", ["sentinel2", "landsat", "modis"])
def test_offsets_equal_wide_arithmetic(source: str) -> None:
    """Numbers and offsets up to the limits of the dtype, different for each date and band, against int64 arithmetic."""
    sensor = SENSORS[source]
    limits = np.iinfo(sensor.dtype)
    rng = np.random.default_rng(0)
    pixels = rng.integers(limits.min, limits.max, (40, 3, 9, 9), endpoint=True).astype(sensor.dtype)
    pixels[:, :, 0, :4] = [limits.min, limits.max, sensor.nodata, sensor.valid_range[0]]
    smallest, largest = sensor.valid_range[0] - limits.max, sensor.valid_range[1] - limits.min
    offsets = rng.integers(smallest, largest, (40, 3), endpoint=True)
    offsets[:10] //= 100
    offsets[[5, 20, 21]] = [[0], [smallest], [largest]]
    offsets[30, 1] = 0
    for offset in (smallest - 1, largest + 1):
        with pytest.raises(ValueError, match=f"offset {offset} moves every number of {sensor.dtype} out of the valid range"):
            check_offset(offset, sensor, "x")
    got = harmonised_series(pixels.copy(), None, DATES[0] + np.arange(40), sensor, offsets)
    wide = pixels.astype(np.int64) + offsets[:, :, None, None]
    expected = np.where(pixels == sensor.nodata, sensor.nodata, np.clip(wide, *sensor.valid_range))
    expected[5], expected[30, 1] = pixels[5], pixels[30, 1]
    np.testing.assert_array_equal(got.pixels, expected)
    low, high = sensor.valid_range
    valid = ((expected != sensor.nodata) & (expected >= low) & (expected <= high)).all(axis=1)
    valid &= (pixels != 0).any(axis=1)  # zeros as stored are not observed
    np.testing.assert_array_equal(got.valid, valid)
    raw = harmonised_series(pixels, None, DATES[0] + np.arange(40), sensor, np.zeros(40, np.int64))
    valid = ((pixels != sensor.nodata) & (pixels >= low) & (pixels <= high) & (pixels != 0).any(axis=1, keepdims=True)).all(
        axis=1
    )
    np.testing.assert_array_equal(raw.valid, valid)


def test_zeros_as_stored_are_not_observed_and_zeros_by_clipping_are() -> None:
    """Two pixels of MODIS: filled with zeros, and so dark that the offset clips them to zero."""
    sensor = SENSORS["modis"]
    pixels = np.zeros((1, len(sensor.bands), 1, 2), sensor.dtype)
    pixels[..., 1] = 10
    got = harmonised_series(pixels, None, DATES[:1], sensor, np.array([-100]))
    assert got.pixels.max() == 0
    assert got.valid[0, 0].tolist() == [False, True]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("skip", "options", "message"),
    [
        ((), {}, "must state it: `offset: -1000`"),
        ((), {"offset": "-1000"}, "offset is '-1000'; expected a whole number"),
        ((), {"offset": 0, "quality": "QA"}, "no array 'QA'; it holds"),
        (
            (),
            {"offset": 0, "chunk": 3},
            r"unknown options \['chunk'\]; valid ones: container, path, bbox, compose, absent_quality",
        ),
        (("time",), {"offset": 0}, "a series without time"),
        (("SCL",), {"offset": 0}, "no array 'SCL'"),
        (("band",), {"offset": 0}, "no one-dimensional array 'band'"),
        (("band",), {"offset": 0, "bands": ["B02", "B03"]}, "2 band names .* for 10 bands"),
        (("x",), {"offset": 0}, "no one-dimensional array 'x'"),
    ],
)
def test_zarr_mistakes_are_named(tmp_path: Path, skip: tuple[str, ...], options: dict[str, Any], message: str) -> None:
    sensor = SENSORS["sentinel2"]
    write_zarr(tmp_path / "s2.zarr", sensor, *numbers(sensor), skip=skip)
    with pytest.raises(ValueError, match=message):
        open_reader(scene(tmp_path, "sentinel2", container="zarr_cube", path="s2.zarr", **options), "sentinel2", SENSORS)


@pytest.mark.filterwarnings("ignore")
def test_zarr_of_another_type_bands_or_axes(tmp_path: Path) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    here = scene(tmp_path, "sentinel2", container="zarr_cube", path="s2.zarr", offset=0)
    with pytest.raises(ValueError, match="no Zarr group there"):
        open_reader(here, "sentinel2", SENSORS)
    write_zarr(tmp_path / "s2.zarr", sensor, pixels.astype(np.float32) * 1e-4, quality)
    with pytest.raises(ValueError, match="stored as float32; source sentinel2 has uint16"):
        open_reader(here, "sentinel2", SENSORS)
    write_zarr(tmp_path / "s2.zarr", SENSORS["landsat"], pixels[:, :6], quality)
    with pytest.raises(ValueError, match="no array 'SCL'; it holds"):
        open_reader(here, "sentinel2", SENSORS)
    group = zarr.open_group(str(tmp_path / "s2.zarr"), mode="a")
    group["SCL"] = quality
    with pytest.raises(ValueError, match=r"has 6 bands .* needs 10 and misses"):
        open_reader(here, "sentinel2", SENSORS)
    array = group.create_array("turned", shape=pixels.shape, dtype=pixels.dtype, dimension_names=["time", "band", "x", "y"])
    assert array.shape == pixels.shape
    group.create_array("geographic", shape=pixels.shape, dtype=pixels.dtype, dimension_names=["time", "band", "lon", "lat"])
    group.create_array("named", shape=pixels.shape, dtype=pixels.dtype, dimension_names=["time", "band", "spalte", "zeile"])
    for name, axes in (("turned", {}), ("geographic", {}), ("named", {"x": "spalte", "y": "r10m/zeile"})):
        with pytest.raises(ValueError, match=r"axes are .*; expected time, band, y, x, so transpose it"):
            open_reader(
                scene(tmp_path, "sentinel2", container="zarr_cube", path="s2.zarr", offset=0, reflectance=name, **axes),
                "sentinel2",
                SENSORS,
            )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_zarr_is_named(tmp_path: Path, zarr_format: int) -> None:
    sensor = SENSORS["landsat"]
    store = tmp_path / "l.zarr"
    here = scene(tmp_path, "landsat", container="zarr_cube", path="l.zarr")
    chunk = store / "reflectance" / ("c/0/0/1/0" if zarr_format == 3 else "0.0.1.0")
    metadata = store / "reflectance" / ("zarr.json" if zarr_format == 3 else ".zarray")
    write_zarr(store, sensor, *numbers(sensor), zarr_format=zarr_format)
    whole = chunk.read_bytes()
    for content in (whole[: len(whole) // 2], b"x" * 50, b""):
        chunk.write_bytes(content)
        with open_reader(here, "landsat", SENSORS) as reader:
            assert reader.read(0, 0, 8, 8, slice(None)).pixels.any()
            with pytest.raises(ValueError, match=r"l\.zarr/reflectance: a chunk cannot be decoded, it is damaged or cut off"):
                reader.read(0, 0, 16, 8, slice(None))
    chunk.write_bytes(whole)
    metadata.write_bytes(metadata.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"l\.zarr: metadata of .* cannot be read"):
        open_reader(here, "landsat", SENSORS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("zarr_format", "shards"), [(2, None), (3, None), (3, (7, 2, 16, 16))])
def test_truncated_blosc_is_an_error(tmp_path: Path, zarr_format: int, shards: tuple[int, ...] | None) -> None:
    """Blosc itself decodes truncated chunks to wrong numbers without an error."""
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    write_zarr(tmp_path / "l.zarr", sensor, pixels, quality, zarr_format)
    group = zarr.open_group(str(tmp_path / "l.zarr"))
    blosc = zarr.codecs.BloscCodec(cname="lz4") if zarr_format == 3 else numcodecs.Blosc(cname="lz4")
    options: dict[str, Any] = {} if shards is None else {"shards": shards}
    group.create_array("packed", data=pixels, chunks=(7, 2, 8, 8), compressors=blosc, **options)
    options = {"container": "zarr_cube", "path": "l.zarr", "reflectance": "packed"}
    chunk = tmp_path / "l.zarr" / "packed" / ("c/0/0/0/0" if zarr_format == 3 else "0.0.0.0")
    whole = chunk.read_bytes()
    with open_reader(scene(tmp_path, "landsat", **options), "landsat", SENSORS) as reader:
        assert_windows_equal(reader, pixels, quality)
        if shards is not None:  # the index is at the end of a shard, so any truncated shard lacks it, which is another error
            chunk.write_bytes(whole[:-1])
            with pytest.raises(ValueError, match="packed: a chunk cannot be decoded, it is damaged or cut off"):
                reader.read(0, 0, 16, 16, slice(None))
            return
        for length in (0, 1, 15, 16, 17, len(whole) // 2, len(whole) - 1):
            chunk.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"packed: a chunk cannot be decoded.*0 has {length} of"):
                reader.read(0, 0, 8, 8, slice(None))
        chunk.write_bytes(whole)
        assert_windows_equal(reader, pixels, quality)


@pytest.mark.filterwarnings("ignore")
def test_dates_of_zarr_that_decrease(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    write_zarr(tmp_path / "l.zarr", sensor, *numbers(sensor))
    group = zarr.open_group(str(tmp_path / "l.zarr"))
    group["time"][:] = np.array([9, 8, 10, 11, 12, 13, 14])
    with pytest.raises(ValueError, match="date 2021-01-12 is followed by 2021-01-11; sort the images by time"):
        open_reader(scene(tmp_path, "landsat", container="zarr_cube", path="l.zarr"), "landsat", SENSORS)


def test_geotiff_windows_equal_slicing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    write_hls(tmp_path / "landsat", pixels, quality)
    here = scene(tmp_path, "landsat", container="geotiff_scenes", path="landsat")
    with open_reader(here, "landsat", SENSORS) as reader:
        assert (reader.grid.crs, reader.grid.transform, reader.grid.shape) == (CRS, TRANSFORM, (HEIGHT, WIDTH))
        assert reader.chunk == (HEIGHT, WIDTH)  # one strip: GDAL makes strips of some 8 kB
        assert_windows_equal(reader, pixels, quality)
    monkeypatch.setattr("data_prep.readers.raster_series.most_open_files", lambda: 3)  # fewer than one date needs
    with open_reader(here, "landsat", SENSORS) as reader:
        assert_windows_equal(reader, pixels, quality)


def test_geotiff_other_names(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    names = {band: f"b{n}" for n, band in enumerate(sensor.bands, 2)} | {"Fmask": "fmask"}
    for time, date in enumerate(DATES):
        for channel, band in enumerate(sensor.bands):
            write_raster(tmp_path / "l" / str(date) / f"X_{date}_{names[band]}.tif", pixels[time, channel])
        write_raster(tmp_path / "l" / str(date) / f"X_{date}_fmask.tif", quality[time])
    options = {"pattern": r".*/X_(?P<date>[\d-]+)_(?P<band>\w+)\.tif", "date_format": "%Y-%m-%d", "band_names": names}
    with open_reader(scene(tmp_path, "landsat", container="geotiff_scenes", path="l", **options), "landsat", SENSORS) as reader:
        assert_windows_equal(reader, pixels, quality)


def test_geotiff_mistakes_are_named(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    folder = tmp_path / "landsat"

    def reader(**options: Any) -> Any:
        return open_reader(scene(tmp_path, "landsat", container="geotiff_scenes", path="landsat", **options), "landsat", SENSORS)

    with pytest.raises(ValueError, match="no such folder"):
        reader()
    write_hls(folder, pixels, quality)
    with pytest.raises(ValueError, match="offset -1000, but source landsat has none"):
        reader(offset=-1000)
    with pytest.raises(ValueError, match=r"one of 56 files is HLS\.L30"):
        reader(pattern=r"(?P<date>\d+)_(?P<band>\w+).tif")
    with pytest.raises(ValueError, match="must have the named groups"):
        reader(pattern=r".*\.tif")
    with pytest.raises(ValueError, match="does not fit date_format"):
        reader(date_format="%Y-%m-%d")
    with pytest.raises(ValueError, match=r"band_names speaks of \['B4'\]"):
        reader(band_names={"B4": "B04"})

    again = folder / "again" / "HLS.L30.T31TFJ.2021003T103000.v2.0.B04.tif"
    write_raster(again, pixels[0, 0])
    with pytest.raises(ValueError, match=r"two files for B04 of 2021-01-03, .*; keep one, or tell images of one day apart"):
        reader(pattern=f"(?:again/)?{HLS_PATTERN}")
    shutil.rmtree(again.parent)

    red = folder / "HLS.L30.T31TFJ.2021003T103000.v2.0.B04.tif"
    for values, extra, message in [
        (pixels[0, 0, 1:], {}, "its grid .23 x 20"),
        (pixels[0, 0], {"transform": Affine.translation(15, 0) @ TRANSFORM}, "its grid .24 x 20"),
        (pixels[0, 0], {"nodata": 0}, "no data is 0 in the file, but -9999"),
        (pixels[0, 0].astype(np.float32), {}, "stored as float32"),
    ]:
        red.unlink()
        write_raster(red, values, **extra)
        with pytest.raises(ValueError, match=message):
            reader()
    red.unlink()
    with pytest.raises(ValueError, match=r"1 of 7 images are incomplete, missing: B04 of 2021-01-03 .*; fetch"):
        reader()


@pytest.mark.parametrize("dates", [DAYS, DAYS.astype(np.int32), np.array([str(date) for date in DATES], dtype="S10")])
def test_hdf5_stacked_windows_equal_slicing(tmp_path: Path, dates: np.ndarray) -> None:
    sensor = SENSORS["modis"]
    pixels, quality = numbers(sensor)
    write_stacked(tmp_path / "modis.h5", sensor, pixels, quality, dates)
    with open_reader(scene(tmp_path, "modis", container="hdf5_cube", path="modis.h5"), "modis", SENSORS) as reader:
        assert (reader.grid.crs, reader.grid.transform) == (CRS, TRANSFORM)
        assert reader.chunk == (8, 8)
        assert_windows_equal(reader, pixels, quality)


def write_netcdf(path: Path, variables: dict[str, np.ndarray], step: float, days: np.ndarray, left: float = 500_000.0) -> None:
    """Write HDF5 as netCDF-4 libraries do: with dimension scales, CF time and a grid mapping."""
    height, width = next(iter(variables.values())).shape[1:]
    with h5py.File(path, "w") as file:
        file["time"] = (days - 16_000) * 24
        file["time"].attrs["units"] = f"hours since {np.datetime64(16_000, 'D')} 00:00:00"
        file["time"].attrs["calendar"] = np.bytes_(b"proleptic_gregorian")
        file["x"] = left + step * (np.arange(width) + 0.5)
        file["y"] = 4_000_000.0 - step * (np.arange(height) + 0.5)
        file["spatial_ref"] = np.int32(0)
        file["spatial_ref"].attrs["spatial_ref"] = np.bytes_(rasterio.crs.CRS.from_string(CRS).to_wkt().encode())
        for name in ("time", "y", "x"):
            file[name].make_scale(name)
        for name, values in variables.items():
            file[name] = values
            file[name].attrs["grid_mapping"] = np.bytes_(b"spatial_ref")
            file[name].attrs["_FillValue"] = np.array([0], dtype=values.dtype)
            for axis, scale in enumerate(("time", "y", "x")):
                file[name].dims[axis].attach_scale(file[scale])


BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
VARIABLES = {band: band.replace("B0", "B") for band in BANDS}


def test_hdf5_variables_of_two_resolutions(tmp_path: Path) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    coarse = pixels[:, 4:, : HEIGHT // 2, : WIDTH // 2]
    names = list(VARIABLES.values())
    fine = {name: pixels[:, i] for i, name in enumerate(names[:4])} | {"SCL": quality.astype(np.uint16)}
    write_netcdf(tmp_path / "10m.nc", fine, 30.0, DAYS)
    # The coarse file contains B2, too; a variable is read from the first file that has it.
    write_netcdf(tmp_path / "20m.nc", {n: coarse[:, i] for i, n in enumerate(names[4:])} | {"B2": coarse[:, 0]}, 60.0, DAYS)
    options = {"container": "hdf5_cube", "paths": ["10m.nc", "20m.nc"], "variables": VARIABLES, "offset": 0}
    expected = np.concatenate([pixels[:, :4], np.kron(coarse, np.ones((1, 1, 2, 2), dtype=np.uint16))], axis=1)
    with open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS) as reader:
        assert (reader.grid.crs, reader.grid.transform, reader.grid.shape) == (CRS, TRANSFORM, (HEIGHT, WIDTH))
        assert reader.chunk == (2, WIDTH)  # not chunked: a row of the coarser file
        assert_windows_equal(reader, expected, quality)

    write_netcdf(tmp_path / "20m.nc", {n: coarse[:, i] for i, n in enumerate(names[4:])}, 60.0, DAYS, left=500_020.0)
    with pytest.raises(ValueError, match=r"20m\.nc/B5: its grid .* does not nest"):
        open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS)
    write_netcdf(tmp_path / "20m.nc", {n: coarse[:, i] for i, n in enumerate(names[4:])}, 60.0, DAYS + 1)
    with pytest.raises(ValueError, match=r"20m\.nc/B5: its dates differ"):
        open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS)
    short = options | {"variables": {k: v for k, v in VARIABLES.items() if k != "B12"}}
    with pytest.raises(ValueError, match=r"needs 10 and misses \['B12'\]"):
        open_reader(scene(tmp_path, "sentinel2", **short), "sentinel2", SENSORS)


def test_hdf5_mistakes_are_named(tmp_path: Path) -> None:
    sensor = SENSORS["modis"]
    pixels, quality = numbers(sensor)
    path = tmp_path / "modis.h5"

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_reader(scene(tmp_path, "modis", container="hdf5_cube", path="modis.h5"), "modis", SENSORS)

    refused("no such file")
    path.write_bytes(b"no HDF5")
    refused("no readable HDF5")
    write_stacked(path, sensor, pixels, quality, dates=None)
    refused("a series without time")
    write_stacked(path, sensor, pixels, quality, dates=DAYS[:-1])
    refused("6 dates for 7 images")
    write_stacked(path, sensor, pixels[:, :5], quality)
    refused("7 band names .* for 5 bands")
    write_stacked(path, SENSORS["landsat"], pixels[:, :6], quality)
    refused(r"has 6 bands .* misses \['b1'")
    write_stacked(path, sensor, pixels.astype(np.int32), quality)
    refused("stored as int32")
    write_stacked(path, sensor, pixels, quality.astype(np.float32))
    refused("quality codes are stored as float32")
    write_stacked(path, sensor, pixels, quality, dates=DAYS[::-1].copy())
    refused("date 2021-10-30 is followed by 2021-02-28; sort the images by time")


def test_damaged_hdf5_is_named(tmp_path: Path) -> None:
    sensor = SENSORS["modis"]
    path = tmp_path / "modis.h5"
    write_stacked(path, sensor, *numbers(sensor))
    here = scene(tmp_path, "modis", container="hdf5_cube", path="modis.h5")
    with h5py.File(path) as file:
        chunk = file["reflectance"].id.get_chunk_info(5)
    whole = path.read_bytes()
    end = chunk.byte_offset + chunk.size
    path.write_bytes(whole[: chunk.byte_offset] + bytes(chunk.size) + whole[end:])
    message = r"modis\.h5/reflectance: cannot be read, it is damaged or cut off"
    with open_reader(here, "modis", SENSORS) as reader, pytest.raises(ValueError, match=message):
        reader.read(0, 0, HEIGHT, WIDTH, slice(None))
    path.write_bytes(whole[: len(whole) - 100])
    with pytest.raises(ValueError, match=r"modis\.h5: no readable HDF5"):
        open_reader(here, "modis", SENSORS)


def test_hdf5_bilinear_like_rasters(tmp_path: Path) -> None:
    """The same numbers as for rasters, from the naive loop of their tests."""
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    coarse = pixels[:, 4:, : HEIGHT // 2, : WIDTH // 2]
    names = list(VARIABLES.values())
    write_netcdf(tmp_path / "10m.nc", {name: pixels[:, i] for i, name in enumerate(names[:4])} | {"SCL": quality}, 30.0, DAYS)
    write_netcdf(tmp_path / "20m.nc", {n: coarse[:, i] for i, n in enumerate(names[4:])}, 60.0, DAYS)
    options = {
        "container": "hdf5_cube",
        "paths": ["10m.nc", "20m.nc"],
        "variables": VARIABLES,
        "offset": 0,
        "resampling": "bilinear",
    }
    with open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS) as reader:
        got = reader.read(2, 3, 9, 8, slice(1, 4))
    np.testing.assert_array_equal(got.pixels[:, :4], pixels[1:4, :4, 2:11, 3:11])
    for frame, channel in ((0, 4), (2, 9)):
        expected = naive_bilinear(coarse[frame + 1, channel - 4], 2, sensor.nodata)[2:11, 3:11]
        np.testing.assert_array_equal(got.pixels[frame, channel], expected)


def test_uneven_coordinates_are_refused() -> None:
    with pytest.raises(ValueError, match="x are not evenly spaced"):
        grid_from_centres(np.array([0.0, 30.0, 61.0]), Y, CRS, "g")
    with pytest.raises(ValueError, match="no coordinate reference system"):
        grid_from_centres(X, Y, "EPSG:nowhere", "g")


def test_open_reader_names_what_is_wrong(tmp_path: Path) -> None:
    here = scene(tmp_path, "modis", container="geotif", path="x")
    with pytest.raises(ValueError, match=f"container is 'geotif'; expected one of {', '.join(CONTAINERS)}"):
        open_reader(here, "modis", SENSORS)
    with pytest.raises(ValueError, match=r"only the sources \['modis'\]"):
        open_reader(here, "landsat", SENSORS)
    with pytest.raises(ValueError, match="unknown source; known are"):
        open_reader(scene(tmp_path, "mars", container="zarr_cube", path="x"), "mars", SENSORS)
    with pytest.raises(ValueError, match="needs `path` or a list `paths`"):
        open_reader(scene(tmp_path, "modis", container="hdf5_cube"), "modis", SENSORS)
    with pytest.raises(ValueError, match="takes one `path`"):
        open_reader(scene(tmp_path, "modis", container="zarr_cube", paths=["a"]), "modis", SENSORS)


def write_variables(folder: Path, pixels: np.ndarray, quality: np.ndarray, zarr_format: int, days: np.ndarray = DAYS) -> None:
    """Write a Zarr store as xarray writes datasets: bands of 30 m in the root group, those of 60 m in the group r20m."""
    root = zarr.open_group(str(folder), mode="w", zarr_format=zarr_format)
    root.create_array("spatial_ref", shape=(), dtype="i4").attrs["crs_wkt"] = rasterio.crs.CRS.from_string(CRS).to_wkt()
    fine = {name.lower(): pixels[:, i] for i, name in enumerate(BANDS[:4])} | {"scl": quality}
    half = {name.lower(): coarse(pixels[:, 4 + i]) for i, name in enumerate(BANDS[4:])}
    for group, layers, step in ((root, fine, 30.0), (root.create_group("r20m"), half, 60.0)):
        height, width = next(iter(layers.values())).shape[1:]
        axes = {"x": 500_000 + step * (np.arange(width) + 0.5), "y": 4_000_000 - step * (np.arange(height) + 0.5)}
        if group is root or days is not DAYS:
            axes["time"] = DAYS if group is root else days
        for name, values in (layers | axes).items():
            dimensions = ["time", "y", "x"] if values.ndim == 3 else [name]
            chunks = (3, 8, 6) if values.ndim == 3 else values.shape
            old = {"attributes": {"_ARRAY_DIMENSIONS": dimensions}}
            names: Any = {"dimension_names": dimensions} if zarr_format == 3 else old
            group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, **names)[...] = values
    root["b03"].attrs.update({"scale_factor": 0.0001, "add_offset": -0.1, "_FillValue": 0})


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_variables_in_groups_of_two_resolutions(tmp_path: Path, zarr_format: int) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    write_variables(tmp_path / "s2.zarr", pixels, quality, zarr_format)
    variables = {band: f"r20m/{band.lower()}" if band in BANDS[4:] else band.lower() for band in reversed(BANDS)}
    options: dict[str, Any] = {"container": "zarr_cube", "path": "s2.zarr", "variables": variables, "quality": "scl"}

    def opened(**more: Any) -> Any:
        return open_reader(scene(tmp_path, "sentinel2", **options | more), "sentinel2", SENSORS)

    def refused(message: str, **more: Any) -> None:
        with pytest.raises(ValueError, match=message):
            opened(**more)

    refused(r"s2\.zarr/b02: archives of sentinel2 differ in an additive offset, and the file states none")
    refused(r"s2\.zarr/b03: the file states the offset -1000, but scene.yaml", offset=0)
    fine = np.concatenate([pixels[:, :4], repeated(coarse(pixels[:, 4:]))], axis=1).astype(int)
    expected = np.where(fine == 0, 0, np.maximum(fine - 1000, 1)).astype(np.uint16)
    with opened(offset=-1000) as reader:
        assert (reader.grid.crs, reader.grid.transform, reader.grid.shape) == (CRS, TRANSFORM, (HEIGHT, WIDTH))
        assert reader.chunk == (16, 12)  # a chunk of the coarser variables
        assert_windows_equal(reader, expected, quality)
    with opened(offset=-1000, resampling="bilinear") as reader:
        got = reader.read(2, 3, 9, 8, slice(1, 2)).pixels[0, 4].astype(int)
    smooth = naive_bilinear(coarse(pixels[1, 4]), 2, 0)[2:11, 3:11].astype(int)
    np.testing.assert_array_equal(got, np.where(smooth == 0, 0, np.maximum(smooth - 1000, 1)))
    chunk = tmp_path / "s2.zarr" / ("r20m/b05/c/0/1/0" if zarr_format == 3 else "r20m/b05/0.1.0")
    chunk.unlink()  # frames 0 to 2, rows 16 to 23 and columns 0 to 11 of the fine grid
    expected[:3, 4, 16:, :12] = 0
    with opened(offset=-1000) as reader:
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, expected)

    short = {band: name for band, name in variables.items() if band != "B12"}
    refused(r"option variables: has 9 bands .* misses \['B12'\]", variables=short, offset=-1000)
    refused(r"no array 'b2'; it holds \['b02'", variables=variables | {"B02": "b2"}, offset=-1000)
    refused(r"b02: has shape \(7, 24, 20\); expected the axes", variables=None, reflectance="b02", offset=-1000)
    refused("expected one of nearest, bilinear", resampling="cubic", offset=-1000)
    root = zarr.open_group(str(tmp_path / "s2.zarr"), mode="r+")
    root["r20m/b05"].attrs["common_name"] = "red"
    refused("r20m/b05: the file says that this band is red, but B05 of source sentinel2 is rededge071", offset=-1000)
    write_variables(tmp_path / "s2.zarr", pixels, quality, zarr_format, days=DAYS + 1)
    refused(r"r20m/b05: its dates differ from those of .*s2\.zarr/b02", offset=-1000)


def test_hdf5_variables_in_groups(tmp_path: Path) -> None:
    """Variables of a group have the coordinates of that group, and what it lacks from the root."""
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    names = list(VARIABLES.values())
    write_netcdf(tmp_path / "s2.nc", {name: pixels[:, i] for i, name in enumerate(names[:4])} | {"SCL": quality}, 30.0, DAYS)
    write_netcdf(tmp_path / "20m.nc", {n: coarse(pixels[:, 4 + i]) for i, n in enumerate(names[4:])}, 60.0, DAYS)
    with h5py.File(tmp_path / "s2.nc", "a") as file, h5py.File(tmp_path / "20m.nc") as other:
        for name in (*names[4:], "x", "y"):
            other.copy(name, file.require_group("r20m"), expand_refs=False)
    variables = {band: name if band in BANDS[:4] else f"r20m/{name}" for band, name in VARIABLES.items()}
    options: dict[str, Any] = {"container": "hdf5_cube", "path": "s2.nc", "variables": variables, "offset": 0}
    expected = np.concatenate([pixels[:, :4], repeated(coarse(pixels[:, 4:]))], axis=1)
    with open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS) as reader:
        assert_windows_equal(reader, expected, quality)
