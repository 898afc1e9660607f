"""The land-cover map of a sample: land cover on the pixels of the sample, the member `landcover_map.npy` of shards.

It has one of two forms. `map_layout` alone decides which, by the nominal pixel size of the sensor, so that all samples of a
source have the same form:

- codes, uint8 (H, W): position of each pixel's code in the legend's `codes`, or NOT_MAPPED;
- counts, uint16 (codes, H, W), for coarse sensors: number of cells of the map (or of clear observations) of each code in each
  pixel. A pixel without counts is not mapped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.landcover.base import LandCoverReader, SampleWindow
from data_prep.landcover.legend import Legend
from data_prep.readers.base import Series

NOT_MAPPED = 255  # in maps of codes
MOST_CODES = NOT_MAPPED  # positions of codes are below NOT_MAPPED
COARSE_GSD_M = 100.0  # a larger pixel holds dozens of cells of the usual maps of 10 to 30 m, and one code would not describe it


@dataclass(frozen=True)
class MapLayout:
    """Form of the maps of one source with one legend.

    Attributes:
        dtype: uint8 for codes, uint16 for counts.
        shape: (H, W) for codes, (codes of the legend, H, W) for counts.
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def has_counts(self) -> bool:
        """Return True for counts per pixel, False for one code per pixel."""
        return len(self.shape) == 3

    @property
    def nbytes(self) -> int:
        """Return the bytes of a map."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def nothing(self) -> int:
        """Return the number that fills the map of a sample without any mapped pixel."""
        return 0 if self.has_counts else NOT_MAPPED

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `map_layout_from_dict` is the inverse."""
        return {"dtype": self.dtype.name, "shape": list(self.shape)}


def map_layout_from_dict(values: Mapping[str, Any]) -> MapLayout:
    """Inverse of `MapLayout.to_dict`."""
    return MapLayout(np.dtype(values["dtype"]), tuple(values["shape"]))


def check_number_of_codes(legend: Legend) -> None:
    """Raise ValueError for a legend with more codes than maps of codes can hold."""
    if len(legend.codes) > MOST_CODES:
        raise ValueError(
            f"legend {legend.name} has {len(legend.codes)} codes, and the land-cover maps of samples know {MOST_CODES}: give a "
            "legend of fewer codes, or shard with --land_cover_maps false"
        )


def map_layout(sensor: Sensor, legend: Legend) -> MapLayout:
    """Return the form of the maps of a sensor's samples with this legend."""
    side = sensor.chip_px
    if sensor.gsd_m > COARSE_GSD_M:
        return MapLayout(np.dtype(np.uint16), (len(legend.codes), side, side))
    return MapLayout(np.dtype(np.uint8), (side, side))


def counts_and_map(
    land_cover: LandCoverReader, legend: Legend, layout: MapLayout | None, window: SampleWindow, series: Series | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the counts of fine codes in the footprint of a sample, int64 (codes,), and its map; None without a `layout`.

    `series`: images of the window, for land cover from their quality layer. A sample without counts has no map, since it is
    rejected. Raises what the reader and `Legend.count` raise, and ValueError for counts that do not fit the layout.
    """
    codes = land_cover.codes(window, series)
    counts = legend.count(codes)
    if layout is None or not counts.any():
        return counts, None
    if not layout.has_counts:
        positions = legend.positions(land_cover.pixel_codes(window, series, codes))
        return counts, np.where(positions < 0, NOT_MAPPED, positions).astype(layout.dtype)
    shape = layout.shape[1:]
    if codes.shape[-2] < shape[0] or codes.shape[-1] < shape[1]:  # cells larger than pixels: some pixels hold no cell's centre
        codes = land_cover.pixel_codes(window, series, codes)
    by_pixel = counts_by_pixel(legend, codes, shape)
    most = np.iinfo(layout.dtype).max
    if by_pixel.max() > most:
        raise ValueError(
            f"a pixel holds {by_pixel.max()} cells of land cover, and landcover_map.npy counts up to {most}: "
            "give a coarser map, or shard with --land_cover_maps false"
        )
    return counts, by_pixel.astype(layout.dtype)


def counts_by_pixel(legend: Legend, codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Count the cells of each code in each pixel: codes (..., rows, columns) -> int64 (codes of the legend, H, W).

    The cells fill the footprint, and each belongs to the pixel in which its centre lies. `shape`: (H, W).
    """
    height, width = shape
    positions = legend.positions(codes)
    rows, cols = (
        (2 * np.arange(cells) + 1) * pixels // (2 * cells) for cells, pixels in zip(codes.shape[-2:], shape, strict=True)
    )
    places = positions * (height * width) + rows[:, None] * width + cols
    counted = np.bincount(places[positions >= 0], minlength=len(legend.codes) * height * width)
    return counted.reshape(len(legend.codes), height, width)
