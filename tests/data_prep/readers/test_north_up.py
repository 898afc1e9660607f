"""Series that are stored from south to north, or from east to west, are read as the north-up ones, in every container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from common.grid import Grid
from data_prep.readers.base import SeriesReader
from data_prep.readers.opening import open_reader
from tests.support.containers import write_sample, write_stacked, write_zarr
from tests.support.series import (
    BOX,
    CRS,
    DATES,
    DAYS,
    HEIGHT,
    SENSORS,
    TRANSFORM,
    WIDTH,
    assert_windows_equal,
    coarse,
    numbers,
    repeated,
    scene,
    write_raster,
)

SENSOR = SENSORS["landsat"]
NORTH_UP = Grid(crs=CRS, transform=TRANSFORM, height=HEIGHT, width=WIDTH)
SIDES = [(True, False), (False, True), (True, True)]  # rows go north, columns go west


def flipped(values: np.ndarray, rows: bool, cols: bool) -> np.ndarray:
    """The array as it is stored with rows that go north, and columns that go west."""
    values = np.flip(values, -2) if rows else values
    return np.ascontiguousarray(np.flip(values, -1) if cols else values)


def flipped_transform(rows: bool, cols: bool, pixel: float = 30.0) -> Affine:
    left, top = TRANSFORM.c, TRANSFORM.f
    right, bottom = left + 30 * WIDTH, top - 30 * HEIGHT
    return Affine(-pixel if cols else pixel, 0, right if cols else left, 0, pixel if rows else -pixel, bottom if rows else top)


def write_flipped_raster(path: Path, values: np.ndarray, rows: bool, cols: bool, nodata: int, pixel: float = 30.0) -> None:
    write_raster(path, flipped(values, rows, cols), flipped_transform(rows, cols, pixel), nodata=nodata)


def geotiffs(folder: Path, pixels: np.ndarray, quality: np.ndarray, rows: bool, cols: bool) -> SeriesReader:
    """HLS files, all flipped but for the quality layer of every second date."""
    for time, date in enumerate(DATES):
        stem = f"HLS.L30.T31TFJ.{date.item():%Y%j}T103000.v2.0"
        for channel, band in enumerate(SENSOR.bands):
            write_flipped_raster(folder / "hls" / f"{stem}.{band}.tif", pixels[time, channel], rows, cols, SENSOR.nodata)
        sides = (rows, cols) if time % 2 else (False, False)
        write_flipped_raster(folder / "hls" / f"{stem}.Fmask.tif", quality[time], *sides, 255)
    return open_reader(scene(folder, "landsat", container="geotiff_scenes", path="hls"), "landsat", SENSORS)


def zarr_cube(folder: Path, pixels: np.ndarray, quality: np.ndarray, rows: bool, cols: bool) -> SeriesReader:
    write_zarr(folder / "cube.zarr", SENSOR, flipped(pixels, rows, cols), flipped(quality, rows, cols))
    group = zarr.open_group(folder / "cube.zarr")
    for name, is_flipped in (("y", rows), ("x", cols)):
        if is_flipped:
            group[name][:] = group[name][:][::-1]
    return open_reader(scene(folder, "landsat", container="zarr_cube", path="cube.zarr"), "landsat", SENSORS)


def zarr_with_transform(folder: Path, pixels: np.ndarray, quality: np.ndarray, rows: bool, cols: bool) -> SeriesReader:
    write_zarr(folder / "cube.zarr", SENSOR, flipped(pixels, rows, cols), flipped(quality, rows, cols), skip=("x", "y"))
    zarr.open_group(folder / "cube.zarr").attrs["transform"] = list(flipped_transform(rows, cols))[:6]
    return open_reader(scene(folder, "landsat", container="zarr_cube", path="cube.zarr"), "landsat", SENSORS)


def netcdf(folder: Path, pixels: np.ndarray, quality: np.ndarray, rows: bool, cols: bool) -> SeriesReader:
    """One variable per band with CF coordinates."""
    placed = flipped_transform(rows, cols)
    with h5py.File(folder / "cube.nc", "w") as file:
        for channel, band in enumerate(SENSOR.bands):
            file[band] = flipped(pixels[:, channel], rows, cols)
        file["Fmask"] = flipped(quality, rows, cols)
        file["time"] = DAYS
        file["x"] = placed.c + placed.a * (np.arange(WIDTH) + 0.5)
        file["y"] = placed.f + placed.e * (np.arange(HEIGHT) + 0.5)
        file["spatial_ref"] = 0
        file["spatial_ref"].attrs["crs_wkt"] = rasterio.crs.CRS.from_user_input(CRS).to_wkt()
    variables = {band: band for band in SENSOR.bands}
    here = scene(folder, "landsat", container="hdf5_cube", path="cube.nc", variables=variables)
    return open_reader(here, "landsat", SENSORS)


def stacked(folder: Path, pixels: np.ndarray, quality: np.ndarray, rows: bool, cols: bool) -> SeriesReader:
    write_stacked(folder / "cube.h5", SENSOR, flipped(pixels, rows, cols), flipped(quality, rows, cols))
    with h5py.File(folder / "cube.h5", "r+") as file:
        file["reflectance"].attrs["transform"] = tuple(flipped_transform(rows, cols))[:6]
    return open_reader(scene(folder, "landsat", container="hdf5_cube", path="cube.h5"), "landsat", SENSORS)


def sample(folder: Path, pixels: np.ndarray, quality: np.ndarray, rows: bool, cols: bool) -> SeriesReader:
    write_sample(folder / "s.h5", flipped(pixels, rows, cols), "landsat", quality=flipped(quality, rows, cols), dates=DAYS)
    with h5py.File(folder / "s.h5", "r+") as file:
        file["landsat"].attrs.update({"crs": CRS, "transform": tuple(flipped_transform(rows, cols))[:6]})
    here = scene(folder, "landsat", container="hdf5_sample", path="s.h5", quality="quality")
    return open_reader(here, "landsat", SENSORS)


@pytest.mark.parametrize(("rows", "cols"), SIDES)
@pytest.mark.parametrize("written", [geotiffs, zarr_cube, zarr_with_transform, netcdf, stacked, sample])
def test_windows_are_those_of_the_north_up_series(
    tmp_path: Path, written: Callable[..., SeriesReader], rows: bool, cols: bool
) -> None:
    pixels, quality = numbers(SENSOR)
    with written(tmp_path, pixels, quality, rows, cols) as reader:
        assert reader.grid == NORTH_UP
        assert_windows_equal(reader, pixels, quality)
        assert min(reader.read(*BOX, slice(None)).pixels.strides) > 0  # PyTorch takes no other arrays


@pytest.mark.parametrize(("rows", "cols"), SIDES)
@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_coarse_bands_in_another_order_of_rows(tmp_path: Path, rows: bool, cols: bool, resampling: str) -> None:
    """Sentinel-2 whose bands of 20 m are flipped and those of 10 m are not, against the same bands stored north-up."""
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    read = {}
    for name, sides in (("flipped", (rows, cols)), ("plain", (False, False))):
        for time, date in enumerate(DATES[:2]):
            granule = tmp_path / name / f"S2A_31TFJ_{date.item():%Y%m%d}_0_L2A"
            for channel, band in enumerate(sensor.bands):
                if channel < 4:
                    write_flipped_raster(granule / f"{band}.tif", pixels[time, channel], False, False, 0)
                else:
                    write_flipped_raster(granule / f"{band}.tif", coarse(pixels[time, channel]), *sides, 0, 60.0)
            write_flipped_raster(granule / "SCL.tif", coarse(quality[time]), *sides, 255, 60.0)
        pattern = r"S2._T?(?P<tile>\w{5})_(?P<date>\d{8})_\d_L2A/(?P<band>\w+)\.tif"
        options = {"pattern": pattern, "date_format": "%Y%m%d", "offset": 0, "resampling": resampling}
        here = scene(tmp_path, "sentinel2", container="geotiff_scenes", path=name, **options)
        with open_reader(here, "sentinel2", SENSORS) as reader:
            read[name] = [reader.read(*box, slice(None)) for box in (BOX, (3, 5, 8, 7))]
    for found, expected in zip(read["flipped"], read["plain"], strict=True):
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        np.testing.assert_array_equal(found.quality, expected.quality)
    np.testing.assert_array_equal(read["flipped"][0].quality, repeated(coarse(quality[:2])))


def test_gdal_warps_the_same_pixels(tmp_path: Path) -> None:
    """Each file of a series from south to north, warped by GDAL onto the north-up grid, holds what the reader gives."""
    pixels, quality = numbers(SENSOR)
    with geotiffs(tmp_path, pixels, quality, True, False) as reader:
        found = reader.read(2, 3, 15, 14, np.array([4]))
        window = reader.grid.window(2, 3, 15, 14)
    path = tmp_path / "hls" / f"HLS.L30.T31TFJ.{DATES[4].item():%Y%j}T103000.v2.0.B05.tif"
    with rasterio.open(path) as raster, WarpedVRT(raster, resampling=Resampling.nearest, **window.profile()) as warped:
        assert raster.transform.e > 0
        np.testing.assert_array_equal(warped.read(1), found.pixels[0, 3])
