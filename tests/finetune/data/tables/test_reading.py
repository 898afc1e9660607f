"""Tables in three layouts and two formats give the same arrays, and what is wrong with them is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import yaml

from common.storage import AnyPath, any_path
from data_prep.archive.sensor import load_sensors
from finetune.data.tables import files
from finetune.data.tables.description import load_table
from finetune.data.tables.files import TableFiles
from finetune.data.tables.point_series import NO_YEAR, PointSeries, joined_series
from finetune.data.tables.reading import TableReader
from tests.support.point_tables import (
    BANDS,
    EVERY_DAYS,
    FIRST,
    MISSING,
    TABLES,
    TIMES,
    Points,
    description,
    long_table,
    nested_table,
    simulate_points,
    wide_name,
    wide_table,
    write_points,
    write_table,
)

SENSORS = load_sensors()
POINTS = simulate_points(40)


def read(
    path: AnyPath, *, in_order: bool = False, labelled: bool = True, sources: tuple[str, ...] = ("sentinel2",)
) -> PointSeries:
    sensors = load_sensors(path.parent / "sources")
    table = load_table(path)
    reader = TableReader(
        table=table, files=TableFiles(table), sensors={source: sensors[source] for source in sources}, labelled=labelled
    )
    return joined_series(list(reader.read(in_order=in_order)))


def assert_holds(found: PointSeries, points: Points, source: str = "sentinel2") -> None:
    """The series are those that were simulated, with the sensor's no-data number where a band is missing."""
    series = found.sources[source]
    assert list(found.ids) == points.ids
    assert list(found.labels) == points.labels
    np.testing.assert_array_equal(found.lon, points.lon)
    np.testing.assert_array_equal(found.lat, points.lat)
    for number in range(len(points.ids)):
        mine = series.of_point(number)
        np.testing.assert_array_equal(series.days[mine], points.days)
        np.testing.assert_array_equal(series.pixels[mine], np.where(points.pixels[number] == MISSING, 0, points.pixels[number]))
    assert series.pixels.dtype == np.uint16


@pytest.mark.parametrize("layout", ["wide", "long", "nested"])
@pytest.mark.parametrize("rows", [7, 8192])
def test_layouts_give_equal_arrays(tmp_path: Path, layout: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", rows)
    path = write_points(tmp_path, POINTS, layout)
    assert_holds(read(path), POINTS)
    assert_holds(read(path, in_order=True), POINTS)


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_csv_gives_the_same_arrays_also_with_an_index(tmp_path: Path, layout: str) -> None:
    table = TABLES[layout](POINTS)
    assert_holds(read(write_table(tmp_path, table, description(layout, files="points.csv"))), POINTS)
    table.to_pandas().to_csv(tmp_path / "points.csv")  # its first column has no name
    assert (tmp_path / "points.csv").read_text().startswith(",sample_id,")
    assert_holds(read(tmp_path / "table.yaml"), POINTS)


def test_several_files_are_one_table(tmp_path: Path) -> None:
    table = wide_table(POINTS)
    values = description("wide", files="part-*.parquet")
    for number, start in enumerate(range(0, 40, 15)):
        write_table(tmp_path, table.slice(start, 15), values | {"files": f"part-{number}.parquet"})
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(values))
    assert_holds(read(tmp_path / "table.yaml"), POINTS)
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(values | {"files": "."}))
    assert_holds(read(tmp_path / "table.yaml"), POINTS)
    (tmp_path / "part-1.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ValueError, match=r"part-1.parquet: cannot be read"):
        read(tmp_path / "table.yaml")
    pq.write_table(table.drop_columns(["lat"]), tmp_path / "part-1.parquet")
    with pytest.raises(ValueError, match=r"part-1.parquet: has no column 'lat' \(latitude\)"):
        read(tmp_path / "table.yaml")


def test_rows_of_a_long_table_may_have_any_order_unless_it_is_read_in_one_pass(tmp_path: Path) -> None:
    table = long_table(POINTS)
    mixed = table.take(np.random.default_rng(0).permutation(len(table)))
    path = write_table(tmp_path, mixed, description("long"))
    found = read(path)
    order = np.argsort(found.ids)
    assert sorted(found.ids) == POINTS.ids
    for number, at in enumerate(order):
        mine = found.sources["sentinel2"].of_point(int(at))
        np.testing.assert_array_equal(found.sources["sentinel2"].days[mine], POINTS.days)
        expected = np.where(POINTS.pixels[number] == MISSING, 0, POINTS.pixels[number])
        np.testing.assert_array_equal(found.sources["sentinel2"].pixels[mine], expected)
    with pytest.raises(ValueError, match=r"rows of one point do not follow each other; .* sort it by 'sample_id'"):
        read(path, in_order=True)


def test_a_point_that_comes_again_much_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 24)
    table = long_table(POINTS)
    path = write_table(tmp_path, pa.concat_tables([table.slice(3), table.slice(0, 3)]), description("long"))
    with pytest.raises(ValueError, match="rows of one point do not follow each other"):
        read(path, in_order=True)


