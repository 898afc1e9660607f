"""A pretraining sample: the images of one source in one window and one year, with their land-cover counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.grid import Grid
from data_prep.readers.base import check_dates


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The content of one key of a shard.

    Attributes:
        key: unique in the corpus, without dots (WebDataset ends a key at the first dot).
        source: source name.
        scene, region, split: of the scene that it was cut from.
        pixels: (T, C, H, W), the sensor's integer dtype.
        valid: (T, H, W) bool.
        dates: (T,) datetime64[D], strictly increasing.
        footprint: grid of the H x W pixels.
        legend: name of the land-cover legend.
        land_cover: (codes of the legend,) int64, number of pixels of the land-cover map (or of clear observations) of each fine
            code.
        land_cover_map: land cover on the pixels, uint8 (H, W) or uint16 (codes, H, W) (`data_prep/landcover/sample_map.py`), or
            None.
        label: (H, W) integer codes of a label for fine-tuning, or None.
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
    land_cover_map: np.ndarray | None = None
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
        if self.land_cover_map is not None and self.land_cover_map.shape[-2:] != (height, width):
            raise ValueError(f"{self.key}: land-cover map has shape {self.land_cover_map.shape}; expected {(height, width)}")
        if self.label is not None and self.label.shape != (height, width):
            raise ValueError(f"{self.key}: label has shape {self.label.shape}; expected {(height, width)}")
        check_dates(self.dates, frames)
