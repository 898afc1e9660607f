"""Writer of Sentinel-2 products in the EOPF layout, with the attributes that ESA's converter gives them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine

from tests.support.series import coarse

ORIGIN = Affine(10.0, 0.0, 600_000.0, 0.0, -10.0, 4_900_020.0)
BANDS_10M, BANDS_20M = ("b02", "b03", "b04", "b08"), ("b05", "b06", "b07", "b8a", "b11", "b12")
TILE = "31TFJ"


def product_name(date: Any, baseline: str = "N0511", tile: str = TILE, level: str = "MSIL2A", orbit: str = "R108") -> str:
    day = f"{np.datetime64(date, 'D').item():%Y%m%d}"
    return f"S2B_{level}_{day}T103329_{baseline}_{orbit}_T{tile}_{day}T124102.zarr"


def write_product(
    path: Path,
    pixels: np.ndarray,
    scl: np.ndarray,
    date: Any,
    *,
    zarr_format: int = 2,
    consolidated: bool = True,
    offset: float | None = -0.1,
    nested: bool = True,
    chunk: int = 60,
    skip: tuple[str, ...] = (),
    epsg: Any = 32631,
    origin: Affine = ORIGIN,
    **attributes: Any,
) -> Path:
    """Write a product of pixels (10, H, W) in the order of the built-in sensor and SCL (H, W).

    Products hold coarser copies of all bands; here of some. Bands of 20 m and SCL hold every second pixel. Chunks cover
    60 x 60 pixels of 10 m; `skip` names arrays that are left out.
    """
    root = zarr.create_group(store=str(path), overwrite=True, zarr_format=zarr_format)  # type: ignore[arg-type]
    properties = {"datetime": f"{date}T10:33:29.024000Z", "processing:version": "05.11"}
    stac = {"properties": properties | ({} if epsg is None else {"proj:epsg": epsg})}
    other = {} if epsg is None else {"horizontal_CRS_code": f"EPSG:{epsg}"}
    root.attrs.update({"stac_discovery": stac, "other_metadata": other})
    encoding = {"scale_factor": 0.0001, "fill_value": 0} | ({} if offset is None else {"add_offset": offset}) | attributes
    bands = dict(zip(BANDS_10M + BANDS_20M, pixels, strict=True))
    layout = {("measurements/reflectance/r10m", 1): {band: bands[band] for band in BANDS_10M}}
    layout["measurements/reflectance/r20m", 2] = {band: coarse(bands[band]) for band in ("b02", "b03", *BANDS_20M)}
    layout["measurements/reflectance/r60m", 6] = {"b02": coarse(bands["b02"], 6)}
    layout["conditions/mask/l2a_classification/r20m", 2] = {"scl": coarse(scl)}
    layout["conditions/mask/l2a_classification/r60m", 6] = {"scl": coarse(scl, 6)}
    for (name, factor), arrays in layout.items():
        group, transform = root.create_group(name), origin @ Affine.scale(factor)
        height, width = next(iter(arrays.values())).shape
        arrays |= {
            "x": (transform.c + transform.a * (np.arange(width) + 0.5)).astype(int),
            "y": (transform.f + transform.e * (np.arange(height) + 0.5)).astype(int),
        }
        for layer, values in arrays.items():
            if layer in skip or f"{name}/{layer}" in skip:
                continue
            dimensions = ["y", "x"] if values.ndim == 2 else [layer]
            about: dict[str, Any] = {} if zarr_format == 3 else {"_ARRAY_DIMENSIONS": dimensions}
            if values.ndim == 2:
                about |= encoding if layer.startswith("b") else {"flag_values": list(range(12))}
                if zarr_format == 2:
                    about |= {"proj:transform": list(transform)[:9], "proj:shape": list(values.shape)}
                    about |= {} if epsg is None else {"proj:epsg": epsg}
                    about |= {"_eopf_attrs": dict(about)} if nested else {}
            array = group.create_array(
                layer,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(chunk // factor,) * 2 if values.ndim == 2 else values.shape,
                fill_value=0,
                attributes=about,
                config={"write_empty_chunks": True},
                **({"dimension_names": dimensions} if zarr_format == 3 else {}),
            )
            array[...] = values
    if consolidated:
        with warnings.catch_warnings(action="ignore"):  # version 3 has no specification of it yet
            zarr.consolidate_metadata(root.store)
    return path


def write_products(folder: Path, pixels: np.ndarray, scl: np.ndarray, dates: Any, **options: Any) -> list[Path]:
    """Write a product for each date."""
    return [
        write_product(folder / product_name(date), pixels[time], scl[time], date, **options) for time, date in enumerate(dates)
    ]