def with_pattern(pattern: str, **changes: Any) -> dict[str, Any]:
    return description("wide", sources={"sentinel2": {"pattern": pattern, "missing": MISSING, "offset": 0}}, **changes)


def test_other_names_of_columns(tmp_path: Path) -> None:
    table = wide_table(POINTS)
    presto = {wide_name(band, step): f"OPTICAL-{band}-ts{step}-10m" for band in BANDS for step in range(TIMES)}
    dated = {wide_name(band, step): f"{POINTS.days[step]}_{band.lower()}" for band in BANDS for step in range(TIMES)}
    doy = {wide_name(band, step): f"{band}_X{15 + EVERY_DAYS * step:03}" for band in BANDS for step in range(TIMES)}

    def renamed(names: dict[str, str]) -> pa.Table:
        return table.rename_columns([names.get(name, name) for name in table.column_names])

    assert_holds(read(write_table(tmp_path / "presto", renamed(presto), description("wide"))), POINTS)
    values = with_pattern(r"(?P<date>[\d-]+)_(?P<band>\w+)", dates=None)
    values["sources"]["sentinel2"]["bands"] = {band: band.lower() for band in BANDS}
    assert_holds(read(write_table(tmp_path / "dated", renamed(dated), values)), POINTS)
    values = with_pattern(r"(?P<band>\w+)_X(?P<doy>\d+)", dates=None)
    values["columns"]["year"] = "year"
    with_year = renamed(doy).append_column("year", pa.array([2021] * len(table)))
    assert_holds(read(write_table(tmp_path / "doy", with_year, values)), POINTS)
    del values["columns"]["year"]
    with pytest.raises(ValueError, match="have days of the year; name the column of the `year`"):
        read(write_table(tmp_path / "doy", with_year, values))


def test_first_dates_of_points_and_steps_of_months(tmp_path: Path) -> None:
    firsts = (np.datetime64("2020-11-05") + np.arange(len(POINTS.ids)) % 20).astype("datetime64[D]")
    table = wide_table(POINTS).append_column("start", pa.array(firsts.astype(str).tolist()))
    path = write_table(tmp_path, table, description("wide", dates={"first_column": "start", "every_months": 1}))
    series = read(path).sources["sentinel2"]
    for number, first in enumerate(firsts):
        year, month, day = (int(part) for part in str(first).split("-"))
        expected = [f"{year + (month - 1 + k) // 12}-{(month - 1 + k) % 12 + 1:02}-{day:02}" for k in range(TIMES)]
        assert series.days[series.of_point(number)].astype(str).tolist() == expected
    nested = nested_table(POINTS).append_column("start", pa.array(firsts))
    path = write_table(tmp_path, nested, description("nested", dates={"first_column": "start", "every_days": EVERY_DAYS}))
    series = read(path).sources["sentinel2"]
    for number, first in enumerate(firsts):
        np.testing.assert_array_equal(series.days[series.of_point(number)], first + EVERY_DAYS * np.arange(TIMES))
    path = write_table(tmp_path, table, description("wide", dates={"first": "2021-01-31", "every_months": 1}))
    with pytest.raises(ValueError, match="a series of months begins on 2021-01-31; not every month has this day"):
        read(path)


