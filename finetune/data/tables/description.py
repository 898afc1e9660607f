"""What a `table.yaml` says of a table of pixel series; docs/reference/table-yaml.md explains every key."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, TypeVar, get_type_hints

from common.storage import AnyPath
from common.value_types import check_value
from common.yaml_files import read_yaml
from common.yaml_keys import check_keys
from data_prep.readers.same_day import OF_A_FILE

LAYOUTS = ("wide", "long", "nested")
FEWEST_FOLDS = 3  # one for the test, one for the validation, at least one for training
Described = TypeVar("Described")


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Names of the columns that describe a point.

    Attributes:
        id: id of the point. Without it points are numbered in the order of their rows. The long layout needs it.
        lon: longitude in degrees (WGS 84).
        lat: latitude in degrees (WGS 84).
        geometry: points in place of `lon` and `lat`, as WKB (GeoParquet) or WKT.
        crs: coordinate reference system of `geometry`, as in EPSG:32633. It is needed where the file does not state it.
        label: class of the point, a name or a code. Empty where the point is not labelled.
        year: year in which the season of the label ends. Without it fine-tuning uses the year with most dates.
        split: split of the point: train, validation or test.

    Raises ValueError for one of `lon` and `lat`, and for a place that is stated twice.
    """

    id: str | None = None
    lon: str | None = None
    lat: str | None = None
    geometry: str | None = None
    crs: str | int | None = None
    label: str | None = None
    year: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if (self.lon is None) != (self.lat is None):
            raise ValueError(f"columns states lon {self.lon!r} and lat {self.lat!r}; give both or none")
        if self.geometry is not None and self.lon is not None:
            raise ValueError("columns states geometry, and also lon and lat; give one of them")
        if self.crs is not None and self.geometry is None:
            raise ValueError("columns states crs without geometry; lon and lat are always degrees (WGS 84)")

    @property
    def has_place(self) -> bool:
        """Whether points have a place on the globe."""
        return self.lon is not None or self.geometry is not None


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Where the numbers of one source are.

    Attributes:
        pattern: in the wide layout, a regular expression for the whole names of columns, with the named groups `band` (not needed
            where the source has one band) and one of `step` (number of a time step), `doy` (day of the year, from 1) and `date`
            (ISO 8601). For sentinel2 the default is that of WorldCereal and Presto: S2-L2A-B02_ts3_20m, OPTICAL-B02-ts3-10m.
        bands: the names that the table has for bands, by the sensor's names; a band that is not listed has its own name.
        missing: number that means "not observed", as 65535. Beside it the sensor's no-data number, empty cells and NaN mean so.
        offset: number to add to the stored numbers, or numbers by the date from which they apply, as in scene.yaml. It is needed
            where archives of the sensor differ in it (sentinel2): 0 where the numbers are harmonised already.
    """

    pattern: str | None = None
    bands: Mapping[str, str] = field(default_factory=dict)
    missing: float | None = None
    offset: int | Mapping[Any, int] | None = None


@dataclass(frozen=True, kw_only=True)
class TableDates:
    """When the observations were made.

    Attributes:
        column: column of dates: one date per row in the long layout, a list of dates in the nested one.
        first: date of the first time step of all points.
        first_column: column with the date of each point's first time step.
        every_days: days from one time step to the next.
        every_months: months from one time step to the next.

    Raises ValueError unless dates are stated in one of these ways.
    """

    column: str | None = None
    first: date | str | None = None
    first_column: str | None = None
    every_days: int | None = None
    every_months: int | None = None

    def __post_init__(self) -> None:
        begins = [name for name in ("first", "first_column") if getattr(self, name) is not None]
        steps = [name for name in ("every_days", "every_months") if getattr(self, name) is not None]
        if self.column is None and (len(begins) != 1 or len(steps) != 1):
            raise ValueError(
                f"dates states {', '.join([*begins, *steps]) or 'nothing'}; expected `column`, or one of `first` and "
                "`first_column` with one of `every_days` and `every_months`: dates are never guessed"
            )
        if self.column is not None and (begins or steps):
            raise ValueError(f"dates states column, and also {', '.join([*begins, *steps])}; give one of them")
        if any(getattr(self, name) < 1 for name in steps):
            raise ValueError("dates: every_days and every_months must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TableBlocks:
    """Spatial blocks, of which each belongs to one fold, and so to one split.

    Attributes:
        side_m: side of a block in metres; blocks have nearly equal areas.
        side_deg: side of a block in degrees, in place of `side_m`.
        buffer_m: points nearer than this to a point of the test are left out of training and validation, and points nearer than
            this to one of the validation are left out of training.
        folds: number of folds, with about as many points each.
        test_fold: number of the fold that is the test, from 0. The next one is the validation, the others are for training.
        seed: seed of the order in which blocks are dealt to folds.

    Raises ValueError for values out of range.
    """

    side_m: float | None = None
    side_deg: float | None = None
    buffer_m: float = 0.0
    folds: int = 5
    test_fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.side_m is None) == (self.side_deg is None):
            raise ValueError("blocks needs one of side_m, in metres, and side_deg, in degrees")
        if self.side_deg is not None and not 0 < self.side_deg <= 90:
            raise ValueError(f"blocks: side_deg is {self.side_deg:g}; expected more than 0 and at most 90 degrees")
        if self.side_m is not None and not 0 < self.side_m <= 5e6:
            raise ValueError(f"blocks: side_m is {self.side_m:g}; expected more than 0 and at most 5000000 metres")
        if self.buffer_m < 0 or self.folds < FEWEST_FOLDS or not 0 <= self.test_fold < self.folds or self.seed < 0:
            raise ValueError(
                f"blocks: buffer_m is {self.buffer_m:g}, folds {self.folds}, test_fold {self.test_fold} and seed {self.seed}; "
                f"expected at least 0 metres, at least {FEWEST_FOLDS} folds, a test fold from 0 to folds - 1, and a seed of at "
                "least 0"
            )


@dataclass(frozen=True, kw_only=True)
class TableKeys:
    """The keys of a table.yaml.

    Attributes:
        files: Parquet or CSV files: a path, a list of paths, a folder, or a pattern such as points/*.parquet, relative to the
            folder of table.yaml, or URLs.
        layout: `wide`, one row per point and columns for bands and time steps; `long`, one row per point and date; or `nested`,
            one row per point and a list for each band.
        sources: where the numbers of each source are.
        columns: the columns that describe a point.
        dates: when the observations were made; not needed where names of columns hold the date or the day of the year.
        classes: names of classes by the code or text in the label column. Without it the column holds the names.
        not_labelled: codes or texts in the label column of points that are not labelled.
        blocks: spatial blocks, by which points are split into train, validation and test.
        same_day: what is done with several observations of a point on one day: `error`, or `mosaic`, the first complete one
            counts.
        storage_options: options of the file system of URLs, such as credentials.
    """

    files: str | list[str]
    layout: str
    sources: Mapping[str, TableSource]
    columns: TableColumns
    dates: TableDates | None = None
    classes: Mapping[int | str, str] = field(default_factory=dict)
    not_labelled: list[int | str] = field(default_factory=list)
    blocks: TableBlocks | None = None
    same_day: str = "error"
    storage_options: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TableDescription(TableKeys):
    """The content of a table.yaml, checked.

    Attributes:
        path: the table.yaml.

    Raises ValueError for keys that contradict each other.
    """

    path: AnyPath

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.path}: layout is {self.layout!r}; expected one of {', '.join(LAYOUTS)}")
        if self.same_day not in OF_A_FILE:
            raise ValueError(f"{self.path}: same_day is {self.same_day!r}; expected one of {', '.join(OF_A_FILE)}")
        if not self.sources:
            raise ValueError(f"{self.path}: has no sources")
        if self.layout == "long" and (self.columns.id is None or self.dates is None or self.dates.column is None):
            raise ValueError(
                f"{self.path}: the long layout needs the columns of ids and dates: `columns: {{id: ...}}` and "
                "`dates: {column: ...}`"
            )
        if self.layout == "nested" and self.dates is None:
            raise ValueError(f"{self.path}: has no `dates`, which the nested layout needs; they are never guessed")
        if self.layout == "wide" and self.dates is not None and self.dates.column is not None:
            raise ValueError(
                f"{self.path}: `dates: {{column: ...}}` is for the long and nested layout; a wide one has `first` or "
                "`first_column` with `every_days` or `every_months`, or dates in the names of columns"
            )
        if self.layout != "wide" and any(source.pattern for source in self.sources.values()):
            raise ValueError(f"{self.path}: `pattern` is for the wide layout; name columns in `bands`")
        if self.blocks is not None and not self.columns.has_place:
            raise ValueError(f"{self.path}: `blocks` need places: name the columns `lon` and `lat`, or `geometry`")
        if self.blocks is not None and self.columns.split is not None:
            stated = {f.name for f in fields(TableBlocks) if getattr(self.blocks, f.name) != f.default} - {"side_m", "side_deg"}
            if stated:
                raise ValueError(
                    f"{self.path}: {', '.join(sorted(stated))} of `blocks` has no effect, since the column "
                    f"{self.columns.split!r} says to which split a point belongs; leave one of them out"
                )

    def sha256(self) -> str:
        """sha256 of what the table.yaml says, wherever it lies and whatever credentials it states."""
        stated = [(key.name, getattr(self, key.name)) for key in fields(TableKeys) if key.name != "storage_options"]
        return hashlib.sha256(repr(stated).encode()).hexdigest()


def load_table(path: AnyPath) -> TableDescription:
    """Read a table.yaml. Raises ValueError that names the file and the missing, unknown or wrong key."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not describe a table: it holds {type(values).__name__}, expected keys and values")
    check_keys(values, TableKeys, str(path))
    parts: dict[str, Any] = dict(values)
    for name, kind in (("columns", TableColumns), ("dates", TableDates), ("blocks", TableBlocks)):
        if values.get(name) is not None:
            parts[name] = _described(kind, values[name], f"{path}: {name}")
    sources = values["sources"]
    if not isinstance(sources, Mapping) or not all(isinstance(of_one, Mapping | None) for of_one in sources.values()):
        raise ValueError(f"{path}: sources is {sources!r}; expected the options of each source by its name, {{sentinel2: {{}}}}")
    parts["sources"] = {
        str(name): _described(TableSource, of_one or {}, f"{path}: source {name}") for name, of_one in sources.items()
    }
    types = get_type_hints(TableKeys)
    for name in ("files", "layout", "classes", "not_labelled", "same_day", "storage_options"):
        if name in values:
            check_value(values[name], types[name], f"{path}: {name}")
    given = {name: value for name, value in parts.items() if value is not None}
    return TableDescription(path=path, **given)


def _described(kind: type[Described], values: Any, origin: str) -> Described:
    """A dataclass from the values of a mapping. Raises ValueError, which `origin` begins, for unknown keys and wrong values."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{origin} is {values!r}; expected keys and values")
    check_keys(values, kind, origin)
    types = get_type_hints(kind)
    for name, value in values.items():
        check_value(value, types[name], f"{origin}: {name}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{origin.partition(': ')[0]}: {error}") from error


def check_columns(wanted: Mapping[str, str], held: Collection[str], origin: str) -> None:
    """Raises ValueError for a column that a table does not hold, with the nearest name.

    `wanted`: names of columns by what they are for.
    """
    for role, name in wanted.items():
        if name not in held:
            near = difflib.get_close_matches(name, held, 1, 0.5)
            some = sorted(held)[:20]
            advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(some)}{', ...' if len(held) > 20 else ''}"
            raise ValueError(f"{origin}: has no column {name!r} ({role}); {advice}")
