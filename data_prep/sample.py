"""A pretraining sample: one sequence of one source at one place in one year, with its land-cover counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.grid import Grid


@dataclass(frozen=True, kw_only=True)
class Series:
    """Images of one source over one window.

    Attributes:
        pixels: (T, C, H, W), the sensor's integer dtype, offset harmonised.
        quality: (T, H, W), the product's quality codes, untouched.
        valid: (T, H, W) bool, True where the observation is clear and complete.
        dates: (T,) datetime64[D], strictly increasing.
    """

    pixels: np.ndarray
    quality: np.ndarray
    valid: np.ndarray
    dates: np.ndarray

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4:
            raise ValueError(f"pixels have shape {self.pixels.shape}; expected (T, C, H, W)")
        frames, _, height, width = self.pixels.shape
        for name, array in (("quality", self.quality), ("valid", self.valid)):
            if array.shape != (frames, height, width):
                raise ValueError(f"{name} has shape {array.shape}; expected {(frames, height, width)} beside the pixels")
        if self.valid.dtype != np.bool_:
            raise ValueError(f"valid has dtype {self.valid.dtype}; expected bool")
        check_dates(self.dates, frames)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one key of a shard holds.

    Attributes:
        key: unique in the corpus, without dots (WebDataset ends a key at the first dot).
        source: source name.
        scene, region, split: where it was cut from.
        pixels: (T, C, H, W), the sensor's integer dtype.
        valid: (T, H, W) bool.
        dates: (T,) datetime64[D], strictly increasing.
        footprint: grid of the H x W pixels.
        legend: name of the land-cover legend.
        land_cover: (codes of the legend,) int64, pixels of the land-cover map (or clear observations) of each fine code.
        label: (H, W) integer codes of a label for fine-tuning, where samples have one.
    """

    key: str
    source: str
    scene: str
    region: str
    split: str
    pixels: np.ndarray
    valid: np.ndarray
    dates: np.ndarray
    footprint: Grid
    legend: str
    land_cover: np.ndarray
    label: np.ndarray | None = None

    def __post_init__(self) -> None:
        if "." in self.key or "/" in self.key or not self.key:
            raise ValueError(f"key {self.key!r} must hold no dot and no slash")
        if self.pixels.ndim != 4 or not np.issubdtype(self.pixels.dtype, np.integer):
            raise ValueError(f"{self.key}: pixels are {self.pixels.dtype}{self.pixels.shape}; expected integers (T, C, H, W)")
        frames, _, height, width = self.pixels.shape
        if self.valid.shape != (frames, height, width) or self.valid.dtype != np.bool_:
            raise ValueError(
                f"{self.key}: valid is {self.valid.dtype}{self.valid.shape}; expected bool {(frames, height, width)}"
            )
        if self.footprint.shape != (height, width):
            raise ValueError(f"{self.key}: footprint of {self.footprint.shape} pixels beside images of {(height, width)}")
        if self.label is not None and self.label.shape != (height, width):
            raise ValueError(f"{self.key}: label has shape {self.label.shape}; expected {(height, width)}")
        check_dates(self.dates, frames)


def check_dates(dates: np.ndarray, frames: int) -> None:
    """Raises ValueError unless `dates` are `frames` strictly increasing datetime64[D]."""
    if dates.shape != (frames,) or dates.dtype != np.dtype("datetime64[D]"):
        raise ValueError(f"dates are {dates.dtype}{dates.shape}; expected datetime64[D] ({frames},)")
    steps = np.diff(dates)
    if (steps <= np.timedelta64(0, "D")).any():
        at = int(np.argmax(steps <= np.timedelta64(0, "D")))
        raise ValueError(f"dates must increase strictly: {dates[at]} is followed by {dates[at + 1]}")
