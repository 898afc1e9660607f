"""Areas to search: a box, polygons, or points, in degrees (WGS 84)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from common.grid import GEOGRAPHIC
from data_prep.plan.sites import load_sites

EQUAL_AREA = "EPSG:6933"  # EASE-Grid 2.0
CELL_DEGREES = 1.0  # points of a cell are searched together


@dataclass(frozen=True, kw_only=True)
class Area:
    """An area to search.

    Attributes:
        geometry: polygons or points.
        queries: parameters of searches that together cover the area: `bbox`, or `intersects` with GeoJSON.
    """

    geometry: BaseGeometry
    queries: tuple[dict[str, Any], ...]

    @property
    def is_points(self) -> bool:
        return bool(self.geometry.geom_type in ("Point", "MultiPoint"))

    @cached_property
    def _parts(self) -> np.ndarray:
        return shapely.get_parts(self.geometry)

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self._parts)

    def touches(self, footprint: BaseGeometry) -> bool:
        """Whether a footprint lies in the area or crosses its border."""
        return len(self._tree.query(footprint, "intersects")) > 0

    def box_within(self, footprint: BaseGeometry) -> list[float] | None:
        """The box (west, south, east, north) of the parts of the area in a footprint; None for points, which need no box."""
        if self.is_points:
            return None
        return box_of(self._parts[self._tree.query(footprint, "intersects")])

    def covered(self, footprint: BaseGeometry) -> str:
        """How much of the area a footprint covers, for a table."""
        if self.is_points:
            return f"{len(self._tree.query(footprint, 'intersects')):,} of {len(self._parts):,} points"
        covered = gpd.GeoSeries([self.geometry.intersection(footprint)], crs=GEOGRAPHIC).to_crs(EQUAL_AREA)
        return f"{covered.area.iloc[0] / 1e6:,.0f} km2"


def box_of(parts: Sequence[BaseGeometry] | np.ndarray) -> list[float]:
    """The box (west, south, east, north) of geometries; where they lie on both sides of 180 degrees, west is above east."""
    west, south, east, north = np.asarray(shapely.bounds(parts)).T
    if east.max() - west.min() > 180:
        west, east = np.where(west < 0, west + 360, west), np.where(east < 0, east + 360, east)
    box = np.array([west.min(), south.min(), east.max(), north.max()])
    return [
        float((value + 180) % 360 - 180) if index % 2 == 0 and value > 180 else float(value) for index, value in enumerate(box)
    ]


def load_area(bbox: Sequence[float] | None, path: Path | None) -> Area:
    """The area of a search. Raises ValueError for a box that is none, and a file without polygons or points."""
    if bbox is not None:
        return _area_of_box(bbox)
    assert path is not None
    if path.suffix.lower() == ".csv" or (path.suffix.lower() == ".parquet" and _is_table_of_points(path)):
        sites = load_sites(path)
        return _area_of_points(sites.lon, sites.lat)
    if not path.is_file():
        raise ValueError(f"area {path} does not exist")
    try:
        frame = gpd.read_parquet(path) if path.suffix.lower() == ".parquet" else gpd.read_file(path)
    except Exception as error:  # pyogrio, pyarrow and geopandas have errors of their own
        raise ValueError(f"area {path} cannot be read: {error}") from error
    if frame.crs is None:
        raise ValueError(f"area {path} has no coordinate reference system")
    geometry = shapely.union_all(shapely.make_valid(frame.to_crs(GEOGRAPHIC).geometry.dropna().to_numpy()))
    if geometry.is_empty:
        raise ValueError(f"area {path} holds no geometry")
    if geometry.geom_type in ("Point", "MultiPoint"):
        points = shapely.get_coordinates(geometry)
        return _area_of_points(points[:, 0], points[:, 1])
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"area {path} holds {geometry.geom_type}; expected polygons or points")
    return Area(geometry=geometry, queries=({"intersects": shapely.geometry.mapping(geometry)},))


def _is_table_of_points(path: Path) -> bool:
    return path.is_file() and {"id", "lon", "lat"} <= set(pq.read_schema(path).names)


def _area_of_box(bbox: Sequence[float]) -> Area:
    if len(bbox) != 4 or not (-90 <= bbox[1] < bbox[3] <= 90 and all(abs(value) <= 180 for value in bbox)):
        raise ValueError(f"bbox is {list(bbox)}; expected WEST SOUTH EAST NORTH in degrees")
    west, south, east, north = bbox
    boxes = [shapely.box(west, south, east, north)]
    if west >= east:
        boxes = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    return Area(geometry=shapely.MultiPolygon(boxes), queries=({"bbox": [float(value) for value in bbox]},))


def _area_of_points(lon: np.ndarray, lat: np.ndarray) -> Area:
    cells = np.floor(np.stack([lon, lat], axis=1) / CELL_DEGREES).astype(np.int64)
    queries = []
    for cell in np.unique(cells, axis=0):
        inside = (cells == cell).all(axis=1)
        box = lon[inside].min(), lat[inside].min(), lon[inside].max(), lat[inside].max()
        queries.append({"bbox": [float(value) for value in box]})
    return Area(geometry=shapely.MultiPoint(np.stack([lon, lat], axis=1)), queries=tuple(queries))
