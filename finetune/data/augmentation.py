"""Augmentation of training windows: random changes of pixels, validity, dates and label together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from finetune.data.image_stack import ImageStack
from finetune.data.labelled_window import LabelledWindow


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which random changes a window may undergo. Training also chooses a random image per period (`Season.choose`).

    Attributes:
        rotations: rotate by 0, 90, 180 or 270 degrees.
        flips: mirror along one or both axes, with or without rotations.
        shift_days: shift the season of all sources together, by up to this many days, since seasons differ between regions.
        crop_px: side in pixels of the label of a random part that is kept, a multiple of `crop_step`; None keeps the window.
        drop_images: probability of dropping an image, as if it were cloudy.
        drop_sources: probability of dropping a source; one source always stays. It teaches the model to work without a source.

    Raises ValueError for values out of range.
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
        """Raises ValueError unless `crop_px` fits into windows of `side` pixels and holds whole pixels of every source.

        `step`: pixel edges of all sources meet at every multiple of this many pixels of the label.
        """
        if self.crop_px is None:
            return
        if not 0 < self.crop_px <= side or self.crop_px % step:
            raise ValueError(
                f"crop_px is {self.crop_px}; expected a multiple of {step}, so that crops hold whole pixels of every source, "
                f"of at most {side}, the window"
            )


def crop_step(window: LabelledWindow) -> int:
    """Step in pixels of the label at which an augmentation may crop: at its multiples the pixel edges of all sources meet."""
    shapes = [stack.shape for stack in window.stacks.values() if len(stack.valid)]
    shares = (Fraction(part, whole) for shape in shapes for part, whole in zip(shape, window.label.shape, strict=True))
    return math.lcm(*(share.denominator for share in shares))


def augment(window: LabelledWindow, how: Augmentation, rng: np.random.Generator) -> LabelledWindow:
    """A randomly changed copy of `window`, which stays as it is; the copy may share its arrays.

    Pixels (N, C, h, w), validity (N, h, w) and label (H, W) are rotated, mirrored and cropped together, however coarse a source
    is. An image is dropped together with its validity and its date.
    """
    # Draw the same random numbers whatever the settings, so that runs that differ in one setting see the same windows otherwise.
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2)) and how.flips
    if not how.rotations:
        turns = turns // 2 * 2 if how.flips else 0  # half a turn is a flip along both axes
    shift = rng.uniform(-how.shift_days, how.shift_days)

    def rotated(array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, turns, axes=(-2, -1))
        return array[..., ::-1] if mirrored else array

    window = _each(window, rotated)
    window = replace(window, seasons={source: replace(season, shift=shift) for source, season in window.seasons.items()})
    if how.crop_px is not None:
        window = _cropped(window, how.crop_px, rng)
    if how.drop_images:
        window = _with_images(window, {s: rng.random(len(v.valid)) >= how.drop_images for s, v in window.stacks.items()})
    if how.drop_sources:
        window = _without_sources(window, how.drop_sources, rng)
    return window


def _each(window: LabelledWindow, change: Callable[[np.ndarray], np.ndarray]) -> LabelledWindow:
    """The window with `change` applied to all arrays (..., rows, columns)."""
    stacks = {source: ImageStack(pixels=change(v.pixels), valid=change(v.valid)) for source, v in window.stacks.items()}
    return replace(window, stacks=stacks, label=change(window.label))


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
    """The window with only those images of each source for which `kept`, bool (N,), is True."""
    stacks = {s: ImageStack(pixels=v.pixels[kept[s]], valid=v.valid[kept[s]]) for s, v in window.stacks.items()}
    seasons = {s: replace(v, times=v.times[kept[s]], days=v.days[kept[s]]) for s, v in window.seasons.items()}
    return replace(window, stacks=stacks, seasons=seasons)


def _without_sources(window: LabelledWindow, probability: float, rng: np.random.Generator) -> LabelledWindow:
    """The window with each source dropped with some probability, but for one source that has images."""
    present = [source for source, stack in window.stacks.items() if len(stack.valid)]
    if len(present) < 2:
        return window
    stays = present[int(rng.integers(len(present)))]
    dropped = {source for source in present if rng.random() < probability and source != stays}
    kept = {source: np.full(len(stack.valid), source not in dropped) for source, stack in window.stacks.items()}
    return _with_images(window, kept)
