"""One series in every container that states an encoding by attributes, and the options of scene.yaml that read it.

Each writer takes a folder, a sensor, pixels (T, C, H, W), quality (T, H, W) and attributes of the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import zarr

from data_prep.archive.sensor import Sensor
from tests.support.containers import write_sample, write_stacked, write_zarr
from tests.support.series import CRS, DATES, TRANSFORM, write_raster

Attributes = dict[str, Any]
Writer = Callable[[Path, Sensor, np.ndarray, np.ndarray, Attributes], dict[str, Any]]
PATTERN = r"(?P<date>\d{8})_(?P<band>\w+)\.tif"


def zarr_2(folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes) -> dict[str, Any]:
    write_zarr(folder / "s.zarr", sensor, pixels, quality, zarr_format=2)
    zarr.open_group(str(folder / "s.zarr"))["reflectance"].attrs.update(attributes)
    return {"container": "zarr_cube", "path": "s.zarr"}


def zarr_3(folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes) -> dict[str, Any]:
    write_zarr(folder / "s.zarr", sensor, pixels, quality, zarr_format=3)
    zarr.open_group(str(folder / "s.zarr"))["reflectance"].attrs.update(attributes)
    return {"container": "zarr_cube", "path": "s.zarr"}


def hdf5_stacked(folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes) -> dict[str, Any]:
    write_stacked(folder / "s.h5", sensor, pixels, quality)
    with h5py.File(folder / "s.h5", "a") as file:
        file["reflectance"].attrs.update({name: np.array([value]) for name, value in attributes.items()})  # as netCDF writes them
    return {"container": "hdf5_cube", "path": "s.h5"}


def hdf5_variables(
    folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes
) -> dict[str, Any]:
    with h5py.File(folder / "v.h5", "w") as file:
        file.attrs.update({"crs": CRS, "transform": tuple(TRANSFORM)[:6]})
        file["time"] = DATES.astype(np.int64)
        file[sensor.quality.name] = quality
        for channel, band in enumerate(sensor.bands):
            file[band] = pixels[:, channel]
            file[band].attrs.update(attributes)
    return {"container": "hdf5_cube", "path": "v.h5", "variables": {band: band for band in sensor.bands}}


def hdf5_sample(folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes) -> dict[str, Any]:
    write_sample(folder / "0001.h5", pixels, sensor.name, **{sensor.quality.name: quality})
    with h5py.File(folder / "0001.h5", "a") as file:
        file[sensor.name].attrs.update(attributes)
    dates = [str(date) for date in DATES]
    return {"container": "hdf5_sample", "path": "0001.h5", "quality": sensor.quality.name, "dates": dates}


def geotiff(folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes) -> dict[str, Any]:
    """Scale and offset in GDAL's own words."""
    for time, date in enumerate(DATES):
        for channel, band in enumerate(sensor.bands):
            path = folder / "t" / f"{date.item():%Y%m%d}_{band}.tif"
            write_raster(path, pixels[time, channel], nodata=sensor.nodata)
            with rasterio.open(path, "r+") as file:
                file.scales, file.offsets = (attributes.get("scale_factor", 1.0),), (attributes.get("add_offset", 0.0),)
        write_raster(folder / "t" / f"{date.item():%Y%m%d}_{sensor.quality.name}.tif", quality[time])
    return {"container": "geotiff_scenes", "path": "t", "pattern": PATTERN, "date_format": "%Y%m%d"}


def geotiff_tags(folder: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, attributes: Attributes) -> dict[str, Any]:
    """Scale and offset as tags in the words of CF, as HLS and conversions from netCDF have them."""
    options = geotiff(folder, sensor, pixels, quality, {})
    for path in (folder / "t").glob("*_B*.tif"):
        with rasterio.open(path, "r+") as file:
            file.update_tags(**{name: str(value) for name, value in attributes.items()})
    return options


WRITERS: list[Writer] = [zarr_2, zarr_3, hdf5_stacked, hdf5_variables, hdf5_sample, geotiff, geotiff_tags]