def test_an_id_of_two_years_is_two_points(tmp_path: Path) -> None:
    once = [POINTS.ids[0]] * 2 + POINTS.ids[2:]
    ids = wide_table(POINTS).column_names.index("sample_id")
    table = wide_table(POINTS).set_column(ids, "sample_id", pa.array(once))
    path = write_table(tmp_path, table, description("wide"))
    with pytest.raises(ValueError, match="point p0000 has several rows; expected one for each id"):
        read(path)
    years = pa.array([2020, 2021] * (len(once) // 2))
    values = description("wide")
    values["columns"]["year"] = "year"
    found = read(write_table(tmp_path, table.append_column("year", years), values))
    assert (found.name(0), found.name(1), found.name(2)) == ("p0000-2020", "p0000-2021", "p0002-2020")
    assert found.years.tolist() == years.to_pylist()

    long = long_table(POINTS)
    long = long.set_column(0, "sample_id", pa.array(np.repeat(once, TIMES).tolist()))
    long = long.append_column("year", pa.array(np.repeat(years.to_pylist(), TIMES)))
    values = description("long")
    values["columns"]["year"] = "year"
    path = write_table(tmp_path, long, values)
    for in_order in (False, True):
        other = read(path, in_order=in_order)
        assert other.years.tolist() == found.years.tolist()
        np.testing.assert_array_equal(other.sources["sentinel2"].pixels, found.sources["sentinel2"].pixels)


def test_without_a_column_of_ids_rows_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 7)
    values = description("wide", columns={"lon": "lon", "lat": "lat", "label": "crop"})
    found = read(write_table(tmp_path, wide_table(POINTS), values))
    assert list(found.ids) == [str(number) for number in range(40)]
    assert set(found.years.tolist()) == {NO_YEAR}


# --- Missing numbers, offsets and days


def test_65535_is_asked_about_and_the_number_of_the_sensor_is_missing(tmp_path: Path) -> None:
    path = write_points(tmp_path, POINTS, sources={"sentinel2": {"offset": 0}})
    with pytest.raises(ValueError, match=r"sentinel2 has \d+ numbers 65535, .*: state `missing: 65535`, or .* `missing: 0`"):
        read(path)
    path = write_points(tmp_path, POINTS, sources={"sentinel2": {"offset": 0, "missing": 0}})
    pixels = read(path).sources["sentinel2"].pixels
    np.testing.assert_array_equal(pixels.reshape(POINTS.pixels.shape), POINTS.pixels)


def test_offsets_are_stated_and_added_but_not_to_missing_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="archives of sentinel2 differ in an additive offset, and the table cannot tell"):
        read(write_points(tmp_path, POINTS, sources={"sentinel2": {"missing": MISSING}}))
    new = np.datetime64("2021-06-04")
    options = {"missing": MISSING, "offset": {"2015-06-23": 0, str(new): -1000}}
    series = read(write_points(tmp_path, POINTS, sources={"sentinel2": options})).sources["sentinel2"]
    lowered = np.maximum(POINTS.pixels - 1000 * (POINTS.days >= new)[:, None], 1)  # 1 is the lowest valid number
    np.testing.assert_array_equal(series.pixels.reshape(POINTS.pixels.shape), np.where(POINTS.pixels == MISSING, 0, lowered))


def test_reflectance_is_refused(tmp_path: Path) -> None:
    table = nested_table(POINTS)
    for at, band in enumerate(BANDS):
        column = table.column_names.index(band)
        small = np.where(POINTS.pixels == MISSING, np.nan, POINTS.pixels / 10_000)[:, ::-1, at]
        table = table.set_column(column, band, pa.array(list(small)))
    with pytest.raises(ValueError, match=r"its largest number is .*, as of reflectance; expected numbers as the product stores"):
        read(write_table(tmp_path, table, description("nested")))


def test_several_observations_of_a_day(tmp_path: Path) -> None:
    """A second row of one day: refused, or the first complete one counts; an empty row is no observation."""
    table = long_table(POINTS)
    values = {name: table[name].to_pylist() for name in table.column_names}
    row = next(r for r in range(len(table)) if all(values[band][r] is not None for band in BANDS))
    whole = {name: [column[row]] for name, column in values.items()}
    other = whole | {band: [7000.0] for band in BANDS}
    partial = other | {"B03": [None]}
    empty = whole | {band: [None] for band in BANDS}

    def with_row(added: dict[str, Any], before: bool) -> pa.Table:
        more = pa.table(added).cast(table.schema)
        at = row if before else row + 1
        return pa.concat_tables([table.slice(0, at), more, table.slice(at)])

    for added in (other, partial):
        with pytest.raises(ValueError, match=rf"point {whole['sample_id'][0]} has several observations of sentinel2 on 2021-"):
            read(write_table(tmp_path, with_row(added, before=False), description("long")))
    for before in (True, False):
        assert_holds(read(write_table(tmp_path, with_row(empty, before), description("long"))), POINTS)
        mosaic = description("long", same_day="mosaic")
        assert_holds(read(write_table(tmp_path, with_row(partial, before), mosaic)), POINTS)
    assert_holds(read(write_table(tmp_path, with_row(other, before=False), mosaic)), POINTS)
    found = read(write_table(tmp_path, with_row(other, before=True), mosaic)).sources["sentinel2"].pixels
    assert ((found == 7000).all(axis=1)).sum() == 1


