"""The images of a season over a window, when they were taken, and which of them become the frames of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from finetune.task import Task


@dataclass(frozen=True, kw_only=True)
class Clip:
    """All images of the season of one source over one window.

    Attributes:
        pixels: (N, C, H, W), numbers as stored, N images of the season.
        valid: (N, H, W) bool, False also where the window reaches outside the source's grid.
    """

    pixels: np.ndarray
    valid: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.valid.shape[1], self.valid.shape[2]


def no_images(bands: int, dtype: np.dtype | str, height: int, width: int) -> Clip:
    """The clip of a source that is not there: its frames are zeros, the means of its bands."""
    return Clip(pixels=np.zeros((0, bands, height, width), dtype=dtype), valid=np.zeros((0, height, width), dtype=bool))


@dataclass(frozen=True, kw_only=True)
class Season:
    """When the images of a clip were taken, and how they become the frames of a model.

    Attributes:
        times: (N,) indices of the reader's dates that lie in the season.
        days: (N,) days from the season's beginning to noon of each.
        length: days of the season.
        periods: number of equal periods it is dealt into (the model's frames).
        upsample: how often pixels are repeated along rows and columns.
        seen_days: days of the season that have passed; images of later days are not there yet and are never chosen.
        shift: days by which every image is taken to be later than it was.
    """

    times: np.ndarray
    days: np.ndarray
    length: int
    periods: int
    upsample: int = 1
    seen_days: float = math.inf
    shift: float = 0.0

    def choose(self, valid: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """One image a period: valid (N, H, W) -> indices (periods,) into the clip, -1 where the period has none.

        Without `rng` the clearest image of each period, the one nearest to its middle among equals; with `rng` a random one
        of those with any clear pixel, so that training sees other dates in every epoch.
        """
        position = (self.days + self.shift) / (self.length / self.periods)
        off_centre = np.abs(position % 1 - 0.5)
        clear = valid.mean(axis=(1, 2))
        seen = self.days < self.seen_days
        chosen = np.full(self.periods, -1)
        for period in range(self.periods):
            candidates = np.flatnonzero((np.floor(position) == period) & (clear > 0) & seen)
            if len(candidates):
                best = np.lexsort((off_centre[candidates], -clear[candidates]))[0]
                chosen[period] = candidates[best] if rng is None else rng.choice(candidates)
        return chosen


def season_of_dates(dates: np.ndarray, task: Task, year: int) -> Season:
    """The images of `dates` (datetime64[D]) in the season that ends in `year`."""
    first, end = task.season_of(year)
    times = np.flatnonzero((dates >= first) & (dates < end))
    days = (dates[times] - first).astype(int) + 0.5
    return Season(times=times, days=days, length=int((end - first).astype(int)), periods=task.frames)


def seen_until(seasons: Mapping[str, Season], days: float) -> dict[str, Season]:
    """The seasons of all sources as they are known when `days` of them have passed: periods after that are empty."""
    return {source: replace(season, seen_days=days) for source, season in seasons.items()}


def season_without_dates(images: int, task: Task) -> Season:
    """As many images of unknown days, taken to be spread evenly over the season: of N = T each is a frame, in its order."""
    first, end = task.season_of(2001)
    length = int((end - first).astype(int))
    days = (np.arange(images) + 0.5) * length / max(images, 1)
    return Season(times=np.arange(images), days=days, length=length, periods=task.frames)


@dataclass(frozen=True, kw_only=True)
class LabelledWindow:
    """A window as it is stored, before dates are chosen and numbers normalised.

    Attributes:
        name: of the window, for messages.
        clips, seasons: one a source; of one that is missing a clip of no images.
        label: (height, width) class indices, `IGNORE` where not labelled.
        year: year in which the season ends; None where dates are not known.
    """

    name: str
    clips: Mapping[str, Clip]
    seasons: Mapping[str, Season]
    label: np.ndarray
    year: int | None
