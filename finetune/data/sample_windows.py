"""Windows of labelled samples (`finetune/data/samples.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from data_prep.archive.sensor import Sensor
from finetune.data.augmentation import Augmentation
from finetune.data.samples import Sample, Samples, checked, observed
from finetune.data.scene_windows import origins
from finetune.data.season import Clip, LabelledWindow, Season, no_images, season_of_dates, season_without_dates
from finetune.data.windows import LabelledWindows
from finetune.task import IGNORE, Task


class SampleWindows(LabelledWindows):
    """Windows without overlap over samples, those smaller than a window padded with no data; windows without label left out.

    Args:
        samples: see `finetune/data/samples.py`.
        task, sensors: what to read.
        augmentation: what happens to windows that are drawn.
        cache_gb: so many gigabytes of windows are kept in memory, the others read when asked for.
        year: year in which the season ends; None takes for each sample the one with most images.

    Attributes:
        sensors: as given.
        names, scenes: of each sample.

    Raises ValueError that names the sample for one that is not as the task needs it, and when nothing is labelled.
    """

    def __init__(
        self,
        samples: Samples,
        task: Task,
        sensors: Mapping[str, Sensor],
        *,
        augmentation: Augmentation | None = None,
        cache_gb: float = 4.0,
        year: int | None = None,
    ) -> None:
        super().__init__(task, augmentation)
        self._samples, self.sensors, self._year = samples, sensors, year
        self.names: list[str] = []
        self.scenes: list[str] = []
        self._scales: dict[str, tuple[Fraction, str]] = {}  # and the sample that it is from
        self._last: tuple[int, Sample] | None = None
        room, size = cache_gb * 1e9, task.window_px
        for number in tqdm(range(len(samples)), desc="reading samples", unit="sample", leave=False):
            sample = self.sample(number)
            self.names.append(sample.name)
            self.scenes.append(sample.scene)
            self.pixels.add(sample.pixel)
            self._check_scales(sample)
            for row, col in ((r, c) for r in origins(sample.label.shape[0], size, size) for c in self._columns(sample)):
                label = _padded(sample.label, row, col, size, size, IGNORE)
                if (label == IGNORE).all():
                    continue
                self.windows.append((number, row, col))
                self.labels.append(label)
                if room > 0:
                    window = self._cut(sample, row, col, label)
                    room -= sum(clip.pixels.nbytes + clip.valid.nbytes for clip in window.clips.values())
                    self._cache[len(self.windows) - 1] = window
        if not self.windows:
            raise ValueError(f"no labelled pixel in {len(samples)} samples; a label of -1 means not labelled")
        self.augmentation.check_crop(math.lcm(*(scale.denominator for scale, _ in self._scales.values())), size)
        self.close()

    def _columns(self, sample: Sample) -> list[int]:
        return origins(sample.label.shape[1], self.task.window_px, self.task.window_px)

    def sample(self, number: int) -> Sample:
        """Sample `number`, checked."""
        if self._last is None or self._last[0] != number:
            self._last = number, checked(self._samples[number], number, self.task, self.sensors)
        return self._last[1]

    def window(self, index: int) -> LabelledWindow:
        """Window `index` with all images of the season, as stored."""
        window: LabelledWindow | None = self._cache.get(index)
        if window is None:
            number, row, col = self.windows[index]
            window = self._cut(self.sample(number), row, col, self.labels[index])
        absent = {source: self._nothing(source, window) for source in self.task.sources if source not in window.clips}
        return replace(window, clips={**window.clips, **absent})

    def scene_of(self, index: int) -> str:
        """The scene of window `index`."""
        return self.scenes[self.windows[index][0]]

    def close(self) -> None:
        """Forget the sample that was read last, and with it an open file."""
        self._last = None

    def whole_clip(self, sample: Sample, source: str) -> Clip:
        """All images of a source over the whole sample."""
        height, width = sample.data[source].shape[-2:]
        times = np.arange(len(sample.data[source]))
        return _clip(sample, source, self.sensors[source], times, 0, 0, (height, width))

    def _check_scales(self, sample: Sample) -> None:
        """Raises ValueError unless windows hold whole pixels of each source, as many in all samples."""
        size = self.task.window_px
        for source in sample.data:
            scale = sample.scale(source)
            before, name = self._scales.setdefault(source, (scale, sample.name))
            if scale != before:
                raise ValueError(
                    f"{sample.name}: {source} has {float(scale):g} pixels a pixel of the label, in {name} {float(before):g}; "
                    "samples of several resolutions cannot be stacked: resample some"
                )
            if (size * scale).denominator > 1:
                raise ValueError(
                    f"{sample.name}: windows of {size} px of the label ({sample.label.shape}) do not hold whole pixels of "
                    f"{source} ({sample.data[source].shape[-2:]}); window_px must be a multiple of {scale.denominator}, for "
                    f"instance --window_px {max(1, round(size / scale.denominator)) * scale.denominator}"
                )

    def _nothing(self, source: str, window: LabelledWindow) -> Clip:
        """A clip of no images of a source that the sample lacks, as large as in other samples."""
        sensor = self.sensors[source]
        if source in self._scales:
            scale = self._scales[source][0]
        else:  # no sample has it: as its usual pixels would lie beside those of a source that is there
            other = next(iter(window.clips))
            scale = self._scales[other][0] * Fraction(self.sensors[other].gsd_m / sensor.gsd_m)
        side = max(1, round(self.task.window_px * scale))
        return no_images(len(sensor.bands), sensor.dtype, side, side)

    def _cut(self, sample: Sample, row: int, col: int, label: np.ndarray) -> LabelledWindow:
        """The window of `sample` at (row, col) with the sources that the sample has."""
        size, clips, year = self.task.window_px, {}, self._year
        if year is None and sample.dates:
            year = self.task.year_of(next(iter(sample.dates.values())))
        seasons = {source: self._season(sample, source, year) for source in self.task.sources}
        for source in sample.data:
            scale = sample.scale(source)
            top, left, side = int(row * scale), int(col * scale), int(size * scale)
            times = seasons[source].times
            clips[source] = _clip(sample, source, self.sensors[source], times, top, left, (side, side))
        name = f"{sample.name}-r{row:05d}-c{col:05d}"
        return LabelledWindow(name=name, clips=clips, seasons=seasons, label=label, year=year)

    def _season(self, sample: Sample, source: str, year: int | None) -> Season:
        if source in sample.dates:
            assert year is not None, "dates give a year"
            season = season_of_dates(sample.dates[source], self.task, year)
        else:
            season = season_without_dates(len(sample.data[source]) if source in sample.data else 0, self.task)
        if not len(season.times) and self.task.missing_sources == "error":
            raise ValueError(
                f"{sample.name}: no image of {source} in the season {list(self.task.season)} that ends in {year}; "
                "do without with --missing_sources allow"
            )
        return replace(season, upsample=self.task.upsample.get(source, 1))


def _clip(sample: Sample, source: str, sensor: Sensor, times: np.ndarray, row: int, col: int, size: tuple[int, int]) -> Clip:
    """The images `times` of a source over a window of its own pixels; what is not clear is zero and not valid."""
    part = np.s_[..., row : row + size[0], col : col + size[1]]
    pixels = np.asarray(sample.data[source][part])[times]
    valid = observed(pixels, sensor.nodata)
    if source in sample.valid:
        valid &= np.asarray(sample.valid[source][part])[times].astype(bool)
    pixels = np.where(valid[:, None], pixels, 0).astype(pixels.dtype)  # else NaN would pass on, whatever it is multiplied by
    return Clip(pixels=_padded(pixels, 0, 0, *size, 0), valid=_padded(valid, 0, 0, *size, False))


def _padded(array: np.ndarray, row: int, col: int, height: int, width: int, fill: float) -> np.ndarray:
    """A copy of the window at (row, col) of (..., H, W), `fill` where it reaches outside."""
    result = np.full((*array.shape[:-2], height, width), fill, dtype=array.dtype)
    inside = array[..., row : row + height, col : col + width]
    result[..., : inside.shape[-2], : inside.shape[-1]] = inside
    return result
