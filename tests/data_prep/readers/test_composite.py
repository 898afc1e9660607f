"""Composites, against an independent loop over steps and pixels."""

from __future__ import annotations

import datetime
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from common.grid import Grid
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.composite import Composite
from data_prep.readers.opening import open_reader
from tests.support.series import CRS, SENSORS, scene, write_raster

DAY = datetime.timedelta(days=1)


class Given:
    """A reader of arrays in memory that counts the images read."""

    def __init__(self, sensor: Sensor, pixels: np.ndarray, quality: np.ndarray, dates: np.ndarray) -> None:
        self.sensor, self.pixels, self.quality, self.dates = sensor, pixels, quality, dates
        self.grid = Grid(crs=CRS, transform=Affine(10, 0, 0, 0, -10, 0), height=pixels.shape[2], width=pixels.shape[3])
        self.chunk = (4, 4)
        self.asked: list[int] = []
        self.closed = False

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        box = np.s_[..., row : row + height, col : col + width]
        pixels, quality = self.pixels[times][box], self.quality[times][box]
        self.asked.append(len(pixels))
        return Series(pixels=pixels, quality=quality, valid=self.sensor.valid(pixels, quality), dates=self.dates[times])

    def __enter__(self) -> Given:
        return self

    def __exit__(self, *exception: object) -> None:
        self.closed = True


def make(source: str, seed: int = 0, dates: int = 60, cloudy: float = 0.6) -> Given:
    """Random images at random days of two years, many of them not valid."""
    rng = np.random.default_rng(seed)
    sensor = SENSORS[source]
    days = np.sort(rng.choice(720, dates, replace=False)) + np.datetime64("2020-01-09")
    pixels = rng.integers(1, 9000, (dates, len(sensor.bands), 6, 5)).astype(sensor.dtype)
    clear = {"sentinel2": (4, 5, 6), "modis": (0, 1), "landsat": (64, 192)}[source]
    quality = rng.choice(np.array(clear, np.uint8), (dates, 6, 5))
    quality[rng.random(quality.shape) < cloudy] = {"sentinel2": 9, "modis": 255, "landsat": 2}[source]
    return Given(sensor, pixels, quality, days)


