"""Public parcels with crops as labels of scenes: EuroCrops, and data in the columns of fiboa.

EuroCrops (https://github.com/maja601/EuroCrops) names the crop of a parcel by the columns EC_hcat_c and EC_hcat_n, code and name
of its taxonomy HCAT. fiboa's extensions have `hcat:code` and `hcat:name` for the same, and `crop:code` and `crop:name` for the
codes of a country. What is written is an entry of labels.yaml, by which all scenes in its folder get the parcels as a label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import pyarrow.parquet

# Pairs of columns of code and name, in the order in which they are looked for.
COLUMNS = (
    ("EC_hcat_c", "EC_hcat_n"),
    ("hcat:code", "hcat:name"),
    ("ec:hcat_code", "ec:hcat_name"),
    ("crop:code", "crop:name_en"),
    ("crop:code", "crop:name"),
)
DATES = ("determination:datetime", "determination_datetime")  # of fiboa's core, of present and earlier versions
NOT_KNOWN = "not_known_and_other"  # HCAT's name for crops that nobody has named
PARQUET = (".parquet", ".geoparquet")


@dataclass(frozen=True, kw_only=True)
class ParcelCrops:
    """The crops of a file of parcels.

    Attributes:
        layer: layer of the file; None for a file without layers, and where there is one alone.
        column: column of the codes.
        names: name by code; the code itself where there is no name; None for HCAT's crops that nobody has named.
        parcels: number of parcels by code.
        without_code: number of parcels without one.
        date_column: column of the date for which a parcel holds; None without one.
    """

    layer: str | None
    column: str
    names: dict[str, str | None]
    parcels: Counter[str]
    without_code: int
    date_column: str | None

    def label(self, path: str, year: int | None) -> dict[str, Any]:
        """The entry of labels.yaml. `path`: of the file, as seen from the folder of labels.yaml."""
        when: dict[str, Any] = {} if year is None else {"year": year}
        if year is None and self.date_column is not None:
            when = {"date_column": self.date_column}
        where = {"vector": path} if self.layer is None else {"vector": path, "layer": self.layer}
        return {**where, "column": self.column, **when, "classes": self.names}


def read_parcels(path: Path, layer: str | None = None, column: str | None = None, name_column: str | None = None) -> ParcelCrops:
    """The crops of a file of parcels.

    Args:
        path: GeoPackage, GeoParquet, shapefile or another vector file.
        layer: layer of the file; None for its only one.
        column: column of the codes; None for that of EuroCrops or fiboa.
        name_column: column of the names; None for the one that belongs to the column of EuroCrops or fiboa.

    Raises ValueError when there is no such column, when several could be meant, and when a code has several names.
    """
    layer = _layer(path, layer)
    present = _columns(path, layer)
    column, name_column = _chosen(path, present, column, name_column)
    dates = [name for name in DATES if name in present]
    table = _read(path, layer, [column] if name_column is None else [column, name_column])
    codes = [_text(value) for value in table[column]]
    given = codes if name_column is None else [_text(value) for value in table[name_column]]
    names: dict[str, str | None] = {}
    for code, name in zip(codes, given, strict=True):
        if code is None or name is None:
            continue
        shown = None if name == NOT_KNOWN else name
        if names.setdefault(code, shown) != shown:
            raise ValueError(
                f"{path}: code {code} of {column} is named {names[code]!r} and {shown!r}; choose another --name_column"
            )
    for code in codes:
        if code is not None:
            names.setdefault(code, code)  # it has no name anywhere
    if not names:
        raise ValueError(f"{path}: no parcel has a code in column {column}")
    return ParcelCrops(
        layer=layer,
        column=column,
        names=dict(sorted(names.items())),
        parcels=Counter(code for code in codes if code is not None),
        without_code=codes.count(None),
        date_column=next(iter(dates), None),
    )


def _chosen(path: Path, present: Sequence[str], column: str | None, name_column: str | None) -> tuple[str, str | None]:
    """The columns of codes and names."""
    listed = ", ".join(present)
    for given in (column, name_column):
        if given is not None and given not in present:
            raise ValueError(f"{path} has no column {given!r}; it has {listed}")
    pairs = {code: name for code, name in reversed(COLUMNS) if code in present and name in present}
    alone = {code: None for code, _ in COLUMNS if code in present}
    known: dict[str, str | None] = alone | pairs
    if column is None:
        if len(known) != 1:
            which = f"several columns of crops, {', '.join(known)}" if known else f"no column {' or '.join(dict(COLUMNS))}"
            raise ValueError(f"{path} has {which}; say which one counts with --column; it has {listed}")
        column = next(iter(known))
    return column, name_column if name_column is not None else known.get(column)


def _layer(path: Path, layer: str | None) -> str | None:
    """The layer that is meant; None for a file with one alone. Raises ValueError when several could be meant."""
    if path.suffix.lower() in PARQUET:
        if layer is not None:
            raise ValueError(f"{path} has no layers; leave --layer out")
        return None
    try:
        there = [str(name) for name in geopandas.list_layers(path)["name"]]
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a file of parcels: {error}") from error
    if layer is None and len(there) == 1:
        return None
    if layer not in there:
        raise ValueError(f"{path} has the layers {', '.join(there)}; say which one counts with --layer")
    return layer


def _columns(path: Path, layer: str | None) -> list[str]:
    """Names of the columns of a vector file. Raises ValueError when it cannot be read."""
    try:
        if path.suffix.lower() in PARQUET:
            return list(pyarrow.parquet.read_schema(path).names)
        return [str(name) for name in geopandas.read_file(path, layer=layer, rows=1).columns]
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a file of parcels: {error}") from error


def _read(path: Path, layer: str | None, columns: list[str]) -> pd.DataFrame:
    """Columns of a vector file, without geometries."""
    if path.suffix.lower() in PARQUET:
        return pyarrow.parquet.read_table(path, columns=columns).to_pandas()
    return pd.DataFrame(geopandas.read_file(path, layer=layer, columns=columns, ignore_geometry=True))


def _text(value: Any) -> str | None:
    """A code or name as text, whole numbers without decimals; None where it is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
