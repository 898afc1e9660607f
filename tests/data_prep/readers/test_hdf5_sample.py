"""The reader of published samples: one HDF5 file with a dataset (T, C, H, W) per source and `label` (H, W)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common.grid import Grid
from data_prep.readers.hdf5_sample import NOWHERE
from data_prep.readers.opening import open_reader
from tests.support.containers import write_sample
from tests.support.series import (
    BOX,
    CRS,
    DATES,
    DAYS,
    FRAMES,
    HEIGHT,
    SENSORS,
    TRANSFORM,
    WIDTH,
    assert_windows_equal,
    numbers,
    scene,
)

SENSOR = SENSORS["sentinel2"]
STATED = [str(date) for date in DATES]


def open_sample(folder: Path, **options: Any) -> Any:
    options = {"container": "hdf5_sample", "path": "0001.h5", "dataset": "S2", "offset": 0, "dates": STATED} | options
    return open_reader(scene(folder, "sentinel2", **options), "sentinel2", SENSORS)


def test_windows_equal_slicing_and_validity_comes_from_no_data(tmp_path: Path) -> None:
    pixels, _ = numbers(SENSOR)
    write_sample(tmp_path / "0001.h5", pixels)
    with open_sample(tmp_path) as reader:
        assert reader.chunk == (16, 8)
        np.testing.assert_array_equal(reader.dates, DATES)
        got = reader.read(3, 2, 10, 9, np.array([0, 2, 5]))
        np.testing.assert_array_equal(got.pixels, pixels[[0, 2, 5], :, 3:13, 2:11])
        np.testing.assert_array_equal(got.valid, (got.pixels != 0).all(axis=1))
        assert 0 < got.valid.mean() < 1
        assert (got.quality == SENSOR.quality.nodata).all(), "no quality layer: codes say that nothing is known"
        with pytest.raises(ValueError, match="leaves a grid of 24 x 20"):
            reader.read(20, 0, 5, 1, slice(None))


def test_quality_bands_and_georeference_where_the_file_has_them(tmp_path: Path) -> None:
    pixels, quality = numbers(SENSOR)
    write_sample(tmp_path / "0001.h5", pixels[:, ::-1], "sentinel2", SCL=quality, dates=DAYS)
    with h5py.File(tmp_path / "0001.h5", "a") as file:
        file["sentinel2"].attrs["bands"] = list(SENSOR.bands[::-1])
        file.attrs.update({"crs": CRS, "transform": tuple(TRANSFORM)[:6]})
    options = {"container": "hdf5_sample", "path": "0001.h5", "quality": "SCL", "offset": 0}
    with open_reader(scene(tmp_path, "sentinel2", **options), "sentinel2", SENSORS) as reader:
        assert reader.grid == Grid(crs=CRS, transform=TRANSFORM, height=HEIGHT, width=WIDTH)
        assert_windows_equal(reader, pixels, quality)
    with open_sample(tmp_path, dataset="sentinel2", offset={"2015-06-23": 0, str(DATES[4]): -1000}) as reader:
        got = reader.read(*BOX, slice(None)).pixels
    np.testing.assert_array_equal(got[:4], pixels[:4])
    np.testing.assert_array_equal(got[4:], np.where(pixels[4:] == 0, 0, np.maximum(pixels[4:].astype(int) - 1000, 1)))


def test_a_sample_without_place_says_so(tmp_path: Path) -> None:
    write_sample(tmp_path / "0001.h5", numbers(SENSOR)[0])
    with open_sample(tmp_path) as reader:
        assert reader.grid.crs == NOWHERE
        assert reader.grid.shape == (HEIGHT, WIDTH)
        assert not reader.grid.georeferenced


def test_dates_are_stated_or_read_never_guessed(tmp_path: Path) -> None:
    pixels, _ = numbers(SENSOR)
    path = tmp_path / "0001.h5"
    write_sample(path, pixels)

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            open_sample(tmp_path, **options)

    refused(r"has no dates .*, and they are never guessed: state them in scene.yaml, `dates: \[2020", dates="dates")
    refused("6 dates for 7 images", dates=STATED[:6])
    refused("date 2021-10-30 is followed by 2021-02-28; sort the images", dates=STATED[::-1])
    refused("1 of 6 days have several images, such as 2021-01-03", dates=[STATED[0], *STATED[:6]], same_day="error")
    refused("expected {start: 2020-01-05, every_days: 10}", dates={"start": "2020-01-05"})
    refused("expected {start: 2020-01-05, every_days: 10}", dates={"start": "2020-01-05", "every_days": 0})
    refused("ISO 8601", dates={"start": "spring", "every_days": 10})
    with open_sample(tmp_path, dates={"start": "2020-01-05", "every_days": 10}) as reader:
        assert reader.dates.astype(str).tolist()[:2] == ["2020-01-05", "2020-01-15"]
        assert len(reader.dates) == FRAMES
    with h5py.File(path, "a") as file:
        file["S2"].attrs["days"] = STATED
    with open_sample(tmp_path, dates="days") as reader:
        np.testing.assert_array_equal(reader.dates, DATES)
    for name in ("S2", "sentinel2"):  # a group with the dates of each source
        with h5py.File(path, "a") as file:
            file[f"dates/{name}"] = DAYS
        with open_sample(tmp_path, dates="dates") as reader:
            np.testing.assert_array_equal(reader.dates, DATES)
        with h5py.File(path, "a") as file:
            del file["dates"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    pixels, quality = numbers(SENSOR)
    path = tmp_path / "0001.h5"

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            open_sample(tmp_path, **options)
        assert "0001.h5" in str(caught.value)

    refused("no such file")
    path.write_bytes(b"")
    refused("no readable HDF5")
    write_sample(path, pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("no readable HDF5")
    path.write_bytes(whole)
    refused(r"no dataset 'S1' \(T, C, H, W\); it holds \['S2', 'label'\]", dataset="S1")
    refused(r"label: has shape \(24, 20\); expected \(T, C, H, W\)", dataset="label")
    refused("must state it", offset=None)
    refused("has 10 channels, but 2 band names", bands=["B02", "B03"])
    refused("no dataset 'SCL'", quality="SCL")
    write_sample(path, pixels[:, :9])
    refused(r"has 9 channels, but 10 band names")
    write_sample(path, pixels * np.float32(1e-4))
    refused(r"stored as float32; .* which cannot be NaN: convert with round\(reflectance / 0.0001\), NaN to 0, as uint16")
    write_sample(path, pixels, SCL=quality[:, :4])
    refused(r"SCL: has shape \(7, 4, 20\); expected \(7, 24, 20\)", quality="SCL")
    with h5py.File(path, "a") as file:
        file.attrs["transform"] = tuple(TRANSFORM)[:6]
    refused("has a transform, but no coordinate reference system")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0001.h5"
    write_sample(path, numbers(SENSOR)[0])
    with h5py.File(path) as file:
        chunk = file["S2"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with (
        open_sample(tmp_path) as reader,
        pytest.raises(ValueError, match=r"0001\.h5/S2: cannot be read, it is damaged or cut off"),
    ):
        reader.read(*BOX, slice(None))
