"""Cells of Arrow columns as NumPy arrays: numbers, dates, texts and places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely

from common.crs import crs_text
from common.grid import GEOGRAPHIC, reprojected
from data_prep.readers.file_metadata import decode_days

LARGEST_LATITUDE, LARGEST_LONGITUDE = 90.0, 360.0


def numbers(column: pa.Array, origin: str) -> np.ndarray:
    """A column as float64 (n,), NaN where a cell is empty. Raises ValueError for anything but numbers."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_of(column.type) for is_of in kinds):
        raise ValueError(f"{origin}: holds {column.type}; expected numbers")
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def whole_numbers(column: pa.Array, origin: str) -> np.ndarray:
    """A column as int64 (n,). Raises ValueError for empty cells and for fractions."""
    found = numbers(column, origin)
    wrong = ~np.isfinite(found) | (found != np.rint(found))
    if wrong.any():
        raise ValueError(f"{origin}: holds {found[wrong][0]:g} in {int(wrong.sum())} rows; expected a whole number in each")
    return found.astype(np.int64)


def dates(column: pa.Array, origin: str) -> np.ndarray:
    """A column of dates, times or ISO 8601 texts as datetime64[D] (n,). Raises ValueError for empty cells and other values."""
    if column.null_count:
        raise ValueError(f"{origin}: {column.null_count} rows have no date")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type):  # most rows share their dates
        encoded = column.dictionary_encode()
        days = decode_days(np.array(encoded.dictionary.to_pylist(), dtype=object), {}, origin) if len(column) else _no_days()
        return days[encoded.indices.to_numpy()]
    values = column.to_numpy(zero_copy_only=False)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        values = values.astype("datetime64[D]")
    return decode_days(values, {}, origin) if len(values) else _no_days()


def _no_days() -> np.ndarray:
    return np.zeros(0, dtype="datetime64[D]")


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def texts(column: pa.Array, origin: str) -> list[str | None]:
    """A column of texts or whole numbers as texts, None where a cell is empty. Raises ValueError for other values."""
    return [None if value is None else str(value) for value in labels(column, origin)]


def labels(column: pa.Array, origin: str) -> list[str | int | None]:
    """A column of texts or whole numbers, None where a cell is empty, or holds NaN or nothing but spaces.

    Raises ValueError for other values.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):  # a library that knows no empty whole number writes 3.0 for 3
        found = numbers(column, origin)
        wrong = np.isfinite(found) & (found != np.rint(found))
        if wrong.any():
            raise ValueError(f"{origin}: holds {found[wrong][0]:g}; expected texts or whole numbers")
        return [int(value) if np.isfinite(value) else None for value in found]
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if not is_text(column.type) and not pa.types.is_integer(column.type):
        raise ValueError(f"{origin}: holds {column.type}; expected texts or whole numbers")
    values = column.to_pylist()
    return [None if isinstance(value, str) and not value.strip() else value for value in values]


def places(lon: np.ndarray, lat: np.ndarray, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes from -180 to 180 and latitudes, in degrees. Raises ValueError for what lies elsewhere, and for empty cells."""
    wrong = ~((np.abs(lat) <= LARGEST_LATITUDE) & (np.abs(lon) <= LARGEST_LONGITUDE))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"{origin}: {int(wrong.sum())} points have no place, first in row {at} with longitude {lon[at]:g} and latitude "
            f"{lat[at]:g}; expected degrees (WGS 84) in each row: are the columns exchanged, or coordinates of a projection?"
        )
    # As they are stored where that is possible: the remainder changes the last digit.
    return np.where((lon >= -180) & (lon < 180), lon, (lon + 180) % 360 - 180), lat


def places_of_geometry(column: pa.Array, crs: str | int, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of points in WKB or WKT. Raises ValueError for other geometries and for empty cells."""
    values = column.to_pylist()
    try:
        geometry = shapely.from_wkt(values) if is_text(column.type) else shapely.from_wkb(values)
    except (shapely.errors.ShapelyError, TypeError) as error:
        raise ValueError(f"{origin}: holds {column.type} that is neither WKB nor WKT: {error}") from error
    is_point = shapely.get_type_id(geometry) == shapely.GeometryType.POINT
    if not is_point.all() or shapely.is_empty(geometry).any():
        other = geometry[int(np.argmin(is_point))]
        kind = "an empty cell" if other is None else other.geom_type
        raise ValueError(
            f"{origin}: holds {kind} in row {int(np.argmin(is_point))}; expected points, such as centroids of fields"
        )
    x, y = shapely.get_x(geometry), shapely.get_y(geometry)
    known = crs_text(crs, origin)
    lon, lat = (x, y) if known == GEOGRAPHIC else reprojected(known, GEOGRAPHIC, x, y)
    return places(lon, lat, origin)


def geometry_crs(stated: str | int | None, geo: Mapping[str, Any], name: str, origin: str) -> str | int:
    """The coordinate reference system of a column: that of table.yaml, else that of GeoParquet, whose default is WGS 84.

    Raises ValueError when neither states one, and when they differ.
    """
    in_file: str | None = None
    if name in geo:
        if geo[name].get("encoding", "WKB") != "WKB":
            raise ValueError(f"{origin}: {name} has the encoding {geo[name]['encoding']!r} of GeoParquet; expected WKB")
        of_column = geo[name].get("crs", GEOGRAPHIC)
        if of_column is not None:
            found = pyproj.CRS.from_user_input(of_column)
            is_degrees = found.is_geographic and found.equals(pyproj.CRS("OGC:CRS84"), ignore_axis_order=True)
            in_file = GEOGRAPHIC if is_degrees or of_column == GEOGRAPHIC else crs_text(found.to_wkt(), origin)
    if stated is None and in_file is None:
        raise ValueError(f"{origin}: the file does not state the coordinate reference system of {name}; state `crs` in `columns`")
    if stated is not None and in_file is not None and crs_text(stated, origin) != in_file:
        raise ValueError(f"{origin}: {name} is in {in_file} by the file, and in {stated} by table.yaml; correct one of them")
    return in_file if stated is None else stated  # type: ignore[return-value]  # one of them is there
