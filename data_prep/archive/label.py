"""Labels of scenes: what an entry under `labels` in scene.yaml, or in labels.yaml beside the scenes, says.

A label is a raster, the polygons of a vector file, or points. Exactly one of `path`, `vector` and `points` names its file:

    crop_type: {path: crop_type.tif, classes: {1: paddy_rice, 2: winter_wheat}, nodata: 0, year: 2021}
    crop_type: {path: cdl_30m.tif, classes: {1: maize, 5: soybean}, grid: sentinel2, resample: mode}
    crop_type: {vector: parcels.gpkg, column: crop, classes: {1: maize, 2: winter_wheat, "*": other_crop}}
    crop_type: {vector: eurocrops.parquet, column: EC_hcat_c, match: prefix, classes: {"330101": cereals, "*": null}}
    fields:    {vector: parcels.gpkg, boundary_m: 20, outside: not_field}
    crop_type: {points: plots.csv, crs: EPSG:4326, column: crop, date_column: visited, square_px: 3}

`path` may name a vector file, too, which its ending tells. The docstrings of `Parcels` and `Points` explain their keys.

The codes of a label are whole numbers. Codes of a vector file that are small whole numbers stay as they are; texts and larger
numbers are numbered from 1 in the order of their classes. Without `classes`, the texts of the column are the names of classes,
numbered in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from common.crs import crs_text
from common.storage import AnyPath, joined
from common.value_types import check_value

Assign = Literal["centre", "area"]
Match = Literal["exact", "prefix"]
Resample = Literal["nearest", "mode"]

VECTOR_ENDINGS = (".gpkg", ".geojson", ".json", ".shp", ".parquet", ".geoparquet", ".fgb")
TABLE_ENDINGS = (".csv", ".parquet", ".geoparquet")
SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg")  # beside the .shp
REST = "*"  # stands for every code that `classes` does not name
LARGEST_CODE = 32_767  # larger ones are numbered anew
INTERIOR, BOUNDARY = "interior", "boundary"  # the names that the task field_boundary knows

_STORAGE_OPTIONS: Any = Mapping[str, Any] | None
_EVERY_KIND: dict[str, Any] = {
    "classes": Mapping[int | str, str | None],
    "nodata": int,
    "year": int,
    "grid": str,
    "storage_options": _STORAGE_OPTIONS,
}
_FEATURE_KEYS: dict[str, Any] = {
    "layer": str,
    "column": str,
    "match": str,
    "year_column": str,
    "date_column": str,
    "crs": str | int,
}
_KEYS: dict[str, dict[str, Any]] = {
    "path": {"path": str, **_EVERY_KIND, "classes": Mapping[int, str], "resample": str},
    "vector": {
        "vector": str,
        **_EVERY_KIND,
        **_FEATURE_KEYS,
        "assign": str,
        "least_share": float,
        "boundary_m": float,
        "inner_buffer_m": float,
        "outside": str,
    },
    "points": {"points": str, **_EVERY_KIND, **_FEATURE_KEYS, "x_column": str, "y_column": str, "square_px": int},
}


@dataclass(frozen=True, kw_only=True)
class Features:
    """What polygons and points have in common.

    Attributes:
        codes: code in the label by text in the column, `nodata` for texts that are not labelled, and the code of all other texts
            under `REST`; None where the texts are the names, until the file is read (`data_prep/landcover/label_classes.py`).
        layer: layer of the file; None for its only one.
        column: column of the code or name of the class; None for the only one.
        by_prefix: whether the texts of `codes` are beginnings of those in the column; then the longest that fits counts.
        year_column, date_column: column of the year in which the season ends, or of a date in the season.
        crs: coordinate reference system of a file that states none.
    """

    codes: Mapping[str, int] | None = None
    layer: str | None = None
    column: str | None = None
    by_prefix: bool = False
    year_column: str | None = None
    date_column: str | None = None
    crs: str | None = None

    @property
    def has_years(self) -> bool:
        """Whether a column states the year of each feature."""
        return self.year_column is not None or self.date_column is not None


@dataclass(frozen=True, kw_only=True)
class Parcels(Features):
    """Polygons that are rasterised.

    Attributes:
        assign: `centre`: a pixel gets the class of the parcel in which its centre lies. `area`: the class that covers most of
            the pixel, and at least `least_share` of it.
        least_share: see `assign`.
        boundary_m: instead of classes of the column, `interior` (code 1) and `boundary` (code 2) of parcels: pixels whose centre
            lies within half of this width, in metres, of an outline are boundary.
        inner_buffer_m: pixels whose centre is nearer than this to an outline, in metres, are not labelled.
        outside: code of the ground outside of all parcels; None where it is not labelled.
    """

    assign: Assign = "centre"
    least_share: float = 0.5
    boundary_m: float | None = None
    inner_buffer_m: float = 0.0
    outside: int | None = None


@dataclass(frozen=True, kw_only=True)
class Points(Features):
    """Points, each of which labels a square of pixels.

    Attributes:
        x_column, y_column: columns of the coordinates in a CSV or Parquet file without geometries.
        square_px: side of the square in pixels, an odd number; 1 labels the pixel in which the point lies.
    """

    x_column: str = "lon"
    y_column: str = "lat"
    square_px: int = 1


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label: a raster, or `features` of a vector file or table.

    Attributes:
        path: file.
        classes: name of the class by code.
        nodata: code that means "not labelled".
        nodata_stated: whether scene.yaml states `nodata`. Then `classes` may name the no-data number of the raster itself.
        year: year in which the season of the label ends; None where it is not stated.
        grid: source whose grid the label gets; None for the finest source, and for rasters that keep their own grid.
        resample: how a raster gets the grid of that source: the pixel at the centre, or the most frequent code.
        features: polygons or points; None for a raster.

    Raises ValueError when `classes` name the code that means "not labelled".
    """

    path: AnyPath
    classes: Mapping[int, str]
    nodata: int
    nodata_stated: bool = True
    year: int | None = None
    grid: str | None = None
    resample: Resample | None = None
    features: Parcels | Points | None = field(default=None)

    def __post_init__(self) -> None:
        if self.nodata in self.classes:
            raise ValueError(
                f"label {self.path}: code {self.nodata} is class {self.classes[self.nodata]!r} and also `nodata`, not labelled; "
                "remove one of them"
            )

    def check_codes(self, codes: np.ndarray) -> None:
        """Raises ValueError for codes that `classes` do not name: a wrong raster must not count as "other"."""
        unknown = sorted(set(np.unique(codes).tolist()) - set(self.classes) - {self.nodata})
        if unknown:
            raise ValueError(f"{self.path} holds codes {unknown[:5]} that its `classes` do not name; known: {dict(self.classes)}")

    @property
    def is_stored_raster(self) -> bool:
        """Whether the label is a raster that is used as it is stored."""
        return self.features is None and self.resample is None

    @property
    def files(self) -> list[AnyPath]:
        """All files that the label is read from, if they exist: parts of a shapefile, a raster's mask, what a VRT is made of."""
        found = [self.path, *shapefile_parts(self.path)]
        if self.features is None:
            mask = self.path.with_name(f"{self.path.name}.msk")
            found += [mask] if mask.is_file() else []
            found += _files_of_vrt(self.path) if self.path.suffix.lower() == ".vrt" else []
        return [path for path in found if path.is_file()]

    def named_by(self, texts: list[str]) -> Label:
        """The label whose classes are these texts of its column, in this order, numbered from 1."""
        features = self.features
        assert features is not None
        if isinstance(features, Parcels) and features.outside is not None:  # numbered before the texts were known
            outside = self.classes[features.outside]
            codes = _numbered(dict.fromkeys([*texts, outside]), self.nodata)
            features = replace(features, codes=codes, outside=codes[outside])
        else:
            codes = _numbered(texts, self.nodata)
            features = replace(features, codes=codes)
        return replace(self, classes={code: text for text, code in codes.items()}, features=features)


