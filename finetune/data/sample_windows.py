"""Labelled windows of samples (`finetune/data/labelled_sample.py`), read from the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.readers.radiometry import as_stored, complete
from finetune.data.augmentation import Augmentation
from finetune.data.image_stack import ImageStack, empty_stack
from finetune.data.labelled_sample import Sample, Samples, check_sample
from finetune.data.season import Season, season_of_dates, season_without_dates
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_group import WindowGroup
from finetune.data.window_origins import origins
from finetune.task import IGNORE, Task

MOST_KNOWN_YEARS = 1_000


class SampleWindows(LabelledWindows):
    """Windows without overlap over samples; windows without any labelled pixel are left out.

    A sample that is smaller than a window is padded with no data. Windows are read from their samples when they are needed: a
    training reads from a store of the windows instead (`finetune/data/window_store.py`).

    Args:
        samples: see `finetune/data/labelled_sample.py`.
        task, sensors: sources to read and their sensors.
        augmentation: changes made to windows in training.
        year: year in which the season ends; None uses that of the sample's label, or, where the sample does not state it, the one
            with most images.

    Attributes:
        names, scenes: name and scene of each sample.

    Raises ValueError that names a sample if the task cannot use it, and if no pixel is labelled.
    """

    def __init__(
        self,
        samples: Samples,
        task: Task,
        sensors: Mapping[str, Sensor],
        *,
        augmentation: Augmentation | None = None,
        year: int | None = None,
    ) -> None:
        super().__init__(task, sensors, augmentation)
        self._samples, self._year = samples, year
        self.names: list[str] = []
        self.scenes: list[str] = []
        self._scales: dict[str, tuple[Fraction, str]] = {}  # by source, with the name of the first sample that has it
        self._last: tuple[int, Sample] | None = None
        self._known_years: dict[bytes, tuple[int, list[int]]] = {}  # by dates
        self._seasons: dict[int, dict[str, Season]] = {}  # by sample with a labelled window
        self._sample_years: list[int | None] = []
        self._first_source: dict[int, str] = {}  # that a sample has
        self.labels: list[np.ndarray] = []
        of_several_years: list[tuple[str, list[int]]] = []
        for number in tqdm(range(len(samples)), desc="reading samples", unit="sample", leave=False):
            sample = self.sample(number)
            self.names.append(sample.name)
            self.scenes.append(sample.scene)
            self.pixel_sizes.add(sample.pixel_size)
            year = self._year_of(sample)
            self._sample_years.append(year)
            if year is not None:
                self.years[year] += 1
            if self._year is None and sample.year is None and sample.dates:
                _, likely = self._years_of(next(iter(sample.dates.values())))
                of_several_years += [(sample.name, likely)] if len(likely) > 1 else []
            self._check_scales(sample)
            self._add_windows(number, sample)
        if of_several_years:
            name, likely = of_several_years[0]
            note(
                f"{len(of_several_years)} of {len(samples)} samples have many images of several seasons, such as {name} of those "
                f"that end in {' and '.join(map(str, likely))}; the year with most images is used: state another with --year, or "
                "the year of each label (`year` in the sample)"
            )
        if not self.windows:
            raise ValueError(f"no labelled pixel in {len(samples)} samples; a label of -1 means not labelled")
        step = math.lcm(*(scale.denominator for scale, _ in self._scales.values()))
        self.augmentation.check_crop(step, task.window_px)
        self.close()

    def _add_windows(self, number: int, sample: Sample) -> None:
        """Add the labelled windows of sample `number`."""
        size = self.task.window_px
        for row, col in _window_corners(sample, size):
            label = _padded(sample.label, row, col, size, size, IGNORE)
            if (label != IGNORE).any():
                self.windows.append((number, row, col))
                self.labels.append(label)
        if self.windows and self.windows[-1][0] == number:
            year = self._sample_years[number]
            self._first_source[number] = next(iter(sample.data))
            self._seasons[number] = {source: self._season(sample, source, year) for source in self.task.sources}

    def sample(self, number: int) -> Sample:
        """Sample `number`, checked."""
        if self._last is None or self._last[0] != number:
            self._last = number, check_sample(self._samples[number], number, self.task, self.sensors)
        return self._last[1]

    def group(self, number: int) -> WindowGroup:
        """What the windows of sample `number`, which has any, have in common."""
        seasons, shapes = self._seasons[number], {}
        for source in self.task.sources:
            side = self._side(source, number)
            shapes[source] = len(seasons[source].times), len(self.sensors[source].bands), side, side
        year, scene = self._sample_years[number], self.scenes[number]
        return WindowGroup(name=self.names[number], scene=scene, year=year, seasons=seasons, shapes=shapes)

    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`, as stored."""
        number, row, col = self.windows[index]
        sample, size, stacks = self.sample(number), self.task.window_px, {}
        for source in self.task.sources:
            if source in sample.data:
                scale = sample.scale(source)
                window = int(row * scale), int(col * scale), int(size * scale), int(size * scale)
                stacks[source] = _cut_stack(sample, source, self.sensors[source], self._seasons[number][source].times, window)
            else:
                sensor, side = self.sensors[source], self._side(source, number)
                stacks[source] = empty_stack(len(sensor.bands), sensor.dtype, side, side)
        return stacks

    def close(self) -> None:
        """Forget the sample that was read last, which may hold a file open."""
        self._last = None

    def whole_stack(self, sample: Sample, source: str) -> ImageStack:
        """All images of a source over the whole sample."""
        height, width = sample.data[source].shape[-2:]
        times = np.arange(sample.data[source].shape[0])
        return _cut_stack(sample, source, self.sensors[source], times, (0, 0, height, width))

    def _check_scales(self, sample: Sample) -> None:
        """Raises ValueError unless windows hold whole pixels of each source, and equally many in all samples."""
        size = self.task.window_px
        for source in sample.data:
            scale = sample.scale(source)
            before, name = self._scales.setdefault(source, (scale, sample.name))
            if scale != before:
                raise ValueError(
                    f"{sample.name}: {source} has {float(scale):g} pixels per pixel of the label, in {name} {float(before):g}; "
                    "samples of different resolution do not fit into one batch: resample some of them"
                )
            if (size * scale).denominator > 1:
                raise ValueError(
                    f"{sample.name}: windows of {size} px of the label ({sample.label.shape}) do not hold whole pixels of "
                    f"{source} ({sample.data[source].shape[-2:]}); window_px must be a multiple of {scale.denominator}, for "
                    f"instance --override.window_px {max(1, round(size / scale.denominator)) * scale.denominator}"
                )

    def _side(self, source: str, number: int) -> int:
        """Side of a window in pixels of a source, which sample `number` may lack: then that of other samples."""
        if source in self._scales:
            scale = self._scales[source][0]
        else:  # no sample has it: use the ratio of the sensors' usual pixel sizes
            other = self._first_source[number]
            scale = self._scales[other][0] * Fraction(self.sensors[other].gsd_m / self.sensors[source].gsd_m)
        return max(1, round(self.task.window_px * scale))

    def _year_of(self, sample: Sample) -> int | None:
        """The year in which a sample's season ends; None if its dates are unknown.

        Raises ValueError if its label is of another year than that of this dataset.
        """
        if self._year is not None and sample.year not in (None, self._year):
            raise ValueError(
                f"{sample.name}: its label is of {sample.year}, but --year is {self._year}; leave --year out to use the year of "
                "each label"
            )
        year = self._year if self._year is not None else sample.year
        if year is None and sample.dates:
            year, _ = self._years_of(next(iter(sample.dates.values())))
        return year

    def _years_of(self, dates: np.ndarray) -> tuple[int, list[int]]:
        """`Task.year_of` and `Task.likely_years` of some dates, which many samples share."""
        key = dates.tobytes()
        if key not in self._known_years:
            if len(self._known_years) >= MOST_KNOWN_YEARS:
                self._known_years.clear()
            self._known_years[key] = self.task.year_of(dates), self.task.likely_years(dates)
        return self._known_years[key]

    def _season(self, sample: Sample, source: str, year: int | None) -> Season:
        """The season of a source. Raises ValueError if it has no image and the task does not allow missing sources."""
        if source in sample.dates:
            assert year is not None, "a sample with dates has a year"
            season = season_of_dates(sample.dates[source], self.task, year)
        else:
            season = season_without_dates(sample.data[source].shape[0] if source in sample.data else 0, self.task)
        if not len(season.times) and self.task.missing_sources == "error":
            raise ValueError(
                f"{sample.name}: no image of {source} in the season {list(self.task.season)} that ends in {year}; "
                "allow missing sources with --missing_sources allow"
            )
        return replace(season, upsample=self.task.upsample.get(source, 1))


