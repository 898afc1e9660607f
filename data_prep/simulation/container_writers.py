"""Write image series and maps in the containers of archives: Zarr, GeoTIFF and HDF5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import zarr
from zarr.codecs import BloscCodec, BloscShuffle

from common.grid import Grid
from data_prep.archive.sensor import Sensor
from data_prep.simulation.sensor_images import SENTINEL2_ADD, Image

TIME_UNITS = "days since 1970-01-01"
TIME_CHUNK, SPACE_CHUNK = 8, 64


def _days_since_1970(year: int, days: Iterable[int]) -> np.ndarray:
    """Days of the year (1 January is 0) -> days since 1970-01-01, int32 (T,)."""
    start = np.datetime64(f"{year}-01-01", "D").astype(np.int64)
    return np.array([start + day for day in days], dtype=np.int32)


def write_zarr(path: Path, images: Iterable[Image], days: list[int], year: int, grid: Grid, sensor: Sensor) -> None:
    """Write Sentinel-2 as one Zarr v3 group: reflectance (time, band, y, x), SCL (time, y, x), and coordinates with CF names."""
    shape = (len(days), len(sensor.bands), *grid.shape)
    attributes: dict[str, Any] = {
        "title": sensor.title,
        "crs": grid.crs,
        "transform": list(grid.transform)[:6],
        "processing_baseline": "05.09",
        "comment": f"reflectance = (number - {SENTINEL2_ADD}) / 10000; 0 is no data; never apply the offset to SCL",
    }
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)
    compressor = BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.bitshuffle)
    chunk = min(SPACE_CHUNK, grid.height)
    cubes = {
        name: group.create_array(
            name,
            shape=size,
            chunks=(min(TIME_CHUNK, len(days)), *size[1:-2], chunk, chunk),
            dtype=dtype,
            fill_value=0,
            compressors=compressor,
            dimension_names=dimensions,
        )
        for name, size, dtype, dimensions in (
            ("reflectance", shape, "uint16", ("time", "band", "y", "x")),
            ("SCL", (shape[0], *shape[2:]), "uint8", ("time", "y", "x")),
        )
    }
    series = iter(images)
    for start in range(0, len(days), TIME_CHUNK):  # write as many dates at once as a chunk holds
        part = list(islice(series, TIME_CHUNK))
        times = slice(start, start + len(part))
        cubes["reflectance"][times] = np.stack([image.pixels for image in part])
        cubes["SCL"][times] = np.stack([image.quality for image in part])
    centres = grid.transform.c + grid.transform.a * (np.arange(grid.width) + 0.5)
    rows = grid.transform.f + grid.transform.e * (np.arange(grid.height) + 0.5)
    coordinates: dict[str, tuple[np.ndarray, Mapping[str, str]]] = {
        "time": (_days_since_1970(year, days), {"units": TIME_UNITS, "calendar": "standard"}),
        "band": (np.array(sensor.bands, dtype=object), {}),
        "x": (centres, {"units": "m", "standard_name": "projection_x_coordinate"}),
        "y": (rows, {"units": "m", "standard_name": "projection_y_coordinate"}),
    }
    for name, (values, about) in coordinates.items():
        kind = "string" if values.dtype == object else values.dtype
        array = group.create_array(name, shape=values.shape, dtype=kind, dimension_names=(name,), attributes=dict(about))
        array[:] = values


def write_geotiff_scenes(
    folder: Path, images: Iterable[Image], year: int, grid: Grid, sensor: Sensor, tile: str, time: str
) -> None:
    """Write Landsat as HLS delivers it: one file per band and date, HLS.L30.T<tile>.<year and day>T<time>.v2.0.<band>.tif."""
    folder.mkdir()
    for image in images:
        stem = f"HLS.L30.T{tile}.{year}{image.day + 1:03d}T{time}.v2.0"
        for band, numbers in zip(sensor.bands, image.pixels, strict=True):
            write_raster(folder / f"{stem}.{band}.tif", numbers, grid, sensor.nodata, predictor=2)
        write_raster(folder / f"{stem}.Fmask.tif", image.quality, grid, sensor.quality.nodata)


def write_hdf5(path: Path, images: Iterable[Image], year: int, grid: Grid, sensor: Sensor) -> None:
    """Write MODIS as one HDF5 file: reflectance (T, C, H, W), mandatory quality (T, H, W), dates (T,)."""
    series = list(images)
    with h5py.File(path, "w") as file:
        pixels = np.stack([image.pixels for image in series])
        file.create_dataset("reflectance", data=pixels, chunks=(1, *pixels.shape[1:]), compression="gzip", shuffle=True)
        quality = np.stack([image.quality for image in series])
        file.create_dataset(sensor.quality.name, data=quality, chunks=(1, *quality.shape[1:]), compression="gzip")
        file.create_dataset("dates", data=_days_since_1970(year, [image.day for image in series])).attrs["units"] = TIME_UNITS
        file["reflectance"].attrs["_FillValue"] = np.int16(sensor.nodata)
        file["reflectance"].attrs["scale_factor"] = sensor.scale
        for holder in (file, file["reflectance"]):
            holder.attrs["crs"] = grid.crs
            holder.attrs["transform"] = np.array(grid.transform[:6])
            holder.attrs["bands"] = list(sensor.bands)


def write_raster(
    path: Path, values: np.ndarray, grid: Grid, nodata: int, colors: Mapping[int, str] | None = None, predictor: int = 1
) -> None:
    """Write one band as a tiled, deflated GeoTIFF. `colors` (#rrggbb by code) becomes the colour table of a uint8 raster."""
    block = 256 if min(grid.shape) > 256 else 16 * max(1, min(grid.shape) // 16)
    options = {
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "compress": "deflate",
        "predictor": predictor,
        "zlevel": 4,
    }
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype=values.dtype.name, nodata=nodata, **grid.profile(), **options
    ) as file:
        file.write(values, 1)
        if colors:
            file.write_colormap(1, {code: (*bytes.fromhex(color[1:]), 255) for code, color in colors.items()})
