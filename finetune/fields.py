"""Command: the fields of a map as polygons, GeoParquet with the names of fiboa.

    python finetune/fields.py --map map.tif --class_name field --output fields.parquet

A field is a connected area of one class; pixels that share no more than a corner are not connected. Outlines follow the edges of
pixels over the whole map, so nothing is cut where the map was made in blocks.

Columns are those of fiboa's core specification 0.2.0 (https://github.com/fiboa/specification/tree/v0.2.0/core): `id`, `geometry`
(longitude and latitude, fiboa's default), `area` in hectares, `perimeter` in metres, `determination_datetime` (the last image
of the season), `determination_method`, `determination_details`, `collection`.

Areas are taken in EASE-Grid 2.0 global (EPSG:6933; Brodzik et al. 2012, doi:10.3390/ijgi1010032), where every area is true.
Lengths are not true there, nor in any equal-area projection (at 60 degrees north they are 1.7 times too long from west to east
and as much too short from south to north), so perimeters are geodesic, on the WGS 84 ellipsoid (Karney 2013,
doi:10.1007/s00190-012-0578-z). A UTM zone would give both within 0.1 %, but a map may reach over zones. Outlines in steps of
pixels are longer than the edges of a field that slant: 4/pi times in the mean over directions.
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import rasterio
import shapely
from pyproj import Geod
from rasterio.features import shapes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.atomic_files import whole_file
from common.command_line import run_command
from common.grid import GEOGRAPHIC
from finetune.mapping.cog import GDAL_CACHE_MB

EQUAL_AREA = "EPSG:6933"
FIBOA = {"fiboa_version": "0.2.0", "fiboa_extensions": []}
LARGEST_HA, LONGEST_M = 100_000, 125_000  # fiboa's limits of area and perimeter


def fields(map: Path, class_name: str, output: Path, min_area_ha: float = 0.0) -> None:
    """Write the connected areas of a class of a map as polygons.

    Args:
        map: a map of finetune/predict.py.
        class_name: the class.
        output: the GeoParquet to write.
        min_area_ha: smaller areas are left out.
    """
    if not map.is_file():
        raise ValueError(f"no map at {map}: give a GeoTIFF that finetune/predict.py wrote")
    output.parent.mkdir(parents=True, exist_ok=True)
    found = write_fields(map, class_name, output, min_area_ha)
    print(f"{output}: {len(found)} polygons of {class_name}, {found['area'].sum():.1f} ha")


def write_fields(map: Path, class_name: str, output: Path, min_area_ha: float = 0.0) -> geopandas.GeoDataFrame:
    """As `fields`; returns the table. Raises ValueError for a map without classes, or without this one."""
    with rasterio.open(map) as raster:
        names = class_names(raster.tags(1))
        if not names:
            raise ValueError(f"{map} does not name its classes; give a GeoTIFF that finetune/predict.py wrote")
        check_class(class_name, names)
        tags, crs = raster.tags(), raster.crs
    table = measured(outlines(map, names.index(class_name)), crs)
    small = int((table["area"] < min_area_ha).sum())
    if small:
        print(f"{small} of {len(table)} areas are smaller than {min_area_ha:g} ha and left out")
        table = table[table["area"] >= min_area_ha].reset_index(drop=True)
    large = int(((table["area"] > LARGEST_HA) | (table["perimeter"] > LONGEST_M)).sum())
    if large:
        print(f"{large} areas are larger than fiboa allows for a field ({LARGEST_HA} ha, {LONGEST_M} m)")
    # Numbers in the order of each field's uppermost pixel row: the same map gives the same ids.
    table.insert(0, "id", [str(number) for number in range(1, len(table) + 1)])
    when = pd.Timestamp(tags["last_image"], tz="UTC") if "last_image" in tags else pd.NaT
    table["determination_datetime"] = pd.Series(when, index=table.index).astype("datetime64[ms, UTC]")
    table["determination_method"] = "auto-imagery"
    table["determination_details"] = f"connected areas of class {class_name} of a map of task {tags.get('task', 'unknown')}"
    table["collection"] = tags.get("scene", map.stem)
    write_geoparquet(table, output)
    return table


def outlines(map: Path, class_index: int) -> Iterator[shapely.Polygon]:
    """The connected areas of one class of a map, in its CRS, from the map's upper edge downwards.

    GDAL's polygonisation reads the map line by line and joins what touches, so memory grows with the outlines, not with the map:
    some 0.2 kB a vertex until the file is written, 1 GB for 300,000 fields of 15 vertices.
    """
    with tempfile.TemporaryDirectory() as folder, rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        mask = Path(folder) / "mask.tif"
        with rasterio.open(map) as raster:
            profile = raster.profile | {"driver": "GTiff", "compress": "deflate", "zlevel": 1, "nodata": None}
            with rasterio.open(mask, "w", **profile) as written:
                for _, window in raster.block_windows(1):
                    written.write((raster.read(1, window=window) == class_index).astype(np.uint8), 1, window=window)
        with rasterio.open(mask) as raster:
            band = rasterio.band(raster, 1)
            for geometry, _ in shapes(band, mask=band, connectivity=4, transform=raster.transform):
                yield shapely.Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])


def measured(polygons: Iterator[shapely.Polygon], crs: Any) -> geopandas.GeoDataFrame:
    """Polygons in `crs` -> a table of `geometry` in longitude and latitude, `area` in ha and `perimeter` in m, both float32."""
    geometry = geopandas.GeoSeries(list(polygons), crs=crs)
    table = geopandas.GeoDataFrame(geometry=geometry.to_crs(GEOGRAPHIC))
    table["area"] = (geometry.to_crs(EQUAL_AREA).area / 10_000).astype(np.float32)
    table["perimeter"] = geodesic_perimeter(table.geometry.array).astype(np.float32)
    return table


def geodesic_perimeter(polygons: Sequence[shapely.Polygon]) -> np.ndarray:
    """Length in metres of all rings of polygons in longitude and latitude, float64 (n,)."""
    # Borders of polygons are one line a ring, so no step leads from a ring to the next.
    lines, polygon = shapely.get_parts(shapely.boundary(np.asarray(polygons)), return_index=True)
    places, line = shapely.get_coordinates(lines, return_index=True)
    if not len(places):
        return np.zeros(len(polygons))
    lon, lat = places.T
    inside = np.diff(line) == 0
    _, _, steps = Geod(ellps="WGS84").inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
    return np.bincount(polygon[line[:-1]][inside], weights=steps[inside], minlength=len(polygons))


def write_geoparquet(table: geopandas.GeoDataFrame, output: Path) -> None:
    """Write a table as GeoParquet 1.1 with fiboa's metadata; the file appears when it is whole."""
    with whole_file(output) as temporary:
        table.to_parquet(temporary, schema_version="1.1.0", index=False)
        # geopandas has no way to add to the metadata of the file.
        plain = pq.read_table(temporary)
        pq.write_table(
            plain.replace_schema_metadata({**(plain.schema.metadata or {}), b"fiboa": json.dumps(FIBOA).encode()}), temporary
        )


def class_names(band_tags: dict[str, str]) -> list[str]:
    """Names of a map's classes by index, from the tags of its band."""
    found = {int(key.removeprefix("class_")): name for key, name in band_tags.items() if key.startswith("class_")}
    return [found[index] for index in sorted(found)]


def check_class(name: str, names: Sequence[str]) -> None:
    """Raises ValueError unless `name` is one of `names`."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f", did you mean {near[0]}?" if near else ";"
        raise ValueError(f"the map has no class {name!r}{hint} it has {', '.join(names)}")


if __name__ == "__main__":
    run_command(fields)
