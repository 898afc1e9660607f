"""Writers of series in the containers that tests of readers open, and the pixels to expect of SAFE products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from affine import Affine

from data_prep.archive.sensor import Sensor
from tests.support.archives import BAND_METRES, PHYSICAL_BANDS, safe_metadata, write_safe
from tests.support.series import CRS, DATES, DAYS, HEIGHT, SENSORS, TRANSFORM, WIDTH, coarse, repeated, write_raster

X = 500_015.0 + 30 * np.arange(WIDTH)
Y = 3_999_985.0 - 30 * np.arange(HEIGHT)
TRANSFORM_10M = Affine(10.0, 0.0, 600_000.0, 0.0, -10.0, 4_900_020.0)
SAFE_BASELINES = ["02.09", "03.01", "04.00", "05.09"]


def write_zarr(
    path: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, zarr_format: int = 3, skip: tuple[str, ...] = ()
) -> None:
    """Write a Zarr group as xarray does: with named dimensions and one-dimensional coordinate arrays."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    group.attrs["crs"] = CRS
    layout = {
        "reflectance": (pixels, ["time", "band", "y", "x"]),
        sensor.quality.name: (quality, ["time", "y", "x"]),
        "time": (DAYS - DAYS[0], ["time"]),
        "band": (np.array(sensor.bands), ["band"]),
        "x": (X, ["x"]),
        "y": (Y, ["y"]),
    }
    for name, (values, dimensions) in layout.items():
        if name in skip:
            continue
        names = {"dimension_names": dimensions} if zarr_format == 3 else {}
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=tuple(min(8, n) for n in values.shape), **names
        )
        array[...] = values
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = dimensions
        if name == "time":
            array.attrs["units"] = f"days since {DATES[0]} 00:00:00"


def write_hls(folder: Path, pixels: np.ndarray, quality: np.ndarray, dtype: str = "int16") -> None:
    sensor = SENSORS["landsat"]
    for time, date in enumerate(DATES):
        stem = f"HLS.L30.T31TFJ.{date.item():%Y%j}T103000.v2.0"
        for channel, band in enumerate(sensor.bands):
            write_raster(folder / f"{stem}.{band}.tif", pixels[time, channel].astype(dtype), nodata=sensor.nodata)
        write_raster(folder / f"{stem}.Fmask.tif", quality[time], nodata=255)
        write_raster(folder / f"{stem}.SZA.tif", quality[time])  # HLS has more layers than are read


def write_stacked(path: Path, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, dates: Any = DAYS) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("reflectance", data=pixels, chunks=(3, 2, 8, 8), compression="gzip")
        data.attrs.update({"crs": CRS, "transform": tuple(TRANSFORM)[:6], "bands": list(sensor.bands)})
        file[sensor.quality.name] = quality
        if dates is not None:
            file["dates"] = dates


def write_sample(path: Path, pixels: np.ndarray, dataset: str = "S2", **more: Any) -> None:
    """Write an HDF5 sample in the published layout, with more datasets by name."""
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=pixels, compression="gzip", chunks=(2, 2, 16, 8))
        file["label"] = np.zeros(pixels.shape[2:], dtype=np.uint8)
        for name, values in more.items():
            file[name] = values


def write_safe_products(folder: Path, pixels: np.ndarray, scl: np.ndarray, baselines: list[str], **metadata: Any) -> list[Path]:
    """Write a product for each of the first dates; from 04.00 on its metadata state offsets of -1000, and -900 for B8A."""
    products = []
    for time, baseline in enumerate(baselines):
        values = {
            band: pixels[time, channel] if metres == 10 else coarse(pixels[time, channel])
            for channel, (band, metres) in enumerate(BAND_METRES.items())
        }
        offsets = None if baseline < "04.00" else {band: -900 if band == "B8A" else -1000 for band in PHYSICAL_BANDS}
        text = safe_metadata(baseline, offsets, **metadata)
        products.append(write_safe(folder, DATES[time], values, coarse(scl[time]), baseline, text, TRANSFORM_10M))
    return products


def safe_numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    pixels = rng.integers(1, 9000, (4, 10, 180, 120)).astype(np.uint16)
    pixels[rng.random(pixels.shape) < 0.02] = 0
    return pixels, rng.integers(0, 12, (4, 180, 120)).astype(np.uint8)


def on_fine_grid(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[:, :4], repeated(coarse(pixels[:, 4:]))], axis=1)


def expected_of_safe(pixels: np.ndarray) -> np.ndarray:
    """Expected pixels: from 04.00 on, all but no data lose their offset and stay above 0; pixels of 20 m are repeated."""
    result = on_fine_grid(pixels).astype(int)
    for time in (2, 3):
        for channel, band in enumerate(BAND_METRES):
            shift = 900 if band == "B8A" else 1000
            layer = result[time, channel]
            layer[layer != 0] = np.maximum(layer[layer != 0] - shift, 1)
    return result.astype(np.uint16)
