"""Composites of any reader's series: one image per step of regular length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from data_prep.readers.base import Series, SeriesReader

METHODS = ("median", "best")
OPTIONS = {"every_days", "method"}
STRIP_BYTES = 64_000_000  # approximate size of the intermediate arrays of one strip of rows


class Composite:
    """Composites of a series: one image for each `every_days` days. The option `compose` of any source in scene.yaml.

    Example: `compose: {every_days: 16, method: median}`.

    The steps start on 1 January of each year, so that they are the same in all years; the last step of a year is shorter. The
    series runs from the step of the first date to the step of the last date, and each composite has the date of the middle of
    its step.

    Options:
        every_days: length of a step in days, 1 to 366.
        method: `median` (default) takes the median of the valid observations of a step, band by band; of an even number it is
            the mean of the middle two, rounded half to even. `best` takes one observation for all bands of a pixel: of the
            valid ones that with the best quality code (`preferred` in the sensor's YAML), then the nearest to the middle of the
            step, then the earliest.

    The quality code is that of the best observation. A pixel without a valid observation in a step is no data, has the
    quality code "not observed", and is not valid. Only the images of one step are in memory at a time.
    """

    def __init__(self, reader: SeriesReader, compose: Any, origin: str) -> None:
        if not isinstance(compose, Mapping) or "every_days" not in compose or not set(compose) <= OPTIONS:
            raise ValueError(f"{origin}: compose is {compose!r}; expected {{every_days: N, method: {' or '.join(METHODS)}}}")
        every_days, method = compose["every_days"], compose.get("method", METHODS[0])
        if isinstance(every_days, bool) or not isinstance(every_days, int) or not 1 <= every_days <= 366:
            raise ValueError(f"{origin}: compose has every_days {every_days!r}; expected a whole number of days from 1 to 366")
        if method not in METHODS:
            raise ValueError(f"{origin}: compose has the method {method!r}; expected one of {', '.join(METHODS)}")
        self.sensor, self.grid, self.chunk = reader.sensor, reader.grid, reader.chunk
        self._reader, self._method = reader, method
        starts = _step_starts(reader.dates, every_days)
        ends = np.append(starts[1:], reader.dates[-1] + 1)
        self._bounds = np.searchsorted(reader.dates, np.append(starts, ends[-1]))  # step i: dates[bounds[i] : bounds[i + 1]]
        year_ends = (starts.astype("datetime64[Y]") + 1).astype("datetime64[D]")
        lengths = np.minimum((year_ends - starts).astype(np.int64), every_days)
        self.dates = starts + lengths // 2

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        steps = np.arange(len(self.dates))[times]
        shape = len(steps), height, width
        pixels = np.full((len(steps), len(self.sensor.bands), height, width), self.sensor.nodata, dtype=self.sensor.dtype)
        quality: np.ndarray | None = None
        valid = np.zeros(shape, dtype=bool)
        for frame, step in enumerate(steps):
            first, end = int(self._bounds[step]), int(self._bounds[step + 1])
            if first == end:
                continue
            images = self._reader.read(row, col, height, width, slice(first, end))
            if quality is None:
                codes = np.promote_types(images.quality.dtype, np.min_scalar_type(self.sensor.quality.nodata))
                quality = np.full(shape, self.sensor.quality.nodata, dtype=codes)
            self._compose(images, self.dates[step], pixels[frame], quality[frame], valid[frame])
        if quality is None:
            codes = np.min_scalar_type(self.sensor.quality.nodata)
            quality = np.full(shape, self.sensor.quality.nodata, dtype=codes)
        return Series(pixels=pixels, quality=quality, valid=valid, dates=self.dates[times])

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.__exit__(*exception)

    def _compose(self, images: Series, middle: np.datetime64, pixels: np.ndarray, quality: np.ndarray, valid: np.ndarray) -> None:
        """Write the composite of one step into pixels (C, H, W), quality (H, W) and valid (H, W), strip by strip."""
        frames, channels, height, width = images.pixels.shape
        rows = max(1, STRIP_BYTES // (8 * frames * (channels + 2) * width))
        distance = np.abs((images.dates - middle).astype(np.int64))
        for top in range(0, height, rows):
            strip = slice(top, top + rows)
            seen, numbers, codes = images.valid[:, strip], images.pixels[:, :, strip], images.quality[:, strip]
            rank = np.broadcast_to(distance[:, None, None], seen.shape).copy()
            rank[~np.isin(codes, self.sensor.quality.preferred)] += 1_000
            rank[~seen] = 1_000_000
            best = rank.argmin(axis=0)[None]  # the first among equals
            some = valid[strip] = seen.any(axis=0)
            quality[strip][some] = np.take_along_axis(codes, best, axis=0)[0][some]
            chosen = np.take_along_axis(numbers, best[:, None], axis=0)[0] if self._method == "best" else _median(numbers, seen)
            pixels[:, strip][:, some] = chosen[:, some]


def _median(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Median over time of the valid observations: integers (T, C, H, W), valid (T, H, W) -> (C, H, W), rounded half to even.

    Where no observation is valid, the result is arbitrary.
    """
    largest = np.iinfo(pixels.dtype).max
    ordered = np.sort(np.where(valid[:, None], pixels, largest), axis=0)  # observations that are not valid come last
    count = valid.sum(axis=0)[None, None]
    lower = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=0)[0]
    upper = np.take_along_axis(ordered, np.minimum(count // 2, len(pixels) - 1), axis=0)[0]
    return np.rint((lower.astype(np.float64) + upper) / 2).astype(pixels.dtype)


def _step_starts(dates: np.ndarray, every_days: int) -> np.ndarray:
    """The first day of each step, from the step of the first date to the step of the last date."""
    first, last = dates[0], dates[-1]
    years = np.arange(first.astype("datetime64[Y]"), last.astype("datetime64[Y]") + 1)
    starts = [np.arange(year.astype("datetime64[D]"), (year + 1).astype("datetime64[D]"), every_days) for year in years]
    all_starts = np.concatenate(starts)
    begin = np.searchsorted(all_starts, first, side="right") - 1
    return all_starts[begin : np.searchsorted(all_starts, last, side="right")]
