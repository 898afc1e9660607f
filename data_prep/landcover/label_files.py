"""Files of features with columns: GeoPackage, GeoParquet, shapefile, GeoJSON and FlatGeobuf, and tables of points."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj import CRS
from pyproj.exceptions import CRSError

from common.crs import crs_name, crs_text, same_crs
from common.errors import UNREACHABLE
from common.grid import GEOGRAPHIC
from common.storage import AnyPath, RemotePath, scratch_folder
from data_prep.archive.label import Points, shapefile_parts
from data_prep.archive.scene import Label

READ_WHOLE = 50_000  # features of a file that is read without a look at where they lie, so that all of them are counted
GEOMETRY = "geometry"
Box = tuple[float, float, float, float]


class FeatureFile:
    """A file of features, open for reading.

    Args:
        path: file, also at a URL.
        layer: its layer; None for the only one.
        origin: begins messages.
        points_in: columns of x and y in a file without geometries; None for a file that must have geometries.

    Attributes:
        columns: names of the columns beside the geometry.
        features: number of features.
        crs: coordinate reference system that the file states, `EPSG:n` or WKT; None where it states none.

    Raises ValueError when the file is missing or cannot be read, for a layer or columns that it lacks, and without features.
    """

    def __init__(self, path: AnyPath, layer: str | None, origin: str, points_in: tuple[str, str] | None = None) -> None:
        self.path, self._layer, self._origin, self._points_in = path, layer, origin, points_in
        if not path.is_file():
            raise ValueError(f"{origin}: {path} does not exist")
        self._stack = ExitStack()
        try:
            self._local = self._stack.enter_context(_on_this_machine(path))
            with self._reading():
                self._open()
        except BaseException:
            self._stack.close()
            raise
        if not self.features:
            self.__exit__()
            raise ValueError(f"{origin}: {path} holds no features")

    def _open(self) -> None:
        ending = self.path.suffix.lower()
        self._table: pa.Table | None = None  # of a file without geometries, or of GeoParquet
        self._geo: dict[str, Any] | None = None
        if ending == ".csv":
            self._table = _read_csv(self._local)
        elif ending in (".parquet", ".geoparquet"):
            metadata = pq.read_metadata(self._local)
            self._geo = json.loads((metadata.metadata or {}).get(b"geo", b"null"))
            # Boxes of geometries, and numbers that pandas gave the rows, are no columns of the features.
            self.columns = [
                field.name
                for field in pq.read_schema(self._local)
                if field.name != self._geometry_column
                and not pa.types.is_nested(field.type)
                and not field.name.startswith("__index")
            ]
            self.features, self.crs = metadata.num_rows, None
            if self._geo is None:
                self._table = pq.read_table(self._local)
            else:
                stated = self._geo["columns"][self._geometry_column].get("crs", "OGC:CRS84")  # which the format says without one
                self.crs = self._text_of_crs(None if stated is None else CRS.from_user_input(stated))
        if self._table is not None:
            if self._points_in is None:
                raise ValueError(f"{self._origin}: {self.path} has no geometries; expected GeoParquet")
            self.columns, self.features, self.crs = self._table.column_names, len(self._table), None
        elif self._geo is None:
            self._layer = self._only_layer()
            info = pyogrio.read_info(self._local, layer=self._layer, force_feature_count=True)
            self.columns, self.features = list(info["fields"]), int(info["features"])
            self.crs = self._text_of_crs(info["crs"])

    @property
    def _geometry_column(self) -> str | None:
        return None if self._geo is None else str(self._geo["primary_column"])

    def _text_of_crs(self, crs: CRS | str | None) -> str | None:
        if crs is None:
            return None
        crs = CRS.from_user_input(crs)
        # OGC:CRS84 differs from EPSG:4326 in the order of axes alone, and coordinates are x, y here in any case.
        is_degrees = crs.equals(CRS.from_user_input("OGC:CRS84"), ignore_axis_order=True)
        return GEOGRAPHIC if is_degrees else crs_text(crs.to_epsg() or crs.to_wkt(), f"{self._origin}: {self.path}")

    def _only_layer(self) -> str:
        layers = [str(name) for name, kind in pyogrio.list_layers(self._local) if kind is not None]
        if self._layer is not None:
            if self._layer not in layers:
                raise ValueError(
                    f"{self._origin}: {self.path} has no layer {self._layer!r}; it has {', '.join(layers) or 'none'}"
                )
            return self._layer
        if len(layers) != 1:
            raise ValueError(
                f"{self._origin}: {self.path} has the layers {', '.join(layers) or '(none with geometries)'}; name one with "
                "`layer`"
            )
        return layers[0]

    def crs_or_stated(self, stated: str | None) -> str:
        """The CRS of the file, or the `stated` one. Raises ValueError when there is neither, and when they differ."""
        if self.crs is not None and stated is not None and not same_crs(self.crs, stated):
            raise ValueError(
                f"{self._origin}: {self.path} states {crs_name(self.crs)}, scene.yaml {crs_name(stated)}; leave `crs` out, or "
                "correct the file"
            )
        crs = stated if self.crs is None else self.crs
        if crs is None:
            raise ValueError(
                f"{self._origin}: {self.path} states no coordinate reference system; state the one it is in: `crs: EPSG:4326` "
                "for longitude and latitude"
            )
        return crs

    def class_column(self, stated: str | None, others: Sequence[str | None]) -> str:
        """The column of the class: the `stated` one, or the only one beside `others` and coordinates.

        Raises ValueError when it is missing, or when there are several.
        """
        if stated is not None:
            return self.known_column(stated)
        free = [name for name in self.columns if name not in others and name not in (self._points_in or ())]
        if len(free) != 1:
            raise ValueError(
                f"{self._origin}: {self.path} has the columns {', '.join(free) or '(none)'}; name the one that holds the class "
                "with `column`"
            )
        return free[0]

    def known_column(self, name: str) -> str:
        """The name of a column. Raises ValueError when the file lacks it."""
        if name not in self.columns:
            raise ValueError(f"{self._origin}: {self.path} has no column {name!r}; it has {', '.join(self.columns) or 'none'}")
        return name

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        with self._reading():
            if self._table is not None:
                values: list[Any] = self._table[name].to_pylist()
            elif self._geo is not None:
                values = pq.read_table(self._local, columns=[name])[name].to_pylist()
            else:
                values = pyogrio.read_dataframe(self._local, layer=self._layer, columns=[name], read_geometry=False)[
                    name
                ].tolist()
        return values

    def read(self, columns: Sequence[str], boxes: Sequence[Box]) -> pd.DataFrame:
        """Features with some columns and `GEOMETRY`, shapely geometries without heights, None where missing.

        `boxes`: of a file with many features, only those whose boxes touch one of these (west, south, east, north) are read, if
        the file allows it.
        """
        with self._reading():
            if self._table is not None:
                return self._points(columns)
            boxed = self.features > READ_WHOLE and len(boxes) > 0 and self._finds_boxes
            parts = [self._part(columns, box) for box in (boxes if boxed else [None])]
        if boxed:  # a feature may lie in several boxes, and the rows of a GeoParquet have no number that tells them apart
            bounds = [shapely.bounds(part.geometry.to_numpy()) for part in parts]
            parts = [
                part[touching(of_part, [box]) & ~touching(of_part, boxes[:number])]
                for number, (part, of_part, box) in enumerate(zip(parts, bounds, boxes, strict=True))
            ]
        table = pd.concat(parts) if len(parts) > 1 else parts[0]
        geometry = shapely.force_2d(table.geometry.to_numpy())
        return pd.DataFrame({name: table[name].to_numpy() for name in columns} | {GEOMETRY: geometry})

    @property
    def _finds_boxes(self) -> bool:
        """Whether the format finds the features of a box without reading all of them; GeoParquet does with a column of boxes."""
        return self._geo is None or "covering" in self._geo["columns"][self._geometry_column]

    def _part(self, columns: Sequence[str], box: Box | None) -> geopandas.GeoDataFrame:
        if self._geo is None:
            return pyogrio.read_dataframe(self._local, layer=self._layer, columns=list(columns), bbox=box)
        return geopandas.read_parquet(self._local, columns=[*columns, self._geometry_column], bbox=box)

    def _points(self, columns: Sequence[str]) -> pd.DataFrame:
        assert self._table is not None
        assert self._points_in is not None
        at = []
        for name in map(self.known_column, self._points_in):
            try:
                at.append(self._table[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
            except pa.ArrowException as error:
                raise ValueError(f"{self._origin}: column {name} of {self.path} holds no numbers: {error}") from error
        known = np.isfinite(at[0]) & np.isfinite(at[1])
        geometry = np.where(known, shapely.points(*(np.where(known, part, 0) for part in at)), None)
        return pd.DataFrame(
            {name: pd.Series(self._table[name].to_pylist(), dtype=object) for name in columns} | {GEOMETRY: geometry}
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise ValueError that names the file for what the libraries raise."""
        try:
            yield
        except UNREACHABLE:
            raise
        except (DataSourceError, DataLayerError, FeatureError, CRSError, pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"{self._origin}: {self.path} cannot be read as a vector file: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def touching(bounds: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Whether each of the bounds (n, 4) of geometries touches one of some boxes, bool (n,); those of no geometry do not."""
    west, south, east, north = bounds.reshape(-1, 4).T
    with np.errstate(invalid="ignore"):
        found = [(west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1]) for box in boxes]
    touches: np.ndarray = np.logical_or.reduce(found) if found else np.zeros(len(west), bool)
    return touches


def feature_file(label: Label, origin: str) -> FeatureFile:
    """Open the file of a label of features. Raises ValueError as `FeatureFile` does."""
    features = label.features
    assert features is not None
    columns = (features.x_column, features.y_column) if isinstance(features, Points) else None
    return FeatureFile(label.path, features.layer, origin, columns)


def _read_csv(path: Path) -> pa.Table:
    """A CSV with all columns as texts: a code such as 0110 is no number."""
    names = pa_csv.open_csv(path).schema.names
    options = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""])
    return pa_csv.read_csv(path, convert_options=options)


@contextmanager
def _on_this_machine(path: AnyPath) -> Iterator[Path]:
    """Yield the path of a file on this machine: its own, or that of a copy, with the other parts of a shapefile beside it."""
    if isinstance(path, Path):
        yield path
        return
    with scratch_folder(path) as folder:
        path.download(folder / path.name)
        for beside in shapefile_parts(path):
            assert isinstance(beside, RemotePath)
            beside.download(folder / beside.name)
        yield folder / path.name
