"""The series of a pixel, against the arrays of the scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.readers.opening import open_reader
from finetune.web_map.pixel_series import band_named, pixel_series
from tests.support.rice_scenes import MODIS_PX, write_rice_scene


@pytest.mark.parametrize(("source", "red", "near_infrared", "factor"), [("landsat", 2, 3, 1), ("modis", 0, 1, MODIS_PX)])
def test_numbers_are_those_of_the_scene(tmp_path: Path, source: str, red: int, near_infrared: int, factor: int) -> None:
    cubes, _ = write_rice_scene(tmp_path / "a", "test", side=32, frames=8, cloudy=0.4)
    cube = cubes[source]
    times = np.array([1, 2, 5])
    with open_reader(load_scene(tmp_path / "a"), source, load_sensors()) as reader:
        for row, col in ((0, 0), (31, 20), (17, 3)):
            source_row, source_col = row // factor, col // factor
            (lon,), (lat,) = reader.grid.lon_lat(np.array([(row + 0.5) / factor]), np.array([(col + 0.5) / factor]))
            found = pixel_series(reader, times, lon, lat)
            assert found is not None
            assert (found["row"], found["col"]) == (source_row, source_col)
            assert found["dates"] == [str(date) for date in cube.dates[times]]
            stored = cube.pixels[times, :, source_row, source_col]
            np.testing.assert_allclose(found["reflectance"], stored / 10_000)
            one, other = (stored[:, band].astype(float) for band in (near_infrared, red))
            np.testing.assert_allclose(found["ndvi"], (one - other) / (one + other), atol=1e-5)
            clear = {"landsat": 64, "modis": 0}[source]
            assert found["clear"] == (cube.quality[times, source_row, source_col] == clear).tolist()
        (lon,), (lat,) = reader.grid.lon_lat(np.array([-0.5]), np.array([3.0]))
        assert pixel_series(reader, times, lon, lat) is None


def test_what_was_not_observed_has_no_numbers(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "test", side=32, frames=3)
    with open_reader(load_scene(tmp_path / "a"), "landsat", load_sensors()) as reader:
        (lon,), (lat,) = reader.grid.lon_lat(np.array([4.5]), np.array([6.5]))
        read = reader.read

        def without_one(*window: int, **named: object) -> object:
            series = read(*window, **named)  # type: ignore[arg-type]
            series.pixels[1, 4] = reader.sensor.nodata
            return series

        reader.read = without_one  # type: ignore[method-assign, assignment]
        found = pixel_series(reader, np.arange(3), lon, lat)
    assert found is not None
    assert found["observed"] == [True, False, True]
    assert found["reflectance"][1] is None
    assert found["ndvi"][1] is None


def test_a_sensor_without_known_bands_has_no_ndvi() -> None:
    sensors = load_sensors()
    assert band_named(sensors["sentinel2"], ("nir", "nir08")) == sensors["sentinel2"].bands.index("B08")
    assert band_named(sensors["landsat"], ("nir", "nir08")) == sensors["landsat"].bands.index("B05")
    assert band_named(replace(sensors["landsat"], common_names={}), ("red",)) is None