def test_a_sensor_of_ones_own(tmp_path: Path) -> None:
    sensor = {
        "name": "ndvi", "title": "NDVI", "bands": ["ndvi"], "gsd_m": 30.0, "revisit_days": 16, "dtype": "int16", "scale": 0.0001,
        "nodata": -3000, "valid_range": [-2000, 10000], "chip_px": 8, "rgb": ["ndvi", "ndvi", "ndvi"],
        "quality": {"name": "none", "kind": "classes", "valid": [1], "nodata": 255},
    }  # fmt: skip
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "ndvi.yaml").write_text(yaml.safe_dump(sensor))
    numbers = np.random.default_rng(0).integers(-1000, 9000, (5, 3))
    numbers[2, 1] = -3000
    columns: dict[str, Any] = {"id": [1, 2, 3, 4, 5], "year": [2020, 2020, 2021, 2021, 2020]}
    columns |= {f"ndvi_X{day}": numbers[:, at] for at, day in enumerate((1, 17, 353))}
    values = {
        "files": "points.parquet",
        "layout": "wide",
        "columns": {"id": "id", "year": "year"},
        "sources": {"ndvi": {"pattern": r"ndvi_X(?P<doy>\d+)"}},
    }
    found = read(write_table(tmp_path, pa.table(columns), values), sources=("ndvi",))
    np.testing.assert_array_equal(found.sources["ndvi"].pixels.reshape(5, 3), numbers)
    days = found.sources["ndvi"].days.reshape(5, 3).astype(str).tolist()
    assert days[0] == ["2020-01-01", "2020-01-17", "2020-12-18"]  # a leap year
    assert days[2] == ["2021-01-01", "2021-01-17", "2021-12-19"]


# --- Places


def test_geometry_stands_for_longitude_and_latitude(tmp_path: Path) -> None:
    values = description("wide")
    values["columns"] = {"id": "sample_id", "geometry": "geometry", "label": "crop"}
    frame = geopandas.GeoDataFrame(
        wide_table(POINTS).drop_columns(["lon", "lat"]).to_pandas(),
        geometry=geopandas.points_from_xy(POINTS.lon, POINTS.lat),
        crs=4326,
    )
    frame.to_parquet(write_table(tmp_path, wide_table(POINTS), values).parent / "points.parquet")
    assert_holds(read(tmp_path / "table.yaml"), POINTS)
    frame.to_crs(32633).to_parquet(tmp_path / "points.parquet")
    found = read(tmp_path / "table.yaml")
    np.testing.assert_allclose(found.lon, POINTS.lon, atol=1e-8)
    np.testing.assert_allclose(found.lat, POINTS.lat, atol=1e-8)
    values["columns"]["crs"] = 32632
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"geometry is in EPSG:32633 by the file, and in 32632 by table.yaml"):
        read(tmp_path / "table.yaml")
    frame.assign(geometry=frame.buffer(0.1)).to_parquet(tmp_path / "points.parquet")
    del values["columns"]["crs"]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="holds Polygon in row 0; expected points"):
        read(tmp_path / "table.yaml")