def shapefile_parts(path: AnyPath) -> list[AnyPath]:
    """The other files of a shapefile that are there, whose endings may be in capitals; none for another file."""
    if path.suffix.lower() != ".shp":
        return []
    endings = [ending for part in SHAPEFILE_PARTS for ending in (part, part.upper())]
    return [beside for beside in [path.with_suffix(ending) for ending in endings] if beside.is_file()]


def _files_of_vrt(path: AnyPath) -> list[AnyPath]:
    """The files that a virtual raster on this machine is made of, beside itself."""
    if not isinstance(path, Path) or not path.is_file():
        return []
    import rasterio  # imported here because labels that are no virtual rasters do not need it

    try:
        with rasterio.open(path) as raster:
            return [Path(name) for name in raster.files if Path(name) != path]
    except rasterio.errors.RasterioIOError:
        return []  # reading it says what is wrong


def label_from_values(values: Mapping[str, Any], folder: AnyPath, origin: str) -> Label:
    """Build a Label from an entry in scene.yaml or labels.yaml, whose paths begin at `folder`.

    Raises ValueError, which `origin` begins, for wrong values.
    """
    named = [key for key in _KEYS if key in values]
    if len(named) != 1:
        raise ValueError(
            f"{origin} needs `path` and `classes` of a raster, or `vector` or `points`; it has {sorted(map(str, values))}"
        )
    kind = named[0]
    ending = _ending(values[kind])
    if kind == "path" and ending in VECTOR_ENDINGS:
        values = {"vector" if key == "path" else key: value for key, value in values.items()}
        kind = "vector"
    if kind == "path" and ending in TABLE_ENDINGS:
        raise ValueError(f"{origin}: {values['path']} is a table; if its rows are points, name it with `points`")
    if kind == "vector" and ending not in VECTOR_ENDINGS:
        raise ValueError(f"{origin}: vector is {values['vector']!r}; expected a name that ends in {', '.join(VECTOR_ENDINGS)}")
    if kind == "points" and ending not in (*VECTOR_ENDINGS, *TABLE_ENDINGS):
        raise ValueError(
            f"{origin}: points is {values['points']!r}; expected a name that ends in .csv, {', '.join(VECTOR_ENDINGS)}"
        )
    needed = {"path", "classes"} if kind == "path" else {kind}
    if not needed <= set(values) <= set(_KEYS[kind]):
        raise ValueError(
            f"{origin} needs {' and '.join(f'`{key}`' for key in sorted(needed, reverse=True))} and knows {sorted(_KEYS[kind])}; "
            f"it has {sorted(map(str, values))}"
        )
    for key, value in values.items():
        check_value(value, _KEYS[kind][key], f"{origin} {key}")
    try:
        return _RASTER_OR_FEATURES[kind](values, joined(folder, values[kind], values.get("storage_options")))
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def _ending(path: Any) -> str:
    name = str(path).rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""


