"""Reads the points of a table, in any layout, a few thousand rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.archive.sensor import Sensor
from data_prep.readers.file_metadata import decode_days
from finetune.data.tables import cells
from finetune.data.tables.description import TableDates, TableDescription
from finetune.data.tables.files import TableFiles, stated_geometry
from finetune.data.tables.point_series import NO_YEAR, PointSeries, RawObservations, source_series
from finetune.data.tables.seen_keys import SeenKeys
from finetune.data.tables.wide_columns import WideColumns, wide_columns

LAST_DAY_OF_A_MONTH = 28  # that every month has
FIRST_YEAR, LAST_YEAR = 1972, 2100


@dataclass(frozen=True, kw_only=True)
class TableReader:
    """Reads a table.

    Attributes:
        table: its description.
        files: its files.
        sensors: sensor of each source to read.
        labelled: whether labels and splits are read as well.

    Raises ValueError for a source that the table does not have.
    """

    table: TableDescription
    files: TableFiles
    sensors: Mapping[str, Sensor]
    labelled: bool

    def __post_init__(self) -> None:
        unknown = [source for source in self.sensors if source not in self.table.sources]
        if unknown:
            raise ValueError(f"{self.table.path}: has no source {', '.join(unknown)}; it has {', '.join(self.table.sources)}")

    def read(self, *, in_order: bool = False) -> Iterator[PointSeries]:
        """The points, in parts of some thousands.

        `in_order`: read a long table in one pass and in bounded memory; the rows of each point must follow each other. Else all
        of a long table is one part, and its rows may have any order.

        Raises ValueError for cells that are wrong, and for a point that occurs twice.
        """
        if self.table.layout == "long":
            yield from self._read_long(in_order)
            return
        wide = self._wide_columns() if self.table.layout == "wide" else {}
        names = self._point_columns()
        for source, sensor in self.sensors.items():
            found = wide[source].all_names() if wide else [self._band_column(source, band) for band in sensor.bands]
            names |= dict.fromkeys(found, f"numbers of {source}")
        dates = self.table.dates
        if dates is not None and dates.column is not None:
            names[dates.column] = "dates"
        first = 0
        seen = SeenKeys()
        for origin, batch in self.files.batches(names, self._csv_types(names), self._series_columns):
            points = self._points(batch, origin, first)
            if self.table.columns.id is not None:
                self._check_seen_once(points, seen, origin)
            raw = {
                source: self._raw_wide(batch, wide[source], sensor, points, origin)
                if wide
                else self._raw_nested(batch, source, sensor, origin)
                for source, sensor in self.sensors.items()
            }
            yield self._with_sources(points, raw, origin)
            first += len(batch)

    def _check_seen_once(self, points: PointSeries, seen: SeenKeys, origin: str) -> None:
        again = seen.add([points.name(number) for number in range(len(points))])
        if again is not None:
            year = " and year" if self.table.columns.year is not None else ""
            raise ValueError(
                f"{origin}: point {points.name(again)} has several rows; expected one for each id{year}: remove the others, or "
                "give each an id of its own"
            )

    def _with_sources(self, points: PointSeries, raw: Mapping[str, RawObservations], origin: str) -> PointSeries:
        names = [points.name(number) for number in range(len(points))]
        found = {source: source_series(of_one, self.sensors[source], self.table, names, origin) for source, of_one in raw.items()}
        return replace(points, sources=found)

    # --- Columns

    def _point_columns(self) -> dict[str, str]:
        """What the columns that describe a point are for, by their names."""
        columns, dates = self.table.columns, self.table.dates
        wanted = {"id": columns.id, "longitude": columns.lon, "latitude": columns.lat, "geometry": columns.geometry}
        wanted["year"] = columns.year
        if self.labelled:
            wanted |= {"label": columns.label, "split": columns.split}
        if dates is not None:
            wanted["date of the first time step"] = dates.first_column
        return {name: what for what, name in wanted.items() if name is not None}

    def _series_columns(self, held: Sequence[str]) -> list[str]:
        """The columns of a wide table that hold the numbers of its sources, of all columns of a file."""
        if self.table.layout != "wide":
            return []
        return [name for of_source in self._wide_columns_of(held).values() for name in of_source.all_names()]

    def _wide_columns_of(self, held: Sequence[str]) -> dict[str, WideColumns]:
        return {
            source: wide_columns(held, self.table.sources[source], sensor, f"{self.table.path}: source {source}")
            for source, sensor in self.sensors.items()
        }

    def _wide_columns(self) -> dict[str, WideColumns]:
        path, found = self.table.path, self._wide_columns_of(self.files.names)
        for source, columns in found.items():
            if columns.kind == "step" and self.table.dates is None:
                raise ValueError(
                    f"{path}: the columns of {source} have numbers of time steps, and `dates` does not say when these were: "
                    "state `dates: {first: 2021-01-01, every_days: 10}`, or `first_column` for a date of each point"
                )
            if columns.kind == "doy" and self.table.columns.year is None:
                raise ValueError(
                    f"{path}: the columns of {source} have days of the year; name the column of the `year` in `columns`"
                )
            steps = columns.times
            if columns.kind == "step" and (np.diff(steps) != 1).any():
                raise ValueError(f"{path}: the time steps of {source} are {steps.tolist()}; expected whole numbers without a gap")
        firsts = {int(columns.times[0]) for columns in found.values() if columns.kind == "step"}
        if len(firsts) > 1:
            raise ValueError(
                f"{path}: the time steps of {', '.join(found)} begin with different numbers, {sorted(firsts)}, so that they "
                "cannot have the same first date; rename them to begin with one number"
            )
        return found

    def _band_column(self, source: str, band: str) -> str:
        """The column of a band in the long and nested layout."""
        return self.table.sources[source].bands.get(band, band)

    def _csv_types(self, names: Mapping[str, str]) -> dict[str, pa.DataType]:
        """Types as which the columns of a CSV are read; Arrow would guess them from the first rows."""
        columns, dates = self.table.columns, self.table.dates
        as_text = {columns.id, columns.geometry, columns.split}
        if dates is not None:
            as_text |= {dates.column, dates.first_column}
        types = {name: pa.string() if name in as_text else pa.float64() for name in names}
        if columns.label is not None and self.labelled:
            has_codes = bool(self.table.classes) and all(isinstance(code, int) for code in self.table.classes)
            types[columns.label] = pa.float64() if has_codes else pa.string()
        return types

    # --- Points

    def _points(self, batch: pa.RecordBatch, origin: str, first: int) -> PointSeries:
        """The points of rows, still without series; `first` is the number of the first row."""
        columns = self.table.columns
        count = len(batch)
        ids = [str(first + row) for row in range(count)] if columns.id is None else self._ids(batch, columns.id, origin)
        lon, lat = self._places(batch, origin)
        years = np.full(count, NO_YEAR, dtype=np.int32)
        if columns.year is not None:
            years = _years(batch.column(columns.year), f"{origin}: column {columns.year!r}")
        labels: Sequence[str | int | None] = [None] * count
        splits: Sequence[str | None] = [None] * count
        if self.labelled and columns.label is not None:
            labels = cells.labels(batch.column(columns.label), f"{origin}: column {columns.label!r}")
        if self.labelled and columns.split is not None:
            splits = cells.texts(batch.column(columns.split), f"{origin}: column {columns.split!r}")
        return PointSeries(ids=ids, lon=lon, lat=lat, years=years, labels=labels, splits=splits, sources={})

    def _ids(self, batch: pa.RecordBatch, name: str, origin: str) -> list[str]:
        found = cells.texts(batch.column(name), f"{origin}: column {name!r}")
        ids = [text for text in found if text is not None]
        if len(ids) < len(found):
            raise ValueError(f"{origin}: column {name!r} has {len(found) - len(ids)} rows without an id")
        return ids

    def _places(self, batch: pa.RecordBatch, origin: str) -> tuple[np.ndarray, np.ndarray]:
        columns = self.table.columns
        if columns.geometry is not None:
            where = f"{origin}: column {columns.geometry!r}"
            crs = cells.geometry_crs(columns.crs, stated_geometry(batch), columns.geometry, where)
            return cells.places_of_geometry(batch.column(columns.geometry), crs, where)
        if columns.lon is None or columns.lat is None:
            return np.full(len(batch), np.nan), np.full(len(batch), np.nan)
        lon, lat = (cells.numbers(batch.column(name), f"{origin}: column {name!r}") for name in (columns.lon, columns.lat))
        return cells.places(lon, lat, f"{origin}: columns {columns.lon!r} and {columns.lat!r}")

    # --- The wide layout

    def _raw_wide(
        self, batch: pa.RecordBatch, columns: WideColumns, sensor: Sensor, points: PointSeries, origin: str
    ) -> RawObservations:
        count, times = len(batch), len(columns.times)
        numbers = np.empty((count, times, len(sensor.bands)))
        for time, of_time in enumerate(columns.names):
            for band, name in enumerate(of_time):
                numbers[:, time, band] = cells.numbers(batch.column(name), f"{origin}: column {name!r}")
        if columns.kind == "date":
            days = np.broadcast_to(columns.times, (count, times))
        elif columns.kind == "doy":
            new_year = (points.years.astype(np.int64) - 1970).astype("datetime64[Y]").astype("datetime64[D]")
            days = new_year[:, None] + (columns.times - 1)
        else:
            days = self._step_days(self._first_days(batch, origin), columns.times - columns.times[0])
        return RawObservations(
            starts=np.arange(count + 1, dtype=np.int64) * times,
            numbers=numbers.reshape(count * times, -1),
            days=days.reshape(-1),
        )

    def _first_days(self, batch: pa.RecordBatch, origin: str) -> np.ndarray:
        """Date of the first time step of each row, datetime64[D] (n,)."""
        dates = self.table.dates
        assert dates is not None
        if dates.first_column is not None:
            return cells.dates(batch.column(dates.first_column), f"{origin}: column {dates.first_column!r}")
        first = decode_days(np.array([str(dates.first)], dtype=object), {}, f"{self.table.path}: dates, first")
        return np.repeat(first, len(batch))

    def _step_days(self, first: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Dates of time steps, counted from 0, datetime64[D] (n, T)."""
        dates = self.table.dates
        assert isinstance(dates, TableDates)
        if dates.every_days is not None:
            return first[:, None] + dates.every_days * steps
        assert dates.every_months is not None
        months = first.astype("datetime64[M]")
        day = (first - months.astype("datetime64[D]")).astype(np.int64)
        if (day >= LAST_DAY_OF_A_MONTH).any():
            raise ValueError(
                f"{self.table.path}: a series of months begins on {first[int(day.argmax())]}; not every month has this day: "
                f"state a first date on day 1 to {LAST_DAY_OF_A_MONTH}"
            )
        return (months[:, None] + dates.every_months * steps).astype("datetime64[D]") + day[:, None]

    # --- The nested layout

    def _raw_nested(self, batch: pa.RecordBatch, source: str, sensor: Sensor, origin: str) -> RawObservations:
        dates = self.table.dates
        assert dates is not None
        lengths: dict[str, np.ndarray] = {}
        lists = {}
        for name in (*(self._band_column(source, band) for band in sensor.bands), dates.column):
            if name is None:
                continue
            column = batch.column(name)
            kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
            if not any(is_of(column.type) for is_of in kinds):
                raise ValueError(f"{origin}: column {name!r} holds {column.type}; expected a list in each row (nested layout)")
            lengths[name] = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
            lists[name] = pc.list_flatten(column)
        band_names = [self._band_column(source, band) for band in sensor.bands]
        count = lengths[band_names[0]]
        for name, of_column in lengths.items():
            # A point may lack a source: its lists are empty there, whatever dates others have.
            differs = (of_column != count) & ~((name == dates.column) & (count == 0))
            if differs.any():
                at = int(np.argmax(differs))
                raise ValueError(
                    f"{origin}: column {name!r} has {of_column[at]} values in row {at}, and {band_names[0]!r} has {count[at]}; "
                    f"all bands of {source} and the dates of a row need equally many"
                )
        numbers = np.stack([cells.numbers(lists[name], f"{origin}: column {name!r}") for name in band_names], axis=1)
        row = np.repeat(np.arange(len(batch)), count)
        if dates.column is None:
            step = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
            days = self._nested_steps(self._first_days(batch, origin)[row], step)
        else:
            days = cells.dates(lists[dates.column], f"{origin}: column {dates.column!r}")
            days = days[np.repeat(count > 0, lengths[dates.column])]
        starts = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        return RawObservations(starts=starts, numbers=numbers, days=days)

    def _nested_steps(self, first: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Dates of observations by the first date of their point and the number of their time step, datetime64[D] (N,)."""
        if not len(step):
            return first
        all_steps = np.arange(int(step.max()) + 1)
        firsts, at = np.unique(first, return_inverse=True)
        return self._step_days(firsts, all_steps)[at, step]

    # --- The long layout

    def _read_long(self, in_order: bool) -> Iterator[PointSeries]:
        dates, columns = self.table.dates, self.table.columns
        assert dates is not None
        assert dates.column is not None
        assert columns.id is not None
        names = self._point_columns() | {dates.column: "dates"}
        for source, sensor in self.sensors.items():
            names |= {self._band_column(source, band): f"numbers of {source}" for band in sensor.bands}
        batches = self.files.batches(names, self._csv_types(names))
        if not in_order:
            found = list(batches)
            if found:
                yield self._long_points(_together([batch for _, batch in found]), str(self.table.path))
            return
        seen = SeenKeys()
        rest: pa.RecordBatch | None = None  # the rows of the last point, which may go on in the next batch
        for origin, batch in batches:
            rows = batch if rest is None else _together([rest, batch])
            code = self._keys(rows, origin)
            if (np.diff(code) < 0).any():
                raise ValueError(self._not_in_order(origin))
            last = int(np.argmax(code == code[-1]))
            rest = rows.slice(last)
            if last:
                yield self._whole_points(rows.slice(0, last), seen, origin)
        if rest is not None:
            yield self._whole_points(rest, seen, str(self.table.path))

    def _whole_points(self, rows: pa.RecordBatch, seen: SeenKeys, origin: str) -> PointSeries:
        points = self._long_points(rows, origin)
        if seen.add([points.name(number) for number in range(len(points))]) is not None:
            raise ValueError(self._not_in_order(origin))
        return points

    def _not_in_order(self, origin: str) -> str:
        return (
            f"{origin}: rows of one point do not follow each other; a long table is predicted in one pass, so sort it by "
            f"{self.table.columns.id!r}" + (f" and {self.table.columns.year!r}" if self.table.columns.year is not None else "")
        )

    def _keys(self, rows: pa.RecordBatch, origin: str) -> np.ndarray:
        """Number of the point of each row, int64 (rows,), counted in the order in which points first occur."""
        columns = self.table.columns
        assert columns.id is not None
        ids = pa.array(self._ids(rows, columns.id, origin), pa.string()).dictionary_encode()
        code = ids.indices.to_numpy().astype(np.int64)
        if columns.year is not None:
            code = code * (LAST_YEAR + 1) + _years(rows.column(columns.year), f"{origin}: column {columns.year!r}")
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[inverse.reshape(-1)]

    def _long_points(self, rows: pa.RecordBatch, origin: str) -> PointSeries:
        """The points of rows, with all their rows."""
        dates = self.table.dates
        assert dates is not None
        assert dates.column is not None
        code = self._keys(rows, origin)
        order = np.argsort(code, kind="stable")
        code, rows = code[order], rows.take(pa.array(order))
        starts = np.searchsorted(code, np.arange(code[-1] + 2)).astype(np.int64) if len(code) else np.zeros(1, np.int64)
        of_rows = self._points(rows, origin, 0)
        firsts = starts[:-1]
        for what, values in (
            ("places", np.stack([of_rows.lon, of_rows.lat], axis=1)),
            ("labels", np.array([str(label) for label in of_rows.labels])),
            ("splits", np.array([str(split) for split in of_rows.splits])),
        ):
            same = values == values[firsts][code]
            same = same | (values != values) if values.dtype.kind == "f" else same  # NaN: the table states no places
            if not same.all():
                at = int(np.argmin(same.all(axis=1) if same.ndim > 1 else same))
                raise ValueError(f"{origin}: rows of point {of_rows.name(at)} have different {what}")
        points = PointSeries(
            ids=[of_rows.ids[row] for row in firsts],
            lon=of_rows.lon[firsts],
            lat=of_rows.lat[firsts],
            years=of_rows.years[firsts],
            labels=[of_rows.labels[row] for row in firsts],
            splits=[of_rows.splits[row] for row in firsts],
            sources={},
        )
        days = cells.dates(rows.column(dates.column), f"{origin}: column {dates.column!r}")
        raw = {}
        for source, sensor in self.sensors.items():
            names = [self._band_column(source, band) for band in sensor.bands]
            numbers = [cells.numbers(rows.column(name), f"{origin}: column {name!r}") for name in names]
            raw[source] = RawObservations(starts=starts, numbers=np.stack(numbers, axis=1), days=days)
        return self._with_sources(points, raw, origin)


def _together(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of several batches as one. Raises ValueError for columns of different types or reference systems."""
    stated = {json.dumps({name: of.get("crs") for name, of in stated_geometry(batch).items()}) for batch in batches}
    if len(stated) > 1:
        raise ValueError("files of one long table state different coordinate reference systems; write them again with one")
    try:
        tables = [pa.Table.from_batches([batch]) for batch in batches]
        table = pa.concat_tables(tables, promote_options="permissive")
        # Columns of texts and of bytes have offsets of 32 bits: more than 2 GB of them stay in several pieces.
        large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
        fields = [field.with_type(large.get(field.type, field.type)) for field in table.schema]
        schema = pa.schema(fields, metadata=batches[0].schema.metadata)
        whole = table.cast(schema).combine_chunks().to_batches()
    except pa.ArrowException as error:
        raise ValueError(f"files of one table have columns of different types: {error}") from error
    assert len(whole) == 1, f"{len(whole)} pieces of {len(table)} rows"
    return whole[0]


def _years(column: pa.Array, origin: str) -> np.ndarray:
    """A column of years as int32 (n,). Raises ValueError for anything else."""
    texts = cells.is_text(column.type)
    found = cells.whole_numbers(pc.cast(column, pa.float64()) if texts else column, origin)
    wrong = (found < FIRST_YEAR) | (found > LAST_YEAR)
    if wrong.any():
        raise ValueError(f"{origin}: holds {found[wrong][0]}; expected years from {FIRST_YEAR} to {LAST_YEAR}")
    return found.astype(np.int32)
