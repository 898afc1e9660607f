"""Files of an embedding: Cloud-Optimised GeoTIFF or Zarr, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pyproj import CRS

from common.atomic_files import sync
from common.grid import Grid
from finetune.embedding.projection import NO_DATA_CODE
from finetune.mapping.cog import new_cog, raster_window
from finetune.mapping.tiling import Block

TILE_PX = 256  # of all dimensions together: 4 MB at 64 dimensions of one byte
VARIABLE = "embedding"  # in a Zarr store
MEANING = "embedding = stored number * scale + offset, with one scale and offset for each band"
TEXTS = (
    "scene",
    "model",
    "model_weights",
    "components",
    "time_axis",
    "last_image",
)  # tags that are texts, whatever they look like

Blocks = Iterable[tuple[Block, np.ndarray]]  # arrays (D, height, width), int8 or float16


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingFile:
    """What an embedding's file says beside its numbers.

    Attributes:
        grid: grid of the cells.
        names: names of the dimensions.
        scale, offset: of each dimension in one byte, float32 (D,); None for float16.
        season: first day of the season, and the day after its last one, datetime64[D].
        tags: metadata.
    """

    grid: Grid
    names: Sequence[str]
    scale: np.ndarray | None
    offset: np.ndarray | None
    season: tuple[np.datetime64, np.datetime64]
    tags: Mapping[str, Any]

    @property
    def dtype(self) -> str:
        """Type of the stored numbers."""
        return "float16" if self.scale is None else "int8"


def write_cog(path: Path, scratch: Path, about: EmbeddingFile, blocks: Blocks) -> None:
    """Write an embedding as COG: one band per dimension, int8 with scale and offset, or 16-bit floats with NaN for no data.

    rasterio and GDAL read the 16-bit floats as float32.
    """
    numbers: dict[str, Any] = {"dtype": "float32", "nodata": float("nan"), "nbits": 16}
    if about.scale is not None:
        numbers = {"dtype": "int8", "nodata": NO_DATA_CODE}
    with new_cog(path, scratch, about.grid, len(about.names), "average", tile_px=TILE_PX, **numbers) as raster:
        raster.descriptions = list(about.names)
        raster.update_tags(**{name: _tag(value) for name, value in about.tags.items()})
        if about.scale is not None and about.offset is not None:
            raster.scales, raster.offsets = about.scale.tolist(), about.offset.tolist()
            raster.update_tags(meaning=MEANING)
        for block, values in blocks:
            raster.write(values, window=raster_window(block))


def _tag(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def write_zarr(path: Path, scratch: Path, about: EmbeddingFile, blocks: Blocks) -> None:
    """Write an embedding as a Zarr store, version 2, by the conventions of CF: `embedding` (time, band, y, x).

    Coordinates are `time` (first day of the season, with bounds), `band`, `y` and `x` (centres of cells), and `spatial_ref` with
    the CRS, as xarray, rioxarray and GDAL read them. In one byte, `scale` and `offset` are coordinates of `band`: CF has one of
    each for a variable. The store appears only when it is complete.

    Raises ValueError for a grid that is not north-up, which has no coordinates `x` and `y`.
    """
    grid, transform = about.grid, about.grid.transform
    if transform.b or transform.d:
        raise ValueError(f"{path}: the grid of the scene is turned, so its cells have no coordinates x and y; write --format cog")
    unfinished = scratch / path.name
    shutil.rmtree(unfinished, ignore_errors=True)
    group = zarr.open_group(unfinished, mode="w", zarr_format=2)
    group.attrs.update({"Conventions": "CF-1.11", "title": "Embedding", **about.tags})
    shape = (1, len(about.names), grid.height, grid.width)
    no_data = NO_DATA_CODE if about.scale is not None else float("nan")
    embedding = group.create_array(
        VARIABLE, shape=shape, chunks=(1, len(about.names), TILE_PX, TILE_PX), dtype=about.dtype, fill_value=no_data
    )
    _describe(embedding, ("time", "band", "y", "x"), long_name="embedding", grid_mapping="spatial_ref")
    if about.scale is not None:
        embedding.attrs.update({"coordinates": "scale offset", "comment": MEANING})
    _write_coordinates(group, about)
    for block, values in blocks:
        embedding[0, :, block.row : block.row + block.height, block.col : block.col + block.width] = values
    zarr.consolidate_metadata(unfinished, zarr_format=2)
    _put_in_place(unfinished, path)


def _write_coordinates(group: zarr.Group, about: EmbeddingFile) -> None:
    grid, transform = about.grid, about.grid.transform
    crs = CRS.from_user_input(grid.crs)
    kinds = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}
    if not crs.is_geographic:
        kinds = {name: (f"projection_{name}_coordinate", crs.axis_info[0].unit_name) for name in ("x", "y")}
    centres = {
        "x": transform.c + transform.a * (np.arange(grid.width) + 0.5),
        "y": transform.f + transform.e * (np.arange(grid.height) + 0.5),
    }
    for name, (standard_name, units) in kinds.items():
        _describe(_coordinate(group, name, centres[name]), (name,), standard_name=standard_name, units=units)
    days = np.array(about.season, dtype="datetime64[D]").astype(np.int64)
    when = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}
    _describe(_coordinate(group, "time", days[:1]), ("time",), standard_name="time", bounds="time_bnds", **when)
    _describe(_coordinate(group, "time_bnds", days[None]), ("time", "bnds"))
    _describe(_coordinate(group, "band", np.array(about.names)), ("band",))
    if about.scale is not None and about.offset is not None:
        _describe(_coordinate(group, "scale", about.scale), ("band",))
        _describe(_coordinate(group, "offset", about.offset), ("band",))
    reference = _coordinate(group, "spatial_ref", np.array(0, dtype=np.int64))
    wkt, to_gdal = crs.to_wkt(), " ".join(map(repr, transform.to_gdal()))
    _describe(reference, (), **(crs.to_cf() | {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": to_gdal}))


def _coordinate(group: zarr.Group, name: str, values: np.ndarray) -> zarr.Array:
    """An array without a fill value: with one, xarray would take a coordinate of that number as missing."""
    return group.create_array(name, data=values, fill_value=None)


def _describe(array: zarr.Array, dimensions: Sequence[str], **attributes: Any) -> None:
    """Name the dimensions of an array as xarray reads them, and add attributes."""
    array.attrs.update({"_ARRAY_DIMENSIONS": list(dimensions), **attributes})


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Flush a folder to the disk and give it the name `path`; a folder of this name is removed."""
    for file in sorted(unfinished.rglob("*")):
        sync(file)
    sync(unfinished)
    if path.exists():
        replaced = unfinished.with_name(f"replaced_{path.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
        shutil.rmtree(replaced)
    os.rename(unfinished, path)
    sync(path.parent)