def test_files_of_several_reference_systems_and_columns(tmp_path: Path) -> None:
    """Each file says where its points are; one that has more time steps than the first is refused."""
    values = description("wide", files="part-*.parquet")
    values["columns"] = {"id": "sample_id", "geometry": "geometry", "label": "crop"}
    write_table(tmp_path, wide_table(POINTS), values | {"files": "part-0.parquet"})
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(values))
    frame = geopandas.GeoDataFrame(
        wide_table(POINTS).drop_columns(["lon", "lat"]).to_pandas(),
        geometry=geopandas.points_from_xy(POINTS.lon, POINTS.lat),
        crs=4326,
    )
    frame.iloc[:20].to_crs(32632).to_parquet(tmp_path / "part-0.parquet")
    frame.iloc[20:].to_crs(32633).to_parquet(tmp_path / "part-1.parquet")
    found = read(tmp_path / "table.yaml")
    np.testing.assert_allclose(found.lon, POINTS.lon, atol=1e-8)
    np.testing.assert_allclose(found.lat, POINTS.lat, atol=1e-8)
    more = {wide_name(band, TIMES): 500 for band in BANDS}
    frame.iloc[20:].assign(**more).to_parquet(tmp_path / "part-1.parquet")
    with pytest.raises(ValueError, match=r"part-1.parquet: has 10 columns that .*part-0.parquet lacks, such as 'S2-L2A-B02_ts12"):
        read(tmp_path / "table.yaml")


def test_geometry_as_text_needs_its_reference_system(tmp_path: Path) -> None:
    text = [shapely.Point(x, y).wkt for x, y in zip(POINTS.lon, POINTS.lat, strict=True)]
    table = wide_table(POINTS).append_column("where", pa.array(text))
    values = description("wide", files="points.csv")
    values["columns"] = {"id": "sample_id", "geometry": "where", "label": "crop"}
    with pytest.raises(ValueError, match="does not state the coordinate reference system of where; state `crs`"):
        read(write_table(tmp_path, table, values))
    values["columns"]["crs"] = "EPSG:4326"
    assert_holds(read(write_table(tmp_path, table, values)), POINTS)


# --- What is wrong


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: replaced(t, "lat", POINTS.lon * 10), "40 points have no place, first in row 0 .* are the columns exchanged"),
        (lambda t: replaced(t, "lon", [None, *POINTS.lon[1:]]), "1 points have no place, first in row 0 with longitude nan"),
        (lambda t: replaced(t, "sample_id", [None, *POINTS.ids[1:]]), "column 'sample_id' has 1 rows without an id"),
        (lambda t: replaced(t, wide_name("B02", 3), ["x"] * 40), "column 'S2-L2A-B02_ts3_10m': holds string; expected numbers"),
        (lambda t: replaced(t, "crop", [1.5] * 40), "column 'crop': holds 1.5; expected texts or whole numbers"),
        (lambda t: t.rename_columns(["sample", *t.column_names[1:]]), r"no column 'sample_id' \(id\); did you mean 'sample'\?"),
        (lambda t: t.drop_columns([wide_name("B08", 4)]), "1 columns are missing, first that of band B08 at step 4"),
        (
            lambda t: t.drop_columns([wide_name(band, 4) for band in BANDS]),
            r"the time steps of sentinel2 are \[0, 1, 2, 3, 5, .*",
        ),
        (
            lambda t: t.append_column("OPTICAL-B02-ts3-10m", pa.array([1] * 40)),
            "columns 'S2-L2A-B02_ts3_10m' and 'OPTICAL-B02-ts3-10m' are both of band B02 at step 3",
        ),
        (
            lambda t: t.rename_columns([name.replace("S2-L2A", "L8") for name in t.column_names]),
            "no column has a name like .* the first columns are 'sample_id', 'lon', .* state the `pattern`",
        ),
        (
            lambda t: t.rename_columns([name.replace("B8A_ts3_20m", "B8a_ts3_20m") for name in t.column_names]),
            "first that of band B8A at step 3; .*; is it 'S2-L2A-B8a_ts3_20m'",
        ),
    ],
)
def test_wide_tables_that_are_wrong(tmp_path: Path, spoil: Any, message: str) -> None:
    path = write_table(tmp_path, spoil(wide_table(POINTS)), description("wide"))
    with pytest.raises(ValueError, match=message):
        read(path)


def test_bands_that_the_sensor_lacks_are_said_and_not_read(tmp_path: Path) -> None:
    extra = {wide_name("B09", step): POINTS.pixels[:, step, 0] for step in range(TIMES)}
    table = pa.table({name: wide_table(POINTS)[name] for name in wide_table(POINTS).column_names} | extra)
    with pytest.warns(UserWarning, match="bands B09 are not among those of the sensor and are not read"):
        assert_holds(read(write_table(tmp_path, table, description("wide"))), POINTS)


