"""Reading embeddings: the numbers of a window of a file, and of places in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
import zarr
from affine import Affine
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from common.crs import crs_text
from common.grid import Grid, apply, grid_in_crs, raster_grid
from finetune.embedding.files import TEXTS, VARIABLE
from finetune.embedding.projection import NO_DATA_CODE


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingMap:
    """An embedding that `agrifm embed` wrote.

    Attributes:
        path: the GeoTIFF or Zarr store.
        grid: grid of its cells.
        names: names of its dimensions.
        tags: its metadata: scene, year, model, ...
    """

    path: Path
    grid: Grid
    names: tuple[str, ...]
    tags: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Read what an embedding says of itself. Raises ValueError when there is none."""
        path = Path(path)
        if path.is_dir():
            return cls(path=path, **_about_zarr(path))
        try:
            with rasterio.open(path) as raster:
                tags = {name: text if name in TEXTS else _value(text) for name, text in raster.tags().items()}
                about = {"grid": raster_grid(raster, str(path)), "names": raster.descriptions, "tags": tags}
        except RasterioIOError as error:
            raise ValueError(f"{path} is no embedding: {error}") from error
        if None in about["names"] or "model_weights" not in tags:
            raise ValueError(f"{path} is a raster, but no embedding of `agrifm embed`: it names no bands or no model")
        return cls(path=path, **about)

    def read(self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None) -> np.ndarray:
        """A window of cells, by default all: float32 (D, height, width), NaN where there is no data."""
        height, width = height or self.grid.height - row, width or self.grid.width - col
        if self.path.is_dir():
            group = zarr.open_group(self.path, mode="r")
            stored = np.asarray(_array(group, VARIABLE)[0, :, row : row + height, col : col + width])
            if "scale" not in group:
                return stored.astype(np.float32)
            scale, offset = (np.asarray(_array(group, name)[:]) for name in ("scale", "offset"))
        else:
            with rasterio.open(self.path) as raster:
                stored = raster.read(window=Window(col, row, width, height))
                scale, offset = np.array(raster.scales), np.array(raster.offsets)
            if stored.dtype != np.int8:
                return stored.astype(np.float32)
        values = stored * scale[:, None, None].astype(np.float32) + offset[:, None, None].astype(np.float32)
        return np.where(stored[:1] == NO_DATA_CODE, np.float32("nan"), values).astype(np.float32)

    def at_pixels(self, pixels: Grid) -> np.ndarray:
        """The embedding at the pixels of a grid in the same CRS, interpolated between cells: float32 (D, height, width).

        Between the centres of four cells the numbers are bilinear, as decoders see features; cells without data do not count. A
        pixel whose own cell has no data is NaN, and so is one outside of the embedding.

        Raises ValueError for a grid in another CRS.
        """
        here = grid_in_crs(pixels, self.grid.crs)
        if here is None:
            raise ValueError(f"{self.path} is in {self.grid.crs}, the labels in {pixels.crs}; both must have one CRS")
        cols, rows = np.meshgrid(np.arange(here.width) + 0.5, np.arange(here.height) + 0.5)
        at_col, at_row = apply(~self.grid.transform @ here.transform, cols.ravel(), rows.ravel())
        own_row, own_col = np.floor(at_row).astype(int), np.floor(at_col).astype(int)
        inside = (own_row >= 0) & (own_row < self.grid.height) & (own_col >= 0) & (own_col < self.grid.width)
        result = np.full((len(self.names), here.height * here.width), np.nan, dtype=np.float32)
        if inside.any():
            top, left = max(0, own_row[inside].min() - 1), max(0, own_col[inside].min() - 1)
            bottom = min(self.grid.height, own_row[inside].max() + 2)
            right = min(self.grid.width, own_col[inside].max() + 2)
            part = self.read(top, left, bottom - top, right - left)
            result[:, inside] = _bilinear(part, at_row[inside] - top - 0.5, at_col[inside] - left - 0.5)
            result[:, inside] = np.where(
                np.isnan(part[0, own_row[inside] - top, own_col[inside] - left]), np.nan, result[:, inside]
            )
        return result.reshape(-1, here.height, here.width)


def _bilinear(part: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Values float32 (D, N) at fractional rows and columns (N,) of (D, H, W), whose cells have their centres at whole numbers."""
    height, width = part.shape[1:]
    top, left = np.floor(rows).astype(int), np.floor(cols).astype(int)
    down, right = rows - top, cols - left
    total = np.zeros((len(part), len(rows)), dtype=np.float32)
    weights = np.zeros(len(rows), dtype=np.float32)
    for row, col, weight in (
        (top, left, (1 - down) * (1 - right)),
        (top, left + 1, (1 - down) * right),
        (top + 1, left, down * (1 - right)),
        (top + 1, left + 1, down * right),
    ):
        values = part[:, row.clip(0, height - 1), col.clip(0, width - 1)]
        weight = np.where(np.isnan(values[0]), 0, weight).astype(np.float32)
        total += np.nan_to_num(values) * weight
        weights += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weights > 0, total / weights, np.nan).astype(np.float32)


def _about_zarr(path: Path) -> dict[str, Any]:
    try:
        group = zarr.open_group(path, mode="r")
        attributes, names = dict(group.attrs), tuple(map(str, np.asarray(_array(group, "band")[:])))
        reference, shape = group["spatial_ref"].attrs, _array(group, VARIABLE).shape
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no embedding of `agrifm embed`: {error}") from error
    transform = Affine.from_gdal(*map(float, str(reference["GeoTransform"]).split()))
    crs = crs_text(str(reference["crs_wkt"]), str(path))
    return {"grid": Grid(crs=crs, transform=transform, height=shape[2], width=shape[3]), "names": names, "tags": attributes}


def _array(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group. Raises KeyError when there is none of this name."""
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found


def _value(text: str) -> Any:
    """A tag of a GeoTIFF, which are all texts, as it was before."""
    try:
        return json.loads(text)
    except ValueError:
        return text
