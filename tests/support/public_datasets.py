"""Tiny files in the layouts of PASTIS, Fields of The World, EuroCrops and fiboa, with the arrays that they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import rasterio
from affine import Affine
from shapely.geometry import box

SIDE = 32


def write_pastis(folder: Path, folds: int = 5, images: int = 6, side: int = SIDE) -> dict[int, dict[str, Any]]:
    """PASTIS with one patch in each fold: what each holds, by its number.

    The crop of a pixel shows in its near infrared. In the first image a corner was not seen.
    """
    rng = np.random.default_rng(0)
    for name in ("DATA_S2", "ANNOTATIONS"):
        (folder / name).mkdir(parents=True)
    features, patches = [], {}
    for fold in range(1, folds + 1):
        number = 10_000 + 7 * fold
        codes = np.kron(rng.choice([0, 1, 2, 3], (4, 4)), np.ones((side // 4, side // 4), int)).astype(np.uint8)
        codes[:2, :2] = 19
        pixels = rng.integers(300, 900, (images + fold % 2, 10, side, side)).astype(np.int16)
        pixels[:, 6] += 1000 * codes.astype(np.int16)  # B08
        pixels[0, :, -4:, -4:] = -10_000
        pixels[1, 3, 0, 5] = -7  # one band alone
        dates = [20181015 + 100 * month for month in range(3)] + [20190103, 20190402, 20190615, 20190801][: len(pixels) - 3]
        target = np.stack([codes, np.zeros_like(codes), np.zeros_like(codes)])
        np.save(folder / "DATA_S2" / f"S2_{number}.npy", pixels)
        np.save(folder / "ANNOTATIONS" / f"TARGET_{number}.npy", target)
        properties = {
            "ID_PATCH": number,
            "Fold": fold,
            "TILE": "t31tfm",
            "N_Parcel": 3.0,
            "dates-S2": {str(index): day for index, day in enumerate(dates)},
        }
        geometry = {"type": "Polygon", "coordinates": [[[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]]}
        features.append({"type": "Feature", "id": str(number), "properties": properties, "geometry": geometry})
        patches[number] = {"fold": fold, "codes": codes, "pixels": pixels, "dates": dates}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    content = {"type": "FeatureCollection", "crs": crs, "features": features[::-1]}
    (folder / "metadata.geojson").write_text(json.dumps(content))
    return patches


def write_fields(folder: Path, country: str = "austria", side: int = SIDE) -> dict[str, dict[str, Any]]:
    """Fields of The World of one country: what each chip holds, by its name. The chip `g_none` belongs to no split."""
    rng = np.random.default_rng(1)
    splits = {"g1": "train", "g2": "train", "g3": "val", "g4": "test", "g_none": "none"}
    chips: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        codes = np.kron(rng.choice([0, 1], (4, 4)), np.ones((side // 4, side // 4), int)).astype(np.uint8)
        boundary = codes.copy()
        boundary[:, :: side // 4] = 2
        boundary[0, 0] = 3
        images = {window: rng.integers(1200, 3000, (4, side, side)).astype(np.uint16) for window in ("window_a", "window_b")}
        for image in images.values():
            image[:, -1, -1] = 0
        _write_tif(folder / country / "label_masks/semantic_2class" / f"{name}.tif", codes[None])
        _write_tif(folder / country / "label_masks/semantic_3class" / f"{name}.tif", boundary[None])
        for window, image in images.items():
            _write_tif(folder / country / "s2_images" / window / f"{name}.tif", image)
        chips[name] = {"split": split, "semantic_2class": codes, "semantic_3class": boundary, **images}
    table = geopandas.GeoDataFrame(
        {"aoi_id": list(splits), "split": list(splits.values())}, geometry=[box(0, 0, 1, 1)] * len(splits), crs="EPSG:4326"
    )
    table.to_parquet(folder / country / f"chips_{country}.parquet")
    return chips


def _write_tif(path: Path, bands: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    profile = {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype, "crs": "EPSG:32633", "transform": transform}
    with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile) as raster:
        raster.write(bands)


def write_parcels(path: Path, columns: dict[str, list[Any]]) -> None:
    """A file of parcels with these columns."""
    count = len(next(iter(columns.values())))
    table = geopandas.GeoDataFrame(pd.DataFrame(columns), geometry=[box(i, 0, i + 1, 1) for i in range(count)], crs="EPSG:3035")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_file(path)