def _raster(values: Mapping[str, Any], path: AnyPath) -> Label:
    classes = dict(values["classes"])
    resample = values.get("resample")
    if resample is not None and resample not in get_args(Resample):
        raise ValueError(f"resample is {resample!r}; expected {' or '.join(get_args(Resample))}")
    if (resample is None) != ("grid" not in values):
        raise ValueError(
            "a raster is brought onto the grid of a source by `grid` (the source) and `resample` (nearest or mode) together; "
            "without both it is used as it is stored"
        )
    return Label(path=path, classes=classes, resample=resample, **_common(values, _nodata(values, classes)))


def _vector(values: Mapping[str, Any], path: AnyPath) -> Label:
    assign = values.get("assign", "centre")
    if assign not in get_args(Assign):
        raise ValueError(f"assign is {assign!r}; expected {' or '.join(get_args(Assign))}")
    least_share, width = values.get("least_share", 0.5), values.get("boundary_m")
    inner = values.get("inner_buffer_m", 0.0)
    if not 0 < least_share <= 1 or ("least_share" in values and assign != "area"):
        raise ValueError(f"least_share is {least_share}; expected more than 0 and at most 1, and `assign: area`")
    if inner < 0 or (width is not None and width <= 0):
        raise ValueError(f"boundary_m is {width} and inner_buffer_m {inner}; expected widths above 0")
    options = {"assign": assign, "least_share": float(least_share), "boundary_m": width, "inner_buffer_m": float(inner)}
    if width is not None:
        stray = sorted({"classes", "column", "match", "least_share", "inner_buffer_m"} & set(values))
        if stray or assign != "centre":
            raise ValueError(
                f"boundary_m makes the classes {INTERIOR} and {BOUNDARY} of all parcels, by the centres of pixels; leave "
                f"{', '.join(stray or ['assign'])} out"
            )
        nodata = values.get("nodata", 0)
        codes = _numbered([INTERIOR, BOUNDARY], nodata)
        codes |= {values["outside"]: 3 + (nodata == 3)} if "outside" in values and values["outside"] not in codes else {}
        features = Parcels(
            codes={REST: codes[INTERIOR]}, outside=codes.get(values.get("outside", "")), **_feature_options(values), **options
        )
        classes = {code: name for name, code in codes.items()}
        return Label(path=path, classes=classes, features=features, **_common(values, nodata))
    classes, codes_of, nodata = _classes_of_features(values)
    outside = None
    if "outside" in values:
        outside = _code_of_name(values["outside"], classes, nodata)
        classes = {**classes, outside: values["outside"]}
    features = Parcels(codes=codes_of, outside=outside, **_feature_options(values), **options)
    return Label(path=path, classes=classes, features=features, **_common(values, nodata))


