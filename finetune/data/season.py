"""The season of a source: when its images were taken, and which of them become the frames of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from finetune.task import Compositing, Task


@dataclass(frozen=True, kw_only=True)
class Season:
    """The dates of the images of a stack, and how the season is divided into frames.

    Attributes:
        times: (N,) indices of those dates of the reader that lie in the season.
        days: (N,) days from the beginning of the season to noon of each date.
        length: length of the season in days.
        periods: number of equal periods; each gives one frame of the model.
        upsample: how often each pixel is repeated along rows and columns.
        seen_days: days of the season that have passed. Later images are not yet available and are never chosen.
        shift: days added to the date of every image.
        compositing: see `Task`.
    """

    times: np.ndarray
    days: np.ndarray
    length: int
    periods: int
    upsample: int = 1
    seen_days: float = math.inf
    shift: float = 0.0
    compositing: Compositing = "image"

    def choose(self, valid: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Choose one image per period: valid (N, H, W) -> indices (periods,) into the stack, -1 for a period without any.

        Without `rng` it is the image with the most clear pixels; among equals, the one nearest to the middle of the period.
        With `rng` it is a random image with at least one clear pixel, so that training sees other dates in every epoch.
        """
        return np.array([images[0] if len(images) else -1 for images in self._ranked(valid, rng)])

    def used(self, valid: np.ndarray, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """The images that make up the frame of each period, first the one of `choose`: indices into the stack.

        A pixel of the frame is that of the first image in which it is clear. With `compositing` by image there is no other image.
        """
        return [images if self.compositing == "pixel" else images[:1] for images in self._ranked(valid, rng)]

    def _ranked(self, valid: np.ndarray, rng: np.random.Generator | None) -> list[np.ndarray]:
        """The images of each period that have a clear pixel: the one of `choose`, then the others, clearest first."""
        position = (self.days + self.shift) / (self.length / self.periods)
        off_centre = np.abs(position % 1 - 0.5)
        clear = valid.mean(axis=(1, 2))
        seen = self.days < self.seen_days
        ranked = []
        for period in range(self.periods):
            candidates = np.flatnonzero((np.floor(position) == period) & (clear > 0) & seen)
            images = candidates[np.lexsort((off_centre[candidates], -clear[candidates]))]
            if rng is not None and len(candidates):
                first = rng.choice(candidates)
                images = np.concatenate([[first], images[images != first]])
            ranked.append(images)
        return ranked


def season_of_dates(dates: np.ndarray, task: Task, year: int) -> Season:
    """The images of `dates` (datetime64[D]) in the season that ends in `year`."""
    first, end = task.season_of(year)
    times = np.flatnonzero((dates >= first) & (dates < end))
    days = (dates[times] - first).astype(int) + 0.5
    return Season(
        times=times, days=days, length=int((end - first).astype(int)), periods=task.frames, compositing=task.compositing
    )


def seen_until(seasons: Mapping[str, Season], days: float) -> dict[str, Season]:
    """The seasons of all sources after the first `days` days have passed; all later periods are empty."""
    return {source: replace(season, seen_days=days) for source, season in seasons.items()}


def season_without_dates(images: int, task: Task) -> Season:
    """A season of `images` images with unknown dates, assumed to be evenly spread.

    If there are as many images as frames, each image is one frame, in the order given.
    """
    first, end = task.season_of(2001)
    length = int((end - first).astype(int))
    days = (np.arange(images) + 0.5) * length / max(images, 1)
    return Season(times=np.arange(images), days=days, length=length, periods=task.frames, compositing=task.compositing)