def _window_corners(sample: Sample, size: int) -> Iterator[tuple[int, int]]:
    """Upper left corners (row, col) of the windows over a sample, in pixels of its label."""
    height, width = sample.label.shape
    return ((row, col) for row in origins(height, size, size) for col in origins(width, size, size))


def _cut_stack(sample: Sample, source: str, sensor: Sensor, times: np.ndarray, window: tuple[int, int, int, int]) -> ImageStack:
    """The images `times` of a source over a window (row, col, height, width) of its own pixels.

    Pixels that are not clear, or outside the sample, are zero and not valid.
    """
    row, col, height, width = window
    inside = np.s_[..., row : row + height, col : col + width]
    pixels = as_stored(np.asarray(sample.data[source][inside])[times], sensor, f"{sample.name}: {source}")
    if source in sample.valid:
        valid = sensor.observed(pixels) & np.asarray(sample.valid[source][inside])[times].astype(bool)
    else:
        valid = complete(pixels, sensor)
    pixels = np.where(valid[:, None], pixels, 0)
    return ImageStack(pixels=_padded(pixels, 0, 0, height, width, 0), valid=_padded(valid, 0, 0, height, width, False))


def _padded(array: np.ndarray, row: int, col: int, height: int, width: int, fill: float) -> np.ndarray:
    """A copy of the window at (row, col) of (..., H, W), `fill` where it extends beyond the array."""
    result = np.full((*array.shape[:-2], height, width), fill, dtype=array.dtype)
    inside = array[..., row : row + height, col : col + width]
    result[..., : inside.shape[-2], : inside.shape[-1]] = inside
    return result
