"""The connected areas of one class of a map as polygons: GeoParquet with the column names of fiboa.

A field is a connected area of one class; pixels that share only a corner are not connected. Outlines follow the edges of pixels
over the whole map, so the blocks in which the map was made, and the scenes of a mosaic, cut nothing
(`finetune/mapping/outlines.py`).

Columns are those of fiboa's core specification 0.2.0 (https://github.com/fiboa/specification/tree/v0.2.0/core): `id`, `geometry`
(longitude and latitude, fiboa's default), `area` in hectares, `perimeter` in metres, `determination_datetime` (the last image
of the season), `determination_method`, `determination_details`, `collection`.

Areas are computed in EASE-Grid 2.0 global (EPSG:6933; Brodzik et al. 2012, doi:10.3390/ijgi1010032), an equal-area projection. It
distorts lengths, as does any equal-area projection (at 60 degrees north they are 1.7 times too long from west to east and 1.7
times too short from south to north). So perimeters are geodesic, on the WGS 84 ellipsoid (Karney 2013,
doi:10.1007/s00190-012-0578-z). A UTM zone would give both within 0.1 %, but a map may extend over several zones. Outlines along
pixel edges are longer than straight edges of fields that cross the pixels at an angle: 4/pi times on average over directions.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import rasterio
import shapely
from pyproj import Geod
from shapely.affinity import translate
from shapely.geometry.polygon import orient

from common.atomic_files import whole_file
from common.grid import GEOGRAPHIC
from finetune.mapping.cog import class_names
from finetune.mapping.ground_area import EQUAL_AREA
from finetune.mapping.outlines import PolygonOptions, class_outlines

FIBOA = {"fiboa_version": "0.2.0", "fiboa_extensions": []}
LARGEST_HA, LONGEST_M = 100_000, 125_000  # fiboa's limits of area and perimeter


def write_polygons(
    map_path: Path, class_name: str, output: Path, options: PolygonOptions | None = None
) -> geopandas.GeoDataFrame:
    """Write the connected areas of a class of a map as polygons, and return their table.

    Args:
        map_path: a map of finetune/predict.py, or a VRT of several.
        class_name: the class.
        output: the GeoParquet to write.
        options: how outlines are made; None uses the defaults of `PolygonOptions`.

    Raises ValueError for a map without class names, or without this class.
    """
    options = options or PolygonOptions()
    with rasterio.open(map_path) as raster:
        names = class_names(raster.tags(1))
        if not names:
            raise ValueError(f"{map_path} does not name its classes; give a GeoTIFF that finetune/predict.py wrote")
        check_class(class_name, names)
        options.check_boundary(class_name, names)
        tags, crs = raster.tags(), raster.crs
    boundary = None if options.boundary is None else names.index(options.boundary)
    outlines = class_outlines(map_path, names.index(class_name), boundary, options)
    table = polygon_table(outlines, crs)
    table = _without_small(table, options.min_area_ha)
    large = int(((table["area"] > LARGEST_HA) | (table["perimeter"] > LONGEST_M)).sum())
    if large:
        print(f"{large} areas are larger than fiboa allows for a field ({LARGEST_HA} ha, {LONGEST_M} m)")
    # Polygons are numbered by their uppermost pixel row, so the same map gives the same ids.
    table.insert(0, "id", [str(number) for number in range(1, len(table) + 1)])
    when = pd.Timestamp(tags["last_image"], tz="UTC") if "last_image" in tags else pd.NaT
    table["determination_datetime"] = pd.Series(when, index=table.index).astype("datetime64[ms, UTC]")
    table["determination_method"] = "auto-imagery"
    table["determination_details"] = f"connected areas of class {class_name} of a map of task {tags.get('task', 'unknown')}"
    table["collection"] = tags.get("scene", map_path.stem)
    write_geoparquet(table, output)
    return table


def polygon_table(polygons: Sequence[shapely.Polygon], crs: Any) -> geopandas.GeoDataFrame:
    """Polygons in `crs` -> a table of `geometry` in longitude and latitude, `area` in ha and `perimeter` in m, both float32.

    A polygon across the antimeridian becomes a multipolygon that is cut there (RFC 7946, section 3.1.9).
    """
    geometry = geopandas.GeoSeries(list(polygons), crs=crs)
    degrees = geometry.to_crs(GEOGRAPHIC)
    whole = degrees.copy()
    west, _, east, _ = degrees.bounds.to_numpy().T
    torn = east - west > 180  # no field is so wide: it crosses the antimeridian, where its longitudes jump
    whole[torn] = shapely.transform(degrees[torn].to_numpy(), lambda at: np.stack([at[:, 0] % 360, at[:, 1]], axis=1))
    # Longitudes of a map in degrees do not jump: they go on beyond 180.
    west, _, east, _ = whole.bounds.to_numpy().T
    turns = np.where(np.isfinite(west), np.floor((west + 180) / 360), 0)
    turned = turns != 0
    whole[turned] = [translate(one, -360 * turn) for one, turn in zip(whole[turned], turns[turned], strict=True)]
    across = east - 360 * turns > 180
    # A cylindrical projection gives the same area at all longitudes; its own edge is the antimeridian.
    geometry = geometry.to_crs(EQUAL_AREA)
    geometry[turned] = whole[turned].to_crs(EQUAL_AREA)
    geometry[across] = whole[across].translate(-180).to_crs(EQUAL_AREA)
    degrees[turned] = whole[turned]
    degrees[across] = [_cut_at_antimeridian(polygon) for polygon in whole[across]]
    table = geopandas.GeoDataFrame(geometry=degrees)
    table["area"] = (geometry.area / 10_000).astype(np.float32)
    table["perimeter"] = geodesic_perimeter(whole.array).astype(np.float32)
    return table


def _cut_at_antimeridian(polygon: shapely.Polygon) -> shapely.Polygon | shapely.MultiPolygon:
    """A polygon in longitudes 0 to 360 and latitudes -> its parts in longitudes -180 to 180."""
    west = shapely.intersection(polygon, shapely.box(0, -90, 180, 90))
    east = shapely.intersection(polygon, shapely.box(180, -90, 360, 90))
    parts = [*shapely.get_parts(west), *shapely.get_parts(shapely.transform(east, lambda at: at - np.array([360, 0])))]
    polygons = [orient(part) for part in parts if part.area > 0]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def geodesic_perimeter(polygons: Sequence[shapely.Polygon]) -> np.ndarray:
    """Length in metres of all rings of polygons in longitude and latitude, float64 (n,)."""
    # The boundary of a polygon has one line per ring, so no segment connects two rings.
    lines, polygon = shapely.get_parts(shapely.boundary(np.asarray(polygons)), return_index=True)
    vertices, line = shapely.get_coordinates(lines, return_index=True)
    if not len(vertices):
        return np.zeros(len(polygons))
    lon, lat = vertices.T
    same_line = np.diff(line) == 0
    _, _, lengths = Geod(ellps="WGS84").inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
    return np.bincount(polygon[line[:-1]][same_line], weights=lengths[same_line], minlength=len(polygons))


def write_geoparquet(table: geopandas.GeoDataFrame, output: Path) -> None:
    """Write a table as GeoParquet 1.1 with fiboa's metadata; the file appears only when it is complete."""
    with whole_file(output) as temporary:
        table.to_parquet(temporary, schema_version="1.1.0", index=False)
        # geopandas cannot add to the metadata of the file, so it is written again with fiboa's.
        plain = pq.read_table(temporary)
        pq.write_table(
            plain.replace_schema_metadata({**(plain.schema.metadata or {}), b"fiboa": json.dumps(FIBOA).encode()}), temporary
        )


def check_class(name: str, names: Sequence[str]) -> None:
    """Raises ValueError unless `name`, the class whose areas become polygons, is one of the `names` of a map's classes."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f", did you mean {near[0]}?" if near else ";"
        raise ValueError(f"the map has no class {name!r}{hint} it has {', '.join(names)}")


def _without_small(table: geopandas.GeoDataFrame, min_area_ha: float) -> geopandas.GeoDataFrame:
    """The table without areas below `min_area_ha`; says how many were left out."""
    small = int((table["area"] < min_area_ha).sum())
    if not small:
        return table
    print(f"{small} of {len(table)} areas are smaller than {min_area_ha:g} ha and left out")
    return table[table["area"] >= min_area_ha].reset_index(drop=True)
