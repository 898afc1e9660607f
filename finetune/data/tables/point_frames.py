"""The frames that a model reads of many points at once, as for evaluation: those of `finetune/data/frames.py`, made faster.

Of a single pixel, the clearest image of a period is the clear one that is nearest to the middle of the period, and no other image
fills gaps in it. So the frames of all points follow from one sort of their observations.

Shapes: n points, N observations of one source, T frames, C bands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.radiometry import complete
from finetune.data.frames import Normalization
from finetune.data.tables.point_series import NO_YEAR, PointSeries, SourceSeries
from finetune.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class PointFrames:
    """Reads the frames of points.

    Attributes:
        points: points and their series.
        chosen: numbers of the points to read, int64 (n,).
        task: a `pixel_task`.
        sensors: sensor of each source.
        normalization: mean and standard deviation of the bands of each source of the task.
        year: year in which the season ends, for points that do not state theirs; None for the one with most dates.
    """

    points: PointSeries
    chosen: np.ndarray
    task: Task
    sensors: Mapping[str, Sensor]
    normalization: Normalization
    year: int | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, part: slice, seen_days: float = math.inf) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The frames of some of the chosen points, and which of these have an observation in any frame.

        The frames of a source are float32 (n, T, C, H, W), where H = W is how often its pixel is repeated. `seen_days`: the
        season is cut off after so many days.

        Raises ValueError for a point without an image of a source in its season, unless the task allows missing sources, and for
        a point whose year differs from `year`.
        """
        numbers = self.chosen[part]
        years = self.years_of(numbers)
        data, seen = {}, np.zeros(len(numbers), dtype=bool)
        for source in self.task.sources:
            bands, side = len(self.sensors[source].bands), self.task.upsample.get(source, 1)
            frames = np.zeros((len(numbers), self.task.frames, bands), dtype=np.float32)
            series = self.points.sources.get(source)
            in_season = np.zeros(len(numbers), dtype=bool)
            if series is not None:
                in_season = self._fill(frames, seen, series, source, numbers, years, seen_days)
            if not in_season.all() and self.task.missing_sources == "error":
                at = int(np.argmin(in_season))
                raise ValueError(
                    f"{self.points.name(int(numbers[at]))}: no image of {source} in the season {list(self.task.season)} that "
                    f"ends in {years[at]}; allow missing sources with --missing_sources allow"
                )
            data[source] = np.broadcast_to(frames[..., None, None], (*frames.shape, side, side)).copy()
        return data, seen

    def _fill(
        self,
        frames: np.ndarray,
        seen: np.ndarray,
        series: SourceSeries,
        source: str,
        numbers: np.ndarray,
        years: np.ndarray,
        seen_days: float,
    ) -> np.ndarray:
        """Write the observations of a source into `frames` (n, T, C), and mark in `seen` (n,) the points that have any.

        Returns which points have an image of the source in their season, clear or not, bool (n,).
        """
        firsts, counts = series.starts[numbers], np.diff(series.starts)[numbers]
        point = np.repeat(np.arange(len(numbers)), counts)
        at = np.arange(len(point)) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        begins, lengths = self._seasons(years)
        days = (series.days[at] - begins[point]).astype(np.int64) + 0.5
        inside = (days > 0) & (days < lengths[point])
        in_season = np.bincount(point[inside], minlength=len(numbers)) > 0
        clear = complete(series.pixels[at][:, :, None, None], self.sensors[source])[:, 0, 0]
        usable = np.flatnonzero(inside & clear & (days < seen_days))
        position = days[usable] / (lengths[point[usable]] / self.task.frames)
        period, off_centre = np.floor(position).astype(np.int64), np.abs(position % 1 - 0.5)
        order = np.lexsort((np.arange(len(usable)), off_centre, period, point[usable]))
        usable, period = usable[order], period[order]
        is_first = np.ones(len(usable), dtype=bool)
        is_first[1:] = (np.diff(point[usable]) != 0) | (np.diff(period) != 0)
        best, period = usable[is_first], period[is_first]
        by_band = {name: np.asarray(values, dtype=np.float32) for name, values in self.normalization[source].items()}
        pixels = series.pixels[at[best]]
        if "low" in by_band:
            pixels = pixels.clip(by_band["low"], by_band["high"])
        frames[point[best], period] = (pixels - by_band["mean"]) / by_band["std"]
        seen[point[best]] = True
        return in_season

    def _seasons(self, years: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First day, datetime64[D] (n,), and length in days, int64 (n,), of the seasons that end in `years`."""
        found, of_point = np.unique(years, return_inverse=True)
        ends = np.array([self.task.season_of(year) for year in found.tolist()]).reshape(-1, 2)
        return ends[of_point, 0], (ends[:, 1] - ends[:, 0]).astype(np.int64)[of_point]

    def years_of(self, numbers: np.ndarray) -> np.ndarray:
        """The year in which the season of each of some points ends, int64 (n,).

        Raises ValueError for a point whose year differs from `year`.
        """
        years = self.points.years[numbers].astype(np.int64)
        unknown = years == NO_YEAR
        if self.year is not None:
            differs = ~unknown & (years != self.year)
            if differs.any():
                at = int(np.argmax(differs))
                raise ValueError(
                    f"{self.points.name(int(numbers[at]))}: is of {years[at]}, but --year is {self.year}; leave --year out to "
                    "use the year of each point"
                )
            return np.full(len(numbers), self.year, dtype=np.int64)
        known: dict[bytes, int] = {}  # by dates, which many points share
        for at in np.flatnonzero(unknown).tolist():
            days = self._first_days(int(numbers[at]))
            key = days.tobytes()
            if key not in known:
                known[key] = self.task.year_of(days)
            years[at] = known[key]
        return years

    def of_several_years(self) -> list[tuple[str, list[int]]]:
        """The chosen points of which no year is stated, and that have many dates in several seasons: name and years of each."""
        if self.year is not None:
            return []
        known: dict[bytes, list[int]] = {}  # by dates, which many points share
        found = []
        for number in self.chosen[self.points.years[self.chosen] == NO_YEAR].tolist():
            days = self._first_days(number)
            key = days.tobytes()
            if key not in known:
                known[key] = self.task.likely_years(days)
            if len(known[key]) > 1:
                found.append((self.points.name(number), known[key]))
        return found

    def _first_days(self, number: int) -> np.ndarray:
        """Dates of the first source of the task that a point has. Raises ValueError for a point without any."""
        for source in self.task.sources:
            series = self.points.sources.get(source)
            if series is not None and len(found := series.days[series.of_point(number)]):
                return found
        raise ValueError(f"{self.points.name(number)}: has no observation of {' or '.join(self.task.sources)}")
