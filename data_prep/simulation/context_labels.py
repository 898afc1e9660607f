"""The labels of a scene in which context matters. They are true, whatever the land-cover map says.

| raster | grid | content |
|---|---|---|
| `lulc_10m` | Sentinel-2 | fifteen classes of land use and land cover |
| `crop_type_10m` | Sentinel-2 | annual crops and orchards, and other land |
| `irrigation_10m` | Sentinel-2 | irrigated and rainfed annual crops, and other land |
| `field_boundary_10m`, `parcels_10m` | Sentinel-2 | fields and orchards, as in other scenes (`label_maps.py`) |
| `crop_type`, `parcels` | Landsat | the same on pixels of 30 m |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.grid import Grid
from data_prep.simulation.covers import COVERS, NOT_CROPLAND
from data_prep.simulation.label_maps import BOUNDARY_COLORS, BOUNDARY_NAMES, boundaries, write_label
from data_prep.simulation.landscape import ANNUAL, Kind
from data_prep.simulation.objects import Objects
from data_prep.simulation.pixels import Pixels

_CROPS = ("winter_wheat", "maize", "soybean", "winter_rapeseed", "sunflower", "alfalfa")
IRRIGATION_NAMES = {1: "irrigated", 2: "rainfed", NOT_CROPLAND: "not_cropland"}
_IRRIGATION_COLORS = {1: "#2c6fb2", 2: "#d9a520", NOT_CROPLAND: "#d9d9d9"}
# Code, colour and kinds of the classes that are not annual crops. Crops keep the codes of crop types.
_USES = {
    "orchard": (10, "#8dd3a8", (Kind.ORCHARD,)),
    "plantation": (11, "#1b9e77", (Kind.PLANTATION,)),
    "forest": (12, "#2f6b3a", (Kind.FOREST,)),
    "open_woodland": (13, "#8a9a5b", (Kind.OPEN_WOODLAND,)),
    "grassland": (14, "#a9cf63", (Kind.MEADOW, Kind.MARGIN)),
    "fish_pond": (15, "#80b1d3", (Kind.FISH_POND,)),
    "water": (16, "#2c4f92", (Kind.STILL_WATER,)),
    "greenhouse": (17, "#e7298a", (Kind.GREENHOUSE,)),
    "built_up": (18, "#c4442e", (Kind.BUILDINGS, Kind.TRACK)),
}
_CROP_COVERS = {cover.name: cover for cover in COVERS if cover.name in _CROPS}
USE_NAMES = {_CROP_COVERS[name].crop: name for name in _CROPS} | {code: name for name, (code, _, _) in _USES.items()}
USE_COLORS = {cover.crop: cover.color for cover in _CROP_COVERS.values()} | {code: color for code, color, _ in _USES.values()}


def write_context_labels(
    objects: Objects, all_pixels: Mapping[str, Pixels], grid: Mapping[str, Grid], folder: Path
) -> dict[str, Any]:
    """Write a NAME.tif for each label on the grid of a source in `grid`; returns the value of `labels` in scene.yaml.

    `all_pixels`: pixels by source.
    """
    is_annual = np.isin(objects.kind, ANNUAL)
    use = use_codes(objects)
    crop = np.where(is_annual | (objects.kind == Kind.ORCHARD), use, NOT_CROPLAND).astype(np.uint8)
    irrigation = np.where(is_annual, np.where(objects.kind == Kind.FIELD, 2, 1), NOT_CROPLAND).astype(np.uint8)
    crop_names = {code: name for code, name in USE_NAMES.items() if name in (*_CROPS, "orchard")} | {NOT_CROPLAND: "not_cropland"}
    crop_colors = USE_COLORS | {NOT_CROPLAND: "#d9d9d9"}
    labels: dict[str, Any] = {}

    def write(name: str, source: str, values: np.ndarray, classes: dict[int, str], colors: Mapping[int, str] | None) -> None:
        labels[name] = write_label(folder, name, values, grid[source], classes, colors)

    for source, suffix in (("landsat", ""), ("sentinel2", "_10m")):
        if source in grid:
            pixels = all_pixels[source]
            write(f"crop_type{suffix}", source, pixels.majority(crop), crop_names, crop_colors)
            write(f"parcels{suffix}", source, objects.parcel[pixels.largest()], {}, None)
    if "sentinel2" in grid:
        pixels = all_pixels["sentinel2"]
        parcels = objects.parcel[pixels.largest()]
        write("field_boundary_10m", "sentinel2", boundaries(parcels), BOUNDARY_NAMES, BOUNDARY_COLORS)
        write("lulc_10m", "sentinel2", pixels.majority(use), USE_NAMES, USE_COLORS)
        write("irrigation_10m", "sentinel2", pixels.majority(irrigation), IRRIGATION_NAMES, _IRRIGATION_COLORS)
    return labels


def use_codes(objects: Objects) -> np.ndarray:
    """The code of USE_NAMES of each object, uint8 (N,): the use of the whole parcel or stand, gaps included."""
    codes = np.array([cover.crop for cover in COVERS], dtype=np.uint8)[objects.cover]
    for code, _, kinds in _USES.values():
        codes[np.isin(objects.kind, kinds)] = code
    assert set(np.unique(codes)) <= set(USE_NAMES), "an object without a class"
    return codes
