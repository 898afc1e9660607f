"""The STAC item of an embedding: where and when, by which model, what its bands are (https://stacspec.org, version 1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from common.grid import unwrapped
from finetune.embedding.files import EmbeddingFile
from finetune.embedding.projection import NO_DATA_CODE
from finetune.mapping.polygons import polygon_table

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
MEDIA_TYPES = {".tif": "image/tiff; application=geotiff; profile=cloud-optimized", ".zarr": "application/vnd+zarr"}
_EDGE_POINTS = 4  # along each edge of a footprint, whose edges are curved in longitude and latitude


def embedding_item(path: Path, about: EmbeddingFile, properties: Mapping[str, Any], components: Path) -> dict[str, Any]:
    """The STAC item of an embedding in the file `path`, as plain values.

    Its properties name the model in the words of the extension MLM (`mlm:name`, ...). The item does not claim that extension,
    which is for items of models. What no extension has is under `agrifm:`.

    Args:
        path: the file, beside which the item lies.
        about: its grid, bands and season.
        properties: model, dates and sample.
        components: the file with the components, in the same folder.
    """
    import pystac  # imported here because only this function needs it

    geometry = _footprint(about)
    begin, end = (day.astype("datetime64[s]").item().replace(tzinfo=UTC) for day in about.season)
    item = pystac.Item(
        id=path.name,
        geometry=shapely.geometry.mapping(geometry),
        bbox=_bbox(geometry),
        datetime=None,
        start_datetime=begin,
        end_datetime=end - timedelta(seconds=1),
        properties=dict(properties),
        stac_extensions=[PROJECTION, RASTER],
    )
    item.properties |= _projection(about)
    asset = pystac.Asset(href=f"./{path.name}", media_type=MEDIA_TYPES[path.suffix], roles=["data"], title="Embedding")
    asset.extra_fields["bands"] = _bands(about)
    item.add_asset("embedding", asset)
    item.add_asset(
        "components", pystac.Asset(href=f"./{components.name}", roles=["metadata"], title="Components of the embedding")
    )
    values: dict[str, Any] = item.to_dict(include_self_link=False, transform_hrefs=False)
    return values


def _bands(about: EmbeddingFile) -> list[dict[str, Any]]:
    bands: list[dict[str, Any]] = [
        {"name": name, "data_type": about.dtype, "nodata": NO_DATA_CODE if about.scale is not None else "nan"}
        for name in about.names
    ]
    if about.scale is not None and about.offset is not None:
        for band, scale, offset in zip(bands, about.scale.tolist(), about.offset.tolist(), strict=True):
            band |= {"raster:scale": scale, "raster:offset": offset}
    return bands


def _projection(about: EmbeddingFile) -> dict[str, Any]:
    grid = about.grid
    named = {"proj:code": grid.crs} if grid.crs.startswith("EPSG:") else {"proj:code": None, "proj:wkt2": _wkt2(grid.crs)}
    return named | {"proj:shape": list(grid.shape), "proj:transform": list(grid.transform)[:6]}


def _wkt2(crs: str) -> str:
    return str(CRS.from_user_input(crs).to_wkt())


def _footprint(about: EmbeddingFile) -> shapely.Geometry:
    """The outline of the grid in longitude and latitude, cut at the antimeridian."""
    grid, along = about.grid, np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    forth, back = along, 1 - along
    zeros, ones = np.zeros(_EDGE_POINTS), np.ones(_EDGE_POINTS)
    cols = np.concatenate([zeros, forth, ones, back]) * grid.width  # counterclockwise, as GeoJSON asks
    rows = np.concatenate([forth, ones, back, zeros]) * grid.height
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    x, y = a * cols + b * rows + c, d * cols + e * rows + f
    if CRS.from_user_input(grid.crs).is_geographic and np.abs(x).max() > 180:
        x = unwrapped(x, 0.0)  # the grid crosses the antimeridian
    outline = shapely.Polygon(np.stack([x, y], axis=1))
    return polygon_table([outline], grid.crs).geometry.iloc[0]


def _bbox(geometry: shapely.Geometry) -> list[float]:
    """West, south, east, north in degrees; west is larger than east where the antimeridian lies between (RFC 7946)."""
    west, south, east, north = geometry.bounds
    if isinstance(geometry, shapely.MultiPolygon):
        parts = [part.bounds for part in geometry.geoms]
        west, east = max(part[0] for part in parts), min(part[2] for part in parts)
    return [float(side) for side in (west, south, east, north)]
