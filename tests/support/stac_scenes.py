"""Sentinel-2 COGs and the STAC items of three catalogues for them, as Earth Search and Planetary Computer write items."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from pystac import Asset, Item, ItemCollection, MediaType
from rasterio.warp import transform_bounds

from tests.support.archives import BAND_METRES
from tests.support.containers import TRANSFORM_10M
from tests.support.series import CRS, coarse, write_raster

EARTH_SEARCH_KEYS = dict(
    zip(
        (*BAND_METRES, "SCL"),
        ("blue", "green", "red", "nir", "rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22", "scl"),
        strict=True,
    )
)
COMMON_NAMES = ("blue", "green", "red", "nir", "rededge", "rededge", "rededge", "nir08", "swir16", "swir22")
WAVELENGTHS = (0.49, 0.56, 0.665, 0.842, 0.704, 0.74, 0.783, 0.865, 1.61, 2.19)  # micrometres
GEOMETRY_DATES = np.datetime64("2022-03-01") + np.arange(4) * 5
TILE = "31TFJ"


def cog(path: Path, values: np.ndarray, transform: Affine, nodata: int | None = 0, crs: str = CRS) -> None:
    write_raster(path, values, transform, driver="COG", BLOCKSIZE=128, COMPRESS="DEFLATE", nodata=nodata, crs=crs)


def write_cogs(
    folder: Path, pixels: np.ndarray, scl: np.ndarray, dates: np.ndarray, transform: Affine = TRANSFORM_10M, crs: str = CRS
) -> None:
    """One COG per band and date, `DATE_BAND.tif`: bands of 20 m and SCL hold every second pixel of (T, C, H, W), (T, H, W)."""
    for time, date in enumerate(dates):
        stem = f"{date.item():%Y%m%d}"
        for channel, (band, metres) in enumerate(BAND_METRES.items()):
            values = pixels[time, channel]
            values = values if metres == 10 else coarse(values)
            cog(folder / f"{stem}_{band}.tif", values, transform @ Affine.scale(metres // 10), crs=crs)
        cog(folder / f"{stem}_SCL.tif", coarse(scl[time]), transform @ Affine.scale(2), crs=crs)


def item_id(catalogue: str, date: np.datetime64, tile: str = TILE) -> str:
    day = f"{date.item():%Y%m%d}"
    return {
        "earth_search/sentinel-2-c1-l2a": f"S2B_T{tile}_{day}T103021_L2A",
        "earth_search/sentinel-2-l2a": f"S2B_{tile}_{day}_0_L2A",
        "planetary_computer/sentinel-2-l2a": f"S2B_MSIL2A_{day}T103021_R108_T{tile}_{day}T154321",
        "elsewhere/mine": f"image_{day}",
    }[catalogue]


def sentinel2_item(
    collection: str,
    date: np.datetime64,
    shape: tuple[int, int],
    baseline: str = "05.09",
    transform: Affine = TRANSFORM_10M,
    tile: str = TILE,
    projection: bool = True,
    hour: int = 10,
    crs: str = CRS,
) -> Item:
    """The item of one date of `write_cogs`, with relative hrefs. `shape`: rows and columns at 10 m."""
    height, width = shape
    west, north = transform.c, transform.f
    box = transform_bounds(crs, "EPSG:4326", west, north + transform.e * height, west + transform.a * width, north)
    ring = [[box[i], box[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
    day = date.item()
    earth_search = collection.startswith("earth_search")
    item = Item(
        item_id(collection, date, tile),
        geometry={"type": "Polygon", "coordinates": [ring]},
        bbox=list(box),
        datetime=datetime(day.year, day.month, day.day, hour, 30, 21, tzinfo=UTC),
        properties={"s2:processing_baseline": baseline},
        collection=collection.partition("/")[2],
    )
    if projection:
        item.properties["proj:code"] = crs
    if earth_search:
        item.properties |= {"grid:code": f"MGRS-{tile}", "earthsearch:boa_offset_applied": False}
    for number, band in enumerate((*BAND_METRES, "SCL")):
        metres = BAND_METRES.get(band, 20)
        fields: dict[str, Any] = {}
        if projection:
            scaled = transform @ Affine.scale(metres // 10)
            fields |= {
                "proj:shape": [height * 10 // metres, width * 10 // metres],
                "proj:transform": list(scaled)[:6],
            }
        if band != "SCL":
            common = "rededge" if band == "B8A" and not earth_search else COMMON_NAMES[number]
            fields["eo:bands"] = [{"name": band, "common_name": common, "center_wavelength": WAVELENGTHS[number]}]
        if earth_search:
            numbers = {"scale": 0.0001, "offset": -0.1 if baseline >= "04.00" else 0} if band != "SCL" else {}
            fields["raster:bands"] = [{"nodata": 0, "data_type": "uint8" if band == "SCL" else "uint16", **numbers}]
        key = EARTH_SEARCH_KEYS[band] if earth_search else band
        asset = Asset(f"{day:%Y%m%d}_{band}.tif", media_type=MediaType.COG, roles=["data"], extra_fields=fields)
        item.add_asset(key, asset)
    item.add_asset("thumbnail", Asset("thumbnail.jpg", media_type=MediaType.JPEG, roles=["thumbnail"]))
    return item


def sentinel2_items(collection: str, dates: np.ndarray, shape: tuple[int, int], **options: Any) -> list[Item]:
    return [sentinel2_item(collection, date, shape, **options) for date in dates]


def write_items(path: Path, items: list[Item]) -> None:
    """An ItemCollection, as a saved search."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ItemCollection(items, clone_items=True).save_object(str(path))
