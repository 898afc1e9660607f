"""The labels of a scene for the built-in tasks, each on the grid of one source.

| raster | grid | content |
|---|---|---|
| `crop_type`, `crop_type_10m` | Landsat, Sentinel-2 | the crop that fills most of each pixel |
| `parcels`, `parcels_10m` | Landsat, Sentinel-2 | the field that fills most of each pixel, 1, 2, ... |
| `field_boundary_10m` | Sentinel-2 | interior and boundary of fields; a boundary is one pixel (10 m) wide in each field |
| `lulc_10m` | Sentinel-2 | sixteen classes of land use and land cover |
| `winter_wheat_480m` | MODIS | pixels of which winter wheat fills at least `WHEAT_SHARE` |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.grid import Grid
from data_prep.simulation.container_writers import write_raster
from data_prep.simulation.covers import COVERS, CROP_NAMES, NOT_CROPLAND
from data_prep.simulation.objects import Objects
from data_prep.simulation.pixels import Pixels

BOUNDARY_NAMES = {1: "interior", 2: "boundary", NOT_CROPLAND: "not_cropland"}
BOUNDARY_COLORS = {1: "#f3e6b3", 2: "#222222", NOT_CROPLAND: "#d9d9d9"}

# Fields are smaller than a pixel of 480 m, so wheat seldom fills one. With a quarter, about a tenth of the land is wheat in the
# regions that grow it. The threshold is our choice.
WHEAT_SHARE = 0.25
WHEAT_NAMES = {1: "winter_wheat", NOT_CROPLAND: "no_winter_wheat"}
WHEAT_COLORS = {1: "#d9a520", NOT_CROPLAND: "#e9e2cf"}
# Wheat before rice is winter wheat, too, although the crop type of its field is that of the summer crop.
WHEAT_COVERS = ("winter_wheat", "wheat_then_maize", "wheat_then_rice")

# Crops keep their crop type codes. There is hardly any fallow land; it shares a class with sand and gravel.
_LAND = (
    (11, "bare_or_fallow", "#c9b393", ("fallow", "sparse_vegetation", "rock")),
    (12, "forest", "#2f6b3a", ("deciduous_forest", "evergreen_forest", "needle_forest")),
    (13, "grassland", "#a9cf63", ("grassland", "annual_grassland", "shrubland")),
    (14, "wetland", "#5fb8a8", ("marsh",)),
    (15, "water", "#2c4f92", ("river", "lake", "pond")),
    (16, "built_up", "#c4442e", ("paved_road", "red_roofs", "grey_roofs", "blue_roofs", "yard", "track")),
)
LULC_OF_COVER = {cover.name: cover.crop for cover in COVERS} | {cover: code for code, _, _, covers in _LAND for cover in covers}
LULC_NAMES = {code: CROP_NAMES[code] for code in range(1, 11)} | {code: name for code, name, _, _ in _LAND}
LULC_COLORS = {cover.crop: cover.color for cover in COVERS if cover.crop in range(1, 11)} | {c: color for c, _, color, _ in _LAND}
assert set(LULC_OF_COVER.values()) == set(LULC_NAMES) == set(range(1, 17))


def write_labels(objects: Objects, all_pixels: Mapping[str, Pixels], grid: Mapping[str, Grid], folder: Path) -> dict[str, Any]:
    """Write a NAME.tif for each label on the grid of a source in `grid`; returns the value of `labels` in scene.yaml.

    `all_pixels`: pixels by source.
    """
    crop_colors = {cover.crop: cover.color for cover in COVERS if cover.crop != NOT_CROPLAND} | {NOT_CROPLAND: "#d9d9d9"}
    crop = np.array([cover.crop for cover in COVERS], dtype=np.uint8)[objects.cover]
    lulc = np.array([LULC_OF_COVER[cover.name] for cover in COVERS], dtype=np.uint8)[objects.cover]
    is_wheat = np.array([cover.name in WHEAT_COVERS for cover in COVERS])[objects.cover]
    labels: dict[str, Any] = {}

    def write(
        name: str, source: str, values: np.ndarray, classes: dict[int, str], colors: Mapping[int, str] | None = None
    ) -> None:
        labels[name] = write_label(folder, name, values, grid[source], classes, colors)

    for source, suffix in (("landsat", ""), ("sentinel2", "_10m")):
        if source in grid:
            pixels = all_pixels[source]
            write(f"crop_type{suffix}", source, pixels.majority(crop), CROP_NAMES, crop_colors)
            write(f"parcels{suffix}", source, objects.parcel[pixels.largest()], {})
    if "sentinel2" in grid:
        pixels = all_pixels["sentinel2"]
        parcels = objects.parcel[pixels.largest()]
        write("field_boundary_10m", "sentinel2", boundaries(parcels), BOUNDARY_NAMES, BOUNDARY_COLORS)
        write("lulc_10m", "sentinel2", pixels.majority(lulc), LULC_NAMES, LULC_COLORS)
    if "modis" in grid:
        wheat = np.where(all_pixels["modis"].share(is_wheat) >= WHEAT_SHARE, 1, NOT_CROPLAND).astype(np.uint8)
        write("winter_wheat_480m", "modis", wheat, WHEAT_NAMES, WHEAT_COLORS)
    return labels


def write_label(
    folder: Path, name: str, values: np.ndarray, grid: Grid, classes: dict[int, str], colors: Mapping[int, str] | None
) -> dict[str, Any]:
    """Write NAME.tif; returns its entry in scene.yaml."""
    write_raster(folder / f"{name}.tif", values, grid, 0, colors)
    return {"path": f"{name}.tif", "classes": classes, "nodata": 0}


def boundaries(parcels: np.ndarray) -> np.ndarray:
    """Codes of BOUNDARY_NAMES, uint8 (H, W), from parcel numbers (H, W), 0 for other land.

    A pixel of a field is boundary when one of its four neighbours lies outside the field. So the interiors of two fields never
    touch, and the boundary between two adjacent fields is two pixels wide.
    """
    padded = np.pad(parcels, 1, mode="edge")
    edge = np.zeros(parcels.shape, dtype=bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= neighbour != parcels
    return np.where(parcels == 0, NOT_CROPLAND, np.where(edge, 2, 1)).astype(np.uint8)
