"""Reference points: places whose true class is known, from a table or a file of a geographic information system."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd

from common.grid import GEOGRAPHIC


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferencePoints:
    """Points with a known class.

    Attributes:
        lon, lat: degrees, float64 (n,).
        classes: for each column that was asked for, class indices int64 (n,).
    """

    lon: np.ndarray
    lat: np.ndarray
    classes: tuple[np.ndarray, ...]


def load_reference(path: Path, columns: Sequence[str], names: Sequence[str]) -> ReferencePoints:
    """Read reference points and the classes in `columns`, which hold names among the `names` of a map's classes.

    `path`: CSV with columns lon and lat in degrees (WGS 84), or GeoPackage, GeoJSON, GeoParquet, ... with points in any CRS.

    Raises ValueError for a file that cannot be read, without points, without a column, and for names that no class has.
    """
    table, lon, lat = _read(path)
    if not len(table):
        raise ValueError(f"reference {path} holds no point")
    return ReferencePoints(lon=lon, lat=lat, classes=tuple(_classes(path, table, column, names) for column in columns))


def _read(path: Path) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The table of a file of points, their longitudes and latitudes."""
    if not path.is_file():
        raise ValueError(f"reference {path} does not exist")
    if path.suffix.lower() == ".csv":
        table = pd.read_csv(path)
        if missing := {"lon", "lat"} - set(table.columns):
            lacks = " and no ".join(sorted(missing))
            raise ValueError(f"reference {path} has no column {lacks}; it has {', '.join(table.columns)}")
        lon, lat = (pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in ("lon", "lat"))
        good = (np.abs(lon) <= 360) & (np.abs(lat) <= 90)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"reference {path}: lon {table['lon'].iloc[row]} and lat {table['lat'].iloc[row]} of row {row + 1} are no degrees"
            )
        return table, lon, lat
    try:
        frame = geopandas.read_parquet(path) if path.suffix.lower() == ".parquet" else geopandas.read_file(path)
    except Exception as error:  # pyogrio, pyarrow and geopandas have errors of their own
        raise ValueError(f"reference {path} cannot be read: {error}") from error
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise ValueError(f"reference {path} has no geometry with a coordinate reference system")
    kinds = sorted(set(frame.geom_type.dropna()))
    if kinds not in ([], ["Point"]) or frame.geometry.isna().any() or frame.geometry.is_empty.any():
        raise ValueError(f"reference {path} holds {', '.join(kinds) or 'no geometry'}; expected one point in each row")
    places = frame.geometry.to_crs(GEOGRAPHIC)
    return pd.DataFrame(frame.drop(columns=frame.geometry.name)), places.x.to_numpy(), places.y.to_numpy()


def _classes(path: Path, table: pd.DataFrame, column: str, names: Sequence[str]) -> np.ndarray:
    """Class indices of a column of names."""
    if column not in table.columns:
        near = difflib.get_close_matches(column, [str(name) for name in table.columns], 1, 0.5)
        hint = f", did you mean {near[0]}?" if near else ";"
        raise ValueError(f"reference {path} has no column {column!r}{hint} it has {', '.join(map(str, table.columns))}")
    texts = table[column].map(lambda value: "" if pd.isna(value) else str(value))
    unknown = sorted(set(texts) - set(names))
    if unknown:
        empty = "; points without a class must be left out" if "" in unknown else ""
        raise ValueError(f"reference {path}: {column} holds {unknown[:5]}; the map has the classes {', '.join(names)}{empty}")
    index = {name: number for number, name in enumerate(names)}
    return texts.map(index).to_numpy(np.int64)
