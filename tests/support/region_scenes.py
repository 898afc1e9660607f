"""Scenes side by side, in any UTM zones, whose reflectance is a function of the place: maps of neighbours agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
import zarr
from affine import Affine

from common.grid import Grid, reprojected
from data_prep.archive.sensor import load_sensors
from tests.support.archives import days

GSD = 30.0
CLOUD, CLEAR = 2, 64  # codes of Fmask
WAVES_PER_DEGREE = 150.0  # a wave is about 700 m long


def wave(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """A smooth pattern of the place, -1 to 1, at degrees (n,)."""
    turn = 2 * np.pi * WAVES_PER_DEGREE
    return np.asarray(np.sin(turn * lon) * np.sin(0.7 * turn * lat + 1))


def write_region_scene(
    folder: Path,
    crs: str,
    west: float,
    north: float,
    shape: tuple[int, int] = (64, 64),
    *,
    gsd: float = GSD,
    years: Sequence[int] = (2021,),
    frames: int = 8,
) -> Grid:
    """A scene with Landsat alone, all clear, at this corner; returns its grid. Near infrared is 0.2 + 0.1 times the `wave`."""
    sensor = load_sensors()["landsat"]
    folder.mkdir(parents=True)
    height, width = shape
    group = zarr.open_group(
        folder / "landsat.zarr", mode="w", attributes={"crs": crs, "transform": [gsd, 0, west, 0, -gsd, north]}
    )
    x, y = np.meshgrid(west + gsd * (np.arange(width) + 0.5), north - gsd * (np.arange(height) + 0.5))
    lon, lat = reprojected(crs, "EPSG:4326", x.ravel(), y.ravel())
    dates = np.concatenate([days(year, frames) for year in years])
    pixels = np.full((len(dates), len(sensor.bands), height, width), 2000, dtype=sensor.dtype)
    pixels[:, 3] = 2000 + np.rint(1000 * wave(lon, lat)).reshape(shape)
    group.create_array("reflectance", data=pixels)
    group.create_array("Fmask", data=np.full((len(dates), height, width), CLEAR, np.uint8))
    time = group.create_array("time", data=dates.astype(np.int64))
    time.attrs["units"] = "days since 1970-01-01"
    source = {"container": "zarr_cube", "path": "landsat.zarr", "bands": list(sensor.bands)}
    (folder / "scene.yaml").write_text(yaml.safe_dump({"name": folder.name, "sources": {"landsat": source}}))
    return Grid(crs=crs, transform=Affine(gsd, 0, west, 0, -gsd, north), height=height, width=width)


def write_two_zones(folder: Path, side: int = 64) -> dict[str, Grid]:
    """Four scenes, two in each of UTM zones 31 and 32, which overlap their neighbours by about a quarter, at 6 degrees east."""
    step = 0.75 * side * GSD
    (x31, x32), (y31, y32) = zip(*(_place(zone) for zone in ("EPSG:32631", "EPSG:32632")), strict=True)
    place = {
        "a": ("EPSG:32631", x31 - 0.9 * side * GSD, y31),
        "b": ("EPSG:32631", x31 - 0.9 * side * GSD, y31 - step),
        "c": ("EPSG:32632", x32 - 0.2 * side * GSD, y32),
        "d": ("EPSG:32632", x32 - 0.2 * side * GSD, y32 - step),
    }
    return {
        name: write_region_scene(folder / name, crs, round(x / GSD) * GSD, round(y / GSD) * GSD, (side, side))
        for name, (crs, x, y) in place.items()
    }


def _place(crs: str) -> tuple[float, float]:
    """6 degrees east, 45 degrees north in a CRS."""
    x, y = reprojected("EPSG:4326", crs, np.array([6.0]), np.array([45.0]))
    return float(x[0]), float(y[0])
