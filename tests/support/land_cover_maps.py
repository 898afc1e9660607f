"""Land-cover maps of known codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

MAP_STEP = 0.00025  # degrees, about 30 m


def write_map(path: Path, codes: np.ndarray, corner: tuple[float, float], step: float = MAP_STEP, crs: str = "EPSG:4326") -> None:
    """Write codes (bands, rows, columns) as a map with its upper left corner at `corner`."""
    bands, height, width = codes.shape
    affine = Affine(step, 0, corner[0], 0, -step, corner[1])
    profile = {"driver": "GTiff", "dtype": "uint8", "count": bands, "crs": crs, "transform": affine}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", height=height, width=width, **profile) as raster:
        raster.write(codes.astype(np.uint8))