def test_long_and_nested_tables_that_are_wrong(tmp_path: Path) -> None:
    long = long_table(POINTS)
    labels = long["crop"].to_pylist()
    with pytest.raises(ValueError, match="rows of point p0000 have different labels"):
        read(write_table(tmp_path, replaced(long, "crop", ["soy", *labels[1:]]), description("long")))
    with pytest.raises(ValueError, match="rows of point p0000 have different places"):
        read(write_table(tmp_path, replaced(long, "lon", [0.0, *long["lon"].to_pylist()[1:]]), description("long")))
    with pytest.raises(ValueError, match="1 rows have no date"):
        read(write_table(tmp_path, replaced(long, "timestamp", [None, *long["timestamp"].to_pylist()[1:]]), description("long")))
    with pytest.raises(ValueError, match="dates as text must be ISO 8601 like 2021-05-01, got '05/01/2021'"):
        read(write_table(tmp_path, replaced(long, "timestamp", ["05/01/2021"] * len(long)), description("long")))
    nested = nested_table(POINTS)
    lists = nested["B03"].to_pylist()
    with pytest.raises(ValueError, match=r"column 'B03' has 11 values in row 0, and 'B02' has 12"):
        read(write_table(tmp_path, replaced(nested, "B03", [lists[0][1:], *lists[1:]]), description("nested")))
    with pytest.raises(ValueError, match="column 'B03' holds double; expected a list in each row"):
        read(write_table(tmp_path, replaced(nested, "B03", [1.0] * 40), description("nested")))


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    path = write_points(tmp_path, POINTS)
    values = description("wide", files="other.parquet")
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"files 'other.parquet': there is no such file"):
        read(path)
    (tmp_path / "points.txt").write_text("x")
    path.write_text(yaml.safe_dump(description("wide", files="points.txt")))
    with pytest.raises(ValueError, match=r"files end in .txt; expected .parquet, or .csv"):
        read(path)
    (tmp_path / "points.csv").write_text("")
    path.write_text(yaml.safe_dump(description("wide", files="points.csv")))
    with pytest.raises(ValueError, match=r"points.csv: cannot be read"):
        read(path)
    path = write_points(tmp_path, POINTS)
    whole = (tmp_path / "points.parquet").read_bytes()
    (tmp_path / "points.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"points.parquet: cannot be read"):
        read(path)


def test_what_geoparquet_states_of_wgs_84(tmp_path: Path) -> None:
    """Without `crs` it is WGS 84 by the specification; null means that it is not known."""
    values = description("wide")
    values["columns"] = {"id": "sample_id", "geometry": "geometry", "label": "crop"}
    table = wide_table(POINTS).append_column(
        "geometry", pa.array(shapely.to_wkb(shapely.points(POINTS.lon, POINTS.lat)).tolist())
    )
    about: dict[str, Any] = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    path = write_table(tmp_path, table.replace_schema_metadata({b"geo": json.dumps(about)}), values)
    assert_holds(read(path), POINTS)
    about["columns"]["geometry"]["crs"] = None
    path = write_table(tmp_path, table.replace_schema_metadata({b"geo": json.dumps(about)}), values)
    with pytest.raises(ValueError, match="does not state the coordinate reference system of geometry"):
        read(path)


def test_dates_of_steps_by_hand(tmp_path: Path) -> None:
    series = read(write_points(tmp_path, POINTS)).sources["sentinel2"]
    expected = [FIRST + np.timedelta64(30 * step, "D") for step in range(TIMES)]
    assert series.days[:TIMES].tolist() == [day.item() for day in expected]


@pytest.mark.parametrize(("layout", "name"), [("wide", "points.csv"), ("nested", "part-1.parquet")])
def test_a_table_at_a_url(tmp_path: Path, layout: str, name: str) -> None:
    values = description(layout, files=name.replace("1", "*"))
    local = write_table(tmp_path, TABLES[layout](POINTS), values | {"files": name}).parent
    (local / "table.yaml").write_text(yaml.safe_dump(values))
    storage = fsspec.filesystem("memory")
    for file in local.iterdir():
        storage.put_file(str(file), f"/bucket/{layout}/{file.name}")
    assert_holds(read(any_path(f"memory://bucket/{layout}/table.yaml")), POINTS)
