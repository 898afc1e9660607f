"""Times in files: CF units of all forms, ISO 8601 texts with and without time zones, in all containers that hold them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers.base import check_dates
from data_prep.readers.file_metadata import decode_days
from data_prep.readers.file_names import parse_date
from data_prep.readers.opening import open_reader
from tests.support.containers import write_sample, write_stacked, write_zarr
from tests.support.series import DATES, FRAMES, SENSORS, numbers, scene


@pytest.mark.parametrize(
    ("values", "units", "expected"),
    [
        ([0, 365], "days since 2020-01-01", ["2020-01-01", "2020-12-31"]),
        ([0.5, 1.6], "days since 2020-01-01 12:00", ["2020-01-02", "2020-01-03"]),
        ([36, 60], "hours since 1999-12-31 00:00:00.0", ["2000-01-01", "2000-01-02"]),
        ([1_614_556_799, 1_614_556_800], "seconds since 1970-01-01T00:00:00Z", ["2021-02-28", "2021-03-01"]),
        ([1_614_556_799_999, 1_614_556_800_000], "ms since 1970-01-01 00:00:00 UTC", ["2021-02-28", "2021-03-01"]),
        ([1_614_556_799_999_999_999, 1_614_556_800_000_000_000], "nanoseconds since 1970-01-01", ["2021-02-28", "2021-03-01"]),
        ([0, 1], "days since 2021-1-3 0:0:0", ["2021-01-03", "2021-01-04"]),
        ([0, 24], "hours since 2021-01-03 00:00:00+00:00", ["2021-01-03", "2021-01-04"]),
        ([0, 24], "h since 2021-01-03 08:30:00 +12:00", ["2021-01-02", "2021-01-03"]),
        ([0, 24], "hours since 2021-01-03 20:00 -6", ["2021-01-04", "2021-01-05"]),
        ([0, 1], "Day  since  2021-01-03T23:59:59.5-0030", ["2021-01-04", "2021-01-05"]),
        ([737_790.0, 737_791.0], "days since 1-1-1", ["2021-01-01", "2021-01-02"]),
        ([18_628.999999999996, 18_630], "days since 1970-01-01", ["2021-01-02", "2021-01-03"]),  # a midnight in float64
    ],
)
def test_cf_units(values: list[float], units: str, expected: list[str]) -> None:
    attributes = {"units": units, "calendar": "proleptic_gregorian"}
    assert decode_days(np.array(values), attributes, "t").astype(str).tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["2022-01-11", "2022-01-12"], ["2022-01-11", "2022-01-12"]),
        (["2022-1-9", "2022-01-10"], ["2022-01-09", "2022-01-10"]),
        (["20220111", "20220112T103000Z"], ["2022-01-11", "2022-01-12"]),
        (["2022-01-11T08:30:00+12:00", "2022-01-12T08:30:00+12:00"], ["2022-01-10", "2022-01-11"]),
        (["2022-01-11T20:30:00.123-06:00", "2022-01-12 20:30:00 -0600"], ["2022-01-12", "2022-01-13"]),
        (["2022-01-11T10:00:00.123456789Z", "2022-01-12T10Z"], ["2022-01-11", "2022-01-12"]),
    ],
)
def test_iso_texts_in_every_type(values: list[str], expected: list[str]) -> None:
    wide = np.array(values)
    for array in (wide, wide.astype("S"), wide.astype(object), wide.astype(np.dtypes.StringDType())):
        assert decode_days(array, {}, "t").astype(str).tolist() == expected
    moments = [pd.Timestamp(value) for value in values]
    days = [str((moment.tz_convert("UTC") if moment.tz else moment).date()) for moment in moments]
    assert days == expected


@given(st.datetimes(datetime(1973, 1, 1), datetime(2099, 12, 31)), st.integers(-14 * 60, 14 * 60))
def test_any_moment_in_any_time_zone(moment: datetime, minutes: int) -> None:
    moment = moment.replace(microsecond=0)
    sign, ahead = "-" if minutes < 0 else "+", abs(minutes)
    local = moment + timedelta(minutes=minutes)
    zone = f"{sign}{ahead // 60:02d}:{ahead % 60:02d}"
    expected = np.datetime64(moment.replace(tzinfo=UTC).date(), "D")
    assert decode_days(np.array([f"{local.isoformat()}{zone}"]), {}, "t")[0] == expected
    seconds = np.array([int((moment - datetime(2000, 1, 1)).total_seconds())])
    units = f"seconds since {(datetime(2000, 1, 1) + timedelta(minutes=minutes)).isoformat(sep=' ')} {zone}"
    assert decode_days(seconds, {"units": units}, "t")[0] == expected


def test_numbers_without_units_are_days_since_1970() -> None:
    for dtype in (np.int16, np.int64, np.float64):
        days = np.array([18_628, 18_629]).astype(dtype)
        assert decode_days(days, {}, "t").astype(str).tolist() == ["2021-01-01", "2021-01-02"]


@pytest.mark.parametrize(
    ("values", "attributes", "message"),
    [
        (np.array([20210103]), {}, "numbers like 20210103 without units"),
        (np.array([18_628.5]), {}, r"numbers like 18628\.5 without units"),
        (np.array([18_628, 25_933]), {}, "numbers like 25933 without units"),  # days since 1950
        (np.array([44_197]), {}, "numbers like 44197 without units"),  # days since 1900, as in spreadsheets
        (np.array([18_628, 2021]), {}, r"2021 without units may be a year, which is no date; write ISO texts"),
        (np.array([2021.0, np.nan]), {}, r"2021\.0 without units may be a year"),
        (np.array([np.nan]), {}, "numbers like nan without units"),
        (np.array([11, 29]), {}, "2 of 2 dates are missing, before 1972-07-23 or after 2100, first 1970-01-12 for 11"),
        (np.array([20210103]), {"units": "days since 1970-01-01"}, "first 57303-05-21 for 20210103"),
        (np.array([np.nan, 1.0]), {"units": "days since 2020-01-01"}, "1 of 2 dates are missing.* first NaT for nan"),
        (np.array(["NaT"], "datetime64[D]"), {}, "1 of 1 dates are missing"),
        (np.array([1]), {"units": "months since 2020-01-01"}, "expected CF units like"),
        (np.array([1]), {"units": "days after 2020-01-01"}, "expected CF units like"),
        (np.array([1]), {"units": "days since spring"}, "expected CF units like"),
        (np.array([1]), {"units": "days since 2020-01-01", "calendar": "360_day"}, "calendar '360_day'"),
        (
            np.array([737_790]),
            {"units": "days since 0001-01-01", "calendar": "standard"},
            "count from before 1582 in calendar standard",
        ),
        (np.array([b"yesterday"]), {}, "must be ISO 8601 like 2021-05-01, got 'yesterday'"),
        (np.array(["2021-05"]), {}, "must be ISO 8601 like 2021-05-01, got '2021-05'"),
        (np.array(["2021-02-30"]), {}, "got '2021-02-30'"),
        (np.array([True]), {}, "dates have type bool"),
    ],
)
def test_values_that_are_not_dates(values: np.ndarray, attributes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_days(values, attributes, "t")


def test_a_missing_date_of_a_series_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 of 3 dates are missing"):
        check_dates(np.array(["2021-01-01", "NaT", "2021-01-03"], "datetime64[D]"), 3)


def test_a_time_zone_in_a_file_name_counts() -> None:
    assert parse_date("20210103T233000-0200", "%Y%m%dT%H%M%S%z", "f") == np.datetime64("2021-01-04")
    assert parse_date("20210103T233000", "%Y%m%dT%H%M%S", "f") == np.datetime64("2021-01-03")


TIMES: list[tuple[np.ndarray, dict[str, Any]]] = [
    (np.array([f"{date}T10:30:00+00:00" for date in DATES]), {}),
    (np.array([str(date) for date in DATES]), {}),
    ((DATES - np.datetime64("2021-01-03")).astype(np.int64), {"units": "days since 2021-1-3 0:0:0"}),
    (DATES.astype("datetime64[h]").astype(np.int64), {"units": "hours since 1970-01-01 00:00:00+00:00"}),
]


@pytest.mark.filterwarnings("ignore")  # zarr: strings have no version 3 specification yet
@pytest.mark.parametrize(("values", "attributes"), TIMES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_times_of_zarr(tmp_path: Path, values: np.ndarray, attributes: dict[str, Any], zarr_format: int) -> None:
    sensor = SENSORS["landsat"]
    write_zarr(tmp_path / "l.zarr", sensor, *numbers(sensor), zarr_format=zarr_format, skip=("time",))
    group = zarr.open_group(str(tmp_path / "l.zarr"))
    kinds = [str, values.astype("S").dtype] if values.dtype.kind == "U" else [values.dtype]
    for kind in kinds:
        time = group.create_array("time", shape=values.shape, dtype=kind, overwrite=True)
        time[:] = values.astype(time.dtype)
        time.attrs.update(attributes)
        with open_reader(scene(tmp_path, "landsat", container="zarr_cube", path="l.zarr"), "landsat", SENSORS) as reader:
            np.testing.assert_array_equal(reader.dates, DATES)


@pytest.mark.parametrize(("values", "attributes"), TIMES)
def test_times_of_hdf5(tmp_path: Path, values: np.ndarray, attributes: dict[str, Any]) -> None:
    sensor = SENSORS["landsat"]
    stored = values.astype("S") if values.dtype.kind == "U" else values
    write_stacked(tmp_path / "l.h5", sensor, *numbers(sensor), dates=stored)
    write_sample(tmp_path / "0001.h5", numbers(sensor)[0], "landsat", dates=stored)
    for name, container in (("l.h5", "hdf5_cube"), ("0001.h5", "hdf5_sample")):
        with h5py.File(tmp_path / name, "a") as file:
            file["dates"].attrs.update(attributes)
        with open_reader(scene(tmp_path, "landsat", container=container, path=name), "landsat", SENSORS) as reader:
            np.testing.assert_array_equal(reader.dates, DATES)
            assert len(reader.dates) == FRAMES