def _points(values: Mapping[str, Any], path: AnyPath) -> Label:
    square = values.get("square_px", 1)
    if square < 1 or square % 2 == 0:
        raise ValueError(f"square_px is {square}; expected an odd number, so that the point lies in the pixel at the middle")
    classes, codes, nodata = _classes_of_features(values)
    names = {key: values[key] for key in ("x_column", "y_column") if key in values}
    features = Points(codes=codes, square_px=square, **names, **_feature_options(values))
    return Label(path=path, classes=classes, features=features, **_common(values, nodata))


_RASTER_OR_FEATURES = {"path": _raster, "vector": _vector, "points": _points}


def _common(values: Mapping[str, Any], nodata: int) -> dict[str, Any]:
    return {"nodata": nodata, "nodata_stated": "nodata" in values, "year": values.get("year"), "grid": values.get("grid")}


def _feature_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Features` but `codes`. Raises ValueError for values that contradict each other."""
    match = values.get("match", "exact")
    if match not in get_args(Match):
        raise ValueError(f"match is {match!r}; expected {' or '.join(get_args(Match))}")
    if match == "prefix" and "classes" not in values:
        raise ValueError("match is prefix, and there are no `classes` with prefixes of codes")
    stated = [key for key in ("year", "year_column", "date_column") if key in values]
    if len(stated) > 1:
        raise ValueError(f"states {' and '.join(stated)}; give one of them")
    options = {key: values[key] for key in ("layer", "column", "year_column", "date_column") if key in values}
    crs = crs_text(values["crs"], "crs") if "crs" in values else None
    return {**options, "by_prefix": match == "prefix", "crs": crs}


def _classes_of_features(values: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, int] | None, int]:
    """Name by code, code by text in the column (None where the texts are the names), and the code of no data."""
    stated = values.get("classes")
    if stated is None:
        return {}, None, values.get("nodata", 0)
    names = {str(key): name for key, name in stated.items()}
    if len(names) < len(stated):
        twice = [str(key) for key in stated if list(map(str, stated)).count(str(key)) > 1]
        raise ValueError(f"classes name {twice[0]} twice, as a number and as a text")
    if not any(names.values()):
        raise ValueError(f"classes are {stated}; they name no class")
    keys = [key for key in stated if key != REST]
    keep = values.get("match", "exact") == "exact" and all(isinstance(key, int) and 0 <= key <= LARGEST_CODE for key in keys)
    if not keep:
        nodata = values.get("nodata", 0)
        numbers = _numbered(dict.fromkeys(name for name in names.values() if name is not None), nodata)
        codes = {key: nodata if name is None else numbers[name] for key, name in names.items()}
        return {code: name for name, code in numbers.items()}, codes, nodata
    classes = {int(key): name for key, name in names.items() if key != REST and name is not None}
    nodata = _nodata(values, classes)
    codes = {key: nodata if name is None else int(key) for key, name in names.items() if key != REST}
    rest = names.get(REST)
    if REST in names:
        codes[REST] = nodata if rest is None else _code_of_name(rest, classes, nodata)
        classes |= {} if rest is None else {codes[REST]: rest}
    return classes, codes, nodata


def _nodata(values: Mapping[str, Any], classes: Mapping[int, str]) -> int:
    """The stated code of no data, or one that is no class."""
    stated = values.get("nodata")
    return next(code for code in chain((0, 255), count(1)) if code not in classes) if stated is None else int(stated)


def _numbered(names: Any, nodata: int) -> dict[str, int]:
    """Distinct names -> codes from 1 in their order, without the code of no data."""
    free = (code for code in count(1) if code != nodata)
    return dict(zip(names, free, strict=False))


def _code_of_name(name: str, classes: Mapping[int, str], nodata: int) -> int:
    """The code of a class, or the first free one above all codes."""
    known = [code for code, other in classes.items() if other == name]
    return known[0] if known else next(code for code in count(max(classes, default=0) + 1) if code != nodata)
