"""A scene for samples at sites, and distances between sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.plan.splits import EARTH_RADIUS_KM
from tests.support.archives import days, make_cube, write_land_cover, write_scene
from tests.support.series import SENSORS

SIDE = 200  # pixels of the scene along each axis


def distances_km(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Great-circle distances between all points in kilometres (n, n), by the haversine formula."""
    lon, lat = np.radians(lon), np.radians(lat)
    h = np.sin((lat[:, None] - lat) / 2) ** 2
    h = h + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(h))


def write_wide_scene(folder: Path, name: str = "wide", side: int = SIDE, year: int = 2021, split: str = "train") -> None:
    cube = make_cube(SENSORS["sentinel2"], side, days(year, 17), np.random.default_rng(0))
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    write_scene(folder / name, {"sentinel2": cube}, {"sentinel2": 10.0}, split=split, land_cover=land_cover)
    write_land_cover(folder / name / "landcover.tif", np.full((side // 3 + 1, side // 3 + 1), 10))
