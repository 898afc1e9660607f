"""A scene with chunks of a given shape, and its plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from data_prep.archive.sensor import load_sensors
from data_prep.plan.build import make_plan
from data_prep.plan.plan import Plan
from data_prep.plan.settings import PlanSettings
from tests.support.archives import Cube, days, make_cube, write_land_cover, write_scene

SENSOR = load_sensors()["sentinel2"]


def write_chunked(folder: Path, side: int, chunk: tuple[int, int, int], seed: int = 0) -> Cube:
    """Write one scene with two years of Sentinel-2, stored in chunks of (frames, rows, columns)."""
    cube = make_cube(SENSOR, side, np.concatenate([days(2020, 17), days(2021, 18)]), np.random.default_rng(seed))
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    write_scene(folder / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover=land_cover)
    write_land_cover(folder / "delta" / "landcover.tif", np.full((side // 3 + 1, side // 3 + 1), 10))
    group = zarr.open_group(folder / "delta" / "sentinel2.zarr", mode="r+")
    bands = len(SENSOR.bands)
    arrays = {"reflectance": (cube.pixels, (chunk[0], bands, *chunk[1:])), "SCL": (cube.quality, chunk)}
    for name, (values, chunks) in arrays.items():
        group.create_array(name, data=values, chunks=chunks, overwrite=True)
    return cube


def planned(folder: Path, **changes: Any) -> Plan:
    plan_settings = replace(PlanSettings(chip_px={"sentinel2": 12}), **changes)
    return make_plan(folder / "scenes", folder / "corpus", plan_settings)
