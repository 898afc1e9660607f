"""What training does to a window, to pixels, validity, dates and label alike, so that no window looks the same twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from finetune.data.season import Clip, LabelledWindow


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a window. Which of a period's images is taken is drawn beside this (`Season.choose`).

    Attributes:
        rotations: turn by 0, 90, 180 or 270 degrees.
        flips: mirror; with or without rotations, along both axes.
        shift_days: move the whole season, of all sources alike, by up to so many days: seasons differ between regions.
        crop_px: side in pixels of the label of a random part that is kept, a multiple of `crop_step`; None keeps all.
        drop_images: probability of each image to be left out, as by clouds.
        drop_sources: probability of each source to be left out; one always stays. Teaches a model to do without.
    """

    rotations: bool = True
    flips: bool = True
    shift_days: float = 0.0
    crop_px: int | None = None
    drop_images: float = 0.0
    drop_sources: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.drop_images < 1 and 0 <= self.drop_sources < 1 and self.shift_days >= 0):
            raise ValueError(f"drop_images and drop_sources must be at least 0 and below 1, shift_days at least 0; got {self}")

    def check_crop(self, step: int, side: int) -> None:
        """Raises ValueError unless `crop_px` fits into windows of `side` pixels, and holds whole pixels of every source.

        The edges of all sources' pixels meet at each `step` pixels of the label.
        """
        if self.crop_px is None:
            return
        if not 0 < self.crop_px <= side or self.crop_px % step:
            raise ValueError(
                f"crop_px is {self.crop_px}; expected a multiple of {step}, so that crops hold whole pixels of every source, "
                f"of at most {side}, the window"
            )


def crop_step(window: LabelledWindow) -> int:
    """Crops begin at multiples of so many pixels of the label, where pixel edges of all sources meet."""
    shapes = [clip.shape for clip in window.clips.values() if len(clip.valid)]
    shares = (Fraction(part, whole) for shape in shapes for part, whole in zip(shape, window.label.shape, strict=True))
    return math.lcm(*(share.denominator for share in shares))


def augment(window: LabelledWindow, how: Augmentation, rng: np.random.Generator) -> LabelledWindow:
    """A window that may have happened instead. Nothing of `window` is changed; its arrays may be shared.

    Pixels of clips (N, C, h, w), validity (N, h, w) and label (H, W) are turned and cut together, however coarse a source is;
    an image is dropped with its validity and its date.
    """
    # What is drawn does not depend on what is wanted: two runs that differ in one setting see the same windows otherwise.
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2)) and how.flips
    if not how.rotations:
        turns = turns // 2 * 2 if how.flips else 0  # half a turn is a flip along both axes
    shift = rng.uniform(-how.shift_days, how.shift_days)

    def turned(array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, turns, axes=(-2, -1))
        return array[..., ::-1] if mirrored else array

    window = _each(window, turned)
    window = replace(window, seasons={source: replace(season, shift=shift) for source, season in window.seasons.items()})
    if how.crop_px is not None:
        window = _cropped(window, how.crop_px, rng)
    if how.drop_images:
        window = _with_images(window, {s: rng.random(len(clip.valid)) >= how.drop_images for s, clip in window.clips.items()})
    if how.drop_sources:
        window = _without_sources(window, how.drop_sources, rng)
    return window


def _each(window: LabelledWindow, change: Callable[[np.ndarray], np.ndarray]) -> LabelledWindow:
    """The window with `change` done to all arrays (..., rows, columns)."""
    clips = {source: Clip(pixels=change(clip.pixels), valid=change(clip.valid)) for source, clip in window.clips.items()}
    return replace(window, clips=clips, label=change(window.label))


def _cropped(window: LabelledWindow, side: int, rng: np.random.Generator) -> LabelledWindow:
    """A random part of `side` x `side` pixels of the label."""
    height, width = window.label.shape
    step = crop_step(window)
    top, left = (int(rng.integers((whole - side) // step + 1)) * step for whole in (height, width))

    def cut(array: np.ndarray) -> np.ndarray:
        parts = []
        for start, whole, extent in zip((top, left), (height, width), array.shape[-2:], strict=True):
            first = start * extent // whole
            parts.append(slice(first, first + max(1, side * extent // whole)))
        return array[..., parts[0], parts[1]]

    return _each(window, cut)


def _with_images(window: LabelledWindow, kept: dict[str, np.ndarray]) -> LabelledWindow:
    """Only the images that bool (N,) of each source says."""
    clips = {s: Clip(pixels=clip.pixels[kept[s]], valid=clip.valid[kept[s]]) for s, clip in window.clips.items()}
    seasons = {s: replace(v, times=v.times[kept[s]], days=v.days[kept[s]]) for s, v in window.seasons.items()}
    return replace(window, clips=clips, seasons=seasons)


def _without_sources(window: LabelledWindow, probability: float, rng: np.random.Generator) -> LabelledWindow:
    """Each source is left out with some probability, but one of those with images."""
    there = [source for source, clip in window.clips.items() if len(clip.valid)]
    if len(there) < 2:
        return window
    stays = there[int(rng.integers(len(there)))]
    dropped = {source for source in there if rng.random() < probability and source != stays}
    kept = {source: np.full(len(clip.valid), source not in dropped) for source, clip in window.clips.items()}
    return _with_images(window, kept)