def naive(given: Given, every: int, method: str) -> tuple[list[datetime.date], np.ndarray, np.ndarray, np.ndarray]:
    """The expected composites: step by step, pixel by pixel, with the dates of Python."""
    days = [date.item() for date in given.dates]
    valid = given.sensor.valid(given.pixels, given.quality)
    steps = []
    for year in range(days[0].year, days[-1].year + 1):
        start = datetime.date(year, 1, 1)
        while start.year == year:
            end = min(start + every * DAY, datetime.date(year + 1, 1, 1))
            steps.append((start, end))
            start = end
    steps = [(start, end) for start, end in steps if end > days[0] and start <= days[-1]]
    channels, height, width = given.pixels.shape[1:]
    pixels = np.full((len(steps), channels, height, width), given.sensor.nodata, given.pixels.dtype)
    codes = np.full((len(steps), height, width), given.sensor.quality.nodata, given.quality.dtype)
    some = np.zeros((len(steps), height, width), bool)
    middles = []
    for number, (start, end) in enumerate(steps):
        middle = start + ((end - start) // 2 if (end - start).days % 2 == 0 else (end - start - DAY) // 2)
        middles.append(middle)
        for row in range(height):
            for col in range(width):
                seen = [t for t, day in enumerate(days) if start <= day < end and valid[t, row, col]]
                if not seen:
                    continue
                preferred = given.sensor.quality.preferred

                def worse(t: int, row: int = row, col: int = col, middle: datetime.date = middle) -> tuple[bool, int, int]:
                    return given.quality[t, row, col] not in preferred, abs((days[t] - middle).days), t  # noqa: B023

                best = min(seen, key=worse)
                some[number, row, col] = True
                codes[number, row, col] = given.quality[best, row, col]
                for channel in range(channels):
                    if method == "best":
                        pixels[number, channel, row, col] = given.pixels[best, channel, row, col]
                    else:
                        pixels[number, channel, row, col] = round(float(np.median(given.pixels[seen, channel, row, col])))
    return middles, pixels, codes, some


@pytest.mark.parametrize("source", ["sentinel2", "landsat", "modis"])
@pytest.mark.parametrize("method", ["median", "best"])
@pytest.mark.parametrize("every", [1, 16, 25, 366])
def test_composites_equal_a_loop_over_pixels(source: str, method: str, every: int) -> None:
    given = make(source, seed=every)
    composite = Composite(given, {"every_days": every, "method": method}, "s")
    middles, pixels, quality, valid = naive(given, every, method)
    assert composite.dates.tolist() == middles
    got = composite.read(0, 0, 6, 5, slice(None))
    np.testing.assert_array_equal(got.pixels, pixels)
    np.testing.assert_array_equal(got.quality, quality)
    np.testing.assert_array_equal(got.valid, valid)
    assert got.pixels.dtype == np.dtype(given.sensor.dtype)
    np.testing.assert_array_equal(got.valid, given.sensor.valid(got.pixels, got.quality))
    assert valid.any()
    if every < 366:
        assert not valid.all()

    chosen = np.sort(np.random.default_rng(0).choice(len(middles), min(5, len(middles)), replace=False))
    part = composite.read(2, 1, 3, 4, chosen)
    np.testing.assert_array_equal(part.pixels, pixels[chosen][:, :, 2:5, 1:5])
    np.testing.assert_array_equal(part.dates, composite.dates[chosen])


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = make("modis", cloudy=0.3)
    whole = Composite(given, {"every_days": 30}, "s").read(0, 0, 6, 5, slice(None))
    monkeypatch.setattr("data_prep.readers.composite.STRIP_BYTES", 1)
    strips = Composite(given, {"every_days": 30}, "s").read(0, 0, 6, 5, slice(None))
    for name in ("pixels", "quality", "valid"):
        np.testing.assert_array_equal(getattr(strips, name), getattr(whole, name))


def test_medians_near_the_ends_of_the_type() -> None:
    """The mean of the middle two must not overflow, and ties go to the even number."""
    sensor = SENSORS["sentinel2"]
    values = np.array([65_535, 65_534, 65_533, 65_530], np.uint16)
    pixels = np.broadcast_to(values[:, None, None, None], (4, 10, 1, 1)).copy()
    dates = np.datetime64("2021-01-01") + np.arange(4)
    given = Given(sensor, pixels, np.full((4, 1, 1), 4, np.uint8), dates)
    got = Composite(given, {"every_days": 16}, "s").read(0, 0, 1, 1, slice(None))
    assert got.pixels.ravel().tolist() == [65_534] * 10  # (65534 + 65533) / 2 = 65533.5 -> 65534, the even one


def test_memory_holds_one_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = SENSORS["landsat"]
    dates = np.datetime64("2021-01-01") + np.arange(365)

    class Endless(Given):
        def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
            self.grid.window(row, col, height, width)
            chosen = self.dates[times]
            pixels = np.full((len(chosen), 6, height, width), 500, np.int16)
            quality = np.zeros((len(chosen), height, width), np.uint8)
            self.asked.append(len(chosen))
            return Series(pixels=pixels, quality=quality, valid=np.ones(quality.shape, bool), dates=chosen)

    given = Endless(sensor, np.zeros((1, 6, 300, 300), np.int16), np.zeros((1, 300, 300), np.uint8), dates)
    monkeypatch.setattr("data_prep.readers.composite.STRIP_BYTES", 4_000_000)
    composite = Composite(given, {"every_days": 16}, "s")
    tracemalloc.start()
    got = composite.read(0, 0, 300, 300, slice(None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(given.asked) == 16
    everything = 365 * 300 * 300 * 14
    step = 16 * 300 * 300 * 14
    assert peak < got.pixels.nbytes + got.quality.nbytes * 2 + 2 * step + 4 * 4_000_000 < everything / 4
    assert (got.pixels == 500).all()


def test_compose_is_a_setting_of_every_source(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    dates = np.datetime64("2021-01-03") + np.array([0, 3, 5, 40])
    pixels = np.random.default_rng(0).integers(1, 9000, (4, 6, 8, 8)).astype(np.int16)
    for time, date in enumerate(dates):
        for channel, band in enumerate((*sensor.bands, "Fmask")):
            values = pixels[time, channel] if band != "Fmask" else np.zeros((8, 8), np.uint8)
            write_raster(tmp_path / "l" / f"HLS.L30.T31TFJ.{date.item():%Y%j}T103000.v2.0.{band}.tif", values)

    def open_composite(compose: Any) -> Any:
        here = scene(tmp_path, "landsat", container="geotiff_scenes", path="l", compose=compose)
        return open_reader(here, "landsat", SENSORS)

    with open_composite({"every_days": 16}) as reader:
        assert reader.dates.astype(str).tolist() == ["2021-01-09", "2021-01-25", "2021-02-10"]
        assert reader.chunk == (8, 8)
        got = reader.read(0, 0, 8, 8, slice(None))
    np.testing.assert_array_equal(got.pixels[0], np.median(pixels[:3], axis=0))
    assert not got.valid[1].any()
    assert (got.pixels[1] == sensor.nodata).all()
    assert (got.quality[1] == sensor.quality.nodata).all()
    np.testing.assert_array_equal(got.pixels[2], pixels[3])
    with open_composite({"every_days": 16, "method": "best"}) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 8, 8, slice(0, 1)).pixels[0], pixels[2])
        empty = reader.read(0, 0, 8, 8, slice(1, 2))
        assert not empty.valid.any()

    for compose, message in (
        ("median", r"source landsat: compose is 'median'; expected \{every_days: N, method: median or best\}"),
        ({"method": "best"}, "compose is"),
        ({"every_days": 16, "how": "best"}, "compose is"),
        ({"every_days": 0}, "every_days 0; expected a whole number of days from 1 to 366"),
        ({"every_days": 16.0}, "every_days 16.0; expected a whole number"),
        ({"every_days": 16, "method": "mean"}, "method 'mean'; expected one of median, best"),
    ):
        with pytest.raises(ValueError, match=message):
            open_composite(compose)


def test_the_wrapped_reader_is_closed() -> None:
    given = make("modis")
    with Composite(given, {"every_days": 8}, "s"):
        assert not given.closed
    assert given.closed
