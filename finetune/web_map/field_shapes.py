"""Polygons of fields in a part of the map, as GeoJSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import shapely

from common.grid import GEOGRAPHIC

MOST_SHAPES = 5000  # in one answer; a browser draws more of them slowly


class FieldShapes:
    """The polygons of a file, in memory, in degrees.

    Args:
        path: GeoParquet or GeoJSON, such as finetune/fields.py writes.

    Raises ValueError for a file that holds no polygons with a coordinate reference system.
    """

    def __init__(self, path: Path) -> None:
        try:
            read = geopandas.read_parquet if path.suffix == ".parquet" else geopandas.read_file
            table = read(path)
        except Exception as error:  # whatever its readers raise is about the file
            raise ValueError(f"{path} cannot be read as polygons: {error}") from error
        if table.crs is None:
            raise ValueError(f"{path} states no coordinate reference system")
        kinds = sorted(set(table.geom_type.dropna()) - {"Polygon", "MultiPolygon"})
        if kinds:
            raise ValueError(f"{path} holds {', '.join(kinds)}; expected polygons")
        self._table = table.to_crs(GEOGRAPHIC)

    def inside(self, west: float, south: float, east: float, north: float) -> dict[str, Any]:
        """The polygons that touch a box in degrees, the largest first, at most MOST_SHAPES: a GeoJSON FeatureCollection.

        Its key "left_out" counts those that are not among them. Longitudes are near those of the box, which may go on beyond 180.
        """
        parts = []
        for turn in (-360, 0, 360):
            box = shapely.box(west - turn, south, east - turn, north)
            there = self._table.iloc[self._table.sindex.query(box, predicate="intersects")]
            parts.append(there.set_geometry(there.translate(turn)) if turn else there)
        found = pd.concat(parts)
        extent = shapely.bounds(found.geometry.to_numpy())
        size = (extent[:, 2] - extent[:, 0]) * (extent[:, 3] - extent[:, 1]) if len(found) else []
        order = sorted(range(len(found)), key=lambda number: -size[number])[:MOST_SHAPES]
        shown = found.iloc[order]
        names = [name for name in ("id", "area", "perimeter") if name in shown.columns]
        features = [
            {
                "type": "Feature",
                "geometry": json.loads(shapely.to_geojson(geometry)),
                "properties": {name: _plain(values[name]) for name in names},
            }
            for geometry, values in zip(shown.geometry, shown[names].to_dict("records"), strict=True)
        ]
        return {"type": "FeatureCollection", "features": features, "left_out": len(found) - len(shown)}


def _plain(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    return None if pd.isna(value) else float(value)
