"""Several images of one place and day: one policy for all containers.

They are the rule: an orbit may be cut into two datastrips within a tile, two orbits see a place at high latitude on one day, and
archives keep images that were processed again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.offsets import baseline_number

SAME_DAY = ("mosaic", "newest_baseline", "error")
OF_A_FILE = ("mosaic", "error")  # for containers that hold the images of all dates in one file, which states no baselines


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """What tells the images of a series apart.

    Attributes:
        date: day of the image.
        acquisition: what the parts and processings of one overpass share, such as its time; empty where it is not known.
        baseline: processing baseline or version, of which a greater one is newer; None where it is not known.
        name: the product, item or files, for messages. Of equal baselines, a later name is preferred.
    """

    date: np.datetime64
    acquisition: str = ""
    baseline: str | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.date}" + (f" (baseline {self.baseline})" if self.baseline else "")


class Named(Protocol):
    """An image with a name."""

    @property
    def image(self) -> ImageName: ...


Image = TypeVar("Image", bound=Named)


def chosen_images(images: Sequence[Image], same_day: str, origin: str) -> list[Image]:
    """The images to read, in the order of dates, and of one day in the order in which a mosaic prefers them.

    Args:
        images: of all days, in any order.
        same_day: what is done where a day has several images. "mosaic" leaves out what a newer baseline of the same acquisition
            replaces, and keeps the others, which `mosaicked` joins; "newest_baseline" keeps the one image of the newest baseline
            of the day; "error" raises ValueError.
        origin: begins error messages and notes.

    Raises ValueError for another policy, and where baselines do not tell which image is the newest.
    """
    if same_day not in SAME_DAY:
        raise ValueError(f"{origin}: same_day is {same_day!r}; expected one of {', '.join(SAME_DAY)}")
    of_day: dict[np.datetime64, list[Image]] = {}
    for image in images:
        of_day.setdefault(image.image.date, []).append(image)
    several = {day: found for day, found in sorted(of_day.items()) if len(found) > 1}
    if several and same_day == "error":
        day, found = next(iter(several.items()))
        raise ValueError(
            f"{origin}: {len(several)} of {len(of_day)} days have several images, such as {day}: {_listed(found)}; "
            "keep one, or say `same_day: mosaic` in scene.yaml"
        )
    for day, found in several.items():
        of_day[day] = _newest(found, origin) if same_day == "newest_baseline" else _not_replaced(found, origin)
    if several:
        left_out = sum(len(found) - len(of_day[day]) for day, found in several.items())
        joined = sum(len(of_day[day]) > 1 for day in several)
        note(
            f"{origin}: {len(several)} of {len(of_day)} days have several images: {left_out} images are replaced by newer "
            f"processings, {joined} days are mosaics (same_day: {same_day})"
        )
    return [image for day in sorted(of_day) for image in of_day[day]]


def _not_replaced(images: Sequence[Image], origin: str) -> list[Image]:
    """Images of the newest baseline of each acquisition, newest baselines and latest names first."""
    by_acquisition: dict[str, list[Image]] = {}
    for image in images:
        by_acquisition.setdefault(image.image.acquisition, []).append(image)
    kept = []
    for found in by_acquisition.values():
        if len(found) > 1 and any(image.image.baseline is None for image in found):
            raise ValueError(
                f"{origin}: {len(found)} images of one acquisition on {found[0].image.date}: {_listed(found)}; their "
                "names state no processing baseline that would tell which is newer, so keep one"
            )
        newest = max(_baseline_key(image) for image in found)
        kept += [image for image in found if _baseline_key(image) == newest]
    return sorted(kept, key=lambda image: (_baseline_key(image), image.image.name), reverse=True)


def _newest(images: Sequence[Image], origin: str) -> list[Image]:
    """The one image of the newest baseline."""
    newest = max(_baseline_key(image) for image in images)
    found = [image for image in images if _baseline_key(image) == newest]
    if len(found) > 1:
        raise ValueError(
            f"{origin}: {len(found)} images of {found[0].image.date} are of the newest processing baseline: {_listed(found)}; "
            "keep one, or say `same_day: mosaic` in scene.yaml"
        )
    return found


def _baseline_key(image: Named) -> tuple[int, ...]:
    """The numbers in a baseline or version, by which they are ordered: N0500 and 05.00 are later than 02.14, v2.0 than v1.5."""
    baseline = image.image.baseline or ""
    try:
        return (baseline_number(baseline),)
    except ValueError:
        return tuple(int(number) for number in re.findall(r"\d+", baseline))


def _listed(images: Sequence[Named]) -> str:
    """Names and baselines of images, for messages."""
    named = sorted((image.image for image in images), key=lambda image: image.name)
    return ", ".join(image.name + (f" (baseline {image.baseline})" if image.baseline else "") for image in named)


class ImageDays:
    """The days of images in ascending order, of which several may be of one day.

    Raises ValueError for dates that do not ascend, and where "error" is the policy, for two images of one day.

    Args:
        image_dates: (N,) datetime64[D].
        same_day: one of OF_A_FILE.
        origin: begins error messages.

    Attributes:
        dates: (T,) datetime64[D], strictly increasing: the days.
        image_dates: as given.
    """

    def __init__(self, image_dates: np.ndarray, same_day: str = "mosaic", origin: str = "") -> None:
        if same_day not in OF_A_FILE:
            raise ValueError(f"{origin}: same_day is {same_day!r}; expected one of {', '.join(OF_A_FILE)}")
        if image_dates.ndim != 1:
            raise ValueError(f"{origin}: dates have shape {image_dates.shape}; expected one for each image")
        falls = image_dates[1:] < image_dates[:-1]
        if falls.any():
            at = int(np.argmax(falls))
            raise ValueError(f"{origin}: date {image_dates[at]} is followed by {image_dates[at + 1]}; sort the images by time")
        self.image_dates = image_dates
        self.dates, self._first, self._counts = np.unique(image_dates, return_index=True, return_counts=True)
        several = self._counts > 1
        if several.any() and same_day == "error":
            raise ValueError(
                f"{origin}: {int(several.sum())} of {len(self.dates)} days have several images, such as "
                f"{self.dates[several][0]}; mosaic them, or say `same_day: mosaic` in scene.yaml"
            )
        self._has_several = bool(several.any())

    def images(self, times: slice | np.ndarray) -> slice | np.ndarray:
        """The indices (N,) of the images of the days at `times`, indices of `dates`, in ascending order."""
        if not self._has_several:
            return times
        firsts, counts = self._first[times], self._counts[times]
        return np.concatenate([np.arange(first, first + count) for first, count in zip(firsts, counts, strict=True)])


def mosaicked(pixels: np.ndarray, quality: np.ndarray, valid: np.ndarray, image_dates: np.ndarray, sensor: Sensor) -> Series:
    """The series of days from harmonised images, of which those of one day follow each other.

    At each pixel the first image counts whose observation is clear; without one the first that is complete; without one the
    first. So a pixel is the same in every window that holds it, and no pixel is made of two images.

    Args:
        pixels: (N, C, H, W); its content is overwritten.
        quality, valid: (N, H, W).
        image_dates: (N,) datetime64[D] in ascending order.
        sensor: tells what is complete.
    """
    dates, first = np.unique(image_dates, return_index=True)
    for day, (begin, end) in enumerate(zip(first, [*first[1:], len(image_dates)], strict=True)):
        rank = valid[begin:end].astype(np.int8) + sensor.observed(pixels[begin:end])
        best = rank.argmax(axis=0)[None]
        pixels[day] = np.take_along_axis(pixels[begin:end], best[:, None], axis=0)[0]
        quality[day] = np.take_along_axis(quality[begin:end], best, axis=0)[0]
        valid[day] = np.take_along_axis(valid[begin:end], best, axis=0)[0]
    days = len(dates)
    return Series(pixels=pixels[:days], quality=quality[:days], valid=valid[:days], dates=dates)
