"""Scenes whose rasters are stored again with rows that go north."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import zarr
from affine import Affine


def store_raster_south_up(path: Path) -> None:
    """Write a GeoTIFF again from south to north: the same pixels at the same places."""
    with rasterio.open(path) as raster:
        values, profile = raster.read(), raster.profile
    t, height = profile["transform"], profile["height"]
    profile["transform"] = Affine(t.a, 0, t.c, 0, -t.e, t.f + t.e * height)
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(values[:, ::-1])


def store_cube_south_up(path: Path) -> None:
    """Write the arrays of a Zarr cube again from south to north."""
    group = zarr.open_group(path)
    for _, array in group.arrays():
        if array.ndim >= 3:
            array[...] = np.flip(array[...], -2)
    group["y"][:] = group["y"][:][::-1]
