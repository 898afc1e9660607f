"""Candidate samples of a series: the windows to plan with their splits, and those to reject with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_prep.archive.scene import SPLITS
from data_prep.landcover.band_years import years_in_words
from data_prep.plan.sites import ANY, SAME_WINDOW, SiteCutter
from data_prep.plan.splits import SpatialBlocks
from data_prep.plan.survey import Surveyed
from data_prep.plan.windows import Windows, grid_windows, windows_at

FEW_FRAMES = "fewer than {} dates in the year"
OTHER_YEARS = "the land-cover map is of {}; take its nearest year with nearest_year"
WINDOW_TOO_LARGE = "a window of {size} x {size} px is larger than the scene, {height} x {width} px"


def candidates(found: Surveyed, size: int, min_frames: int, cutter: SiteCutter | None) -> Iterator[tuple[Windows, str | None]]:
    """Yield windows of `size` x `size` pixels to plan with None, and windows to reject with the reason, each in reading order.

    With a `cutter`, windows lie at sites, else they tile the grid. `min_frames`: fewest dates of a window to plan.
    """
    series, reason = found.series, found.reason
    if cutter is not None and series.grid.georeferenced:
        windows, repeated = cutter.cut(series, size)
        yield repeated, SAME_WINDOW
    elif min(series.grid.shape) >= size:
        windows = grid_windows(series, size)
    else:
        windows = windows_at(series, size, np.zeros(1, np.int64), np.zeros(1, np.int64))
        reason = WINDOW_TOO_LARGE.format(size=size, height=series.grid.height, width=series.grid.width)
    if reason is not None:
        yield windows, reason
        return
    if found.cover_years is not None:
        outside = ~np.isin(windows.years, found.cover_years)
        yield windows.take(outside), OTHER_YEARS.format(years_in_words(found.cover_years))
        windows = windows.take(~outside)
    few = windows.stops - windows.starts < min_frames
    yield windows.take(few), FEW_FRAMES.format(min_frames)
    yield windows.take(~few), None


def candidate_splits(
    found: Surveyed, size: int, windows: Windows, blocks: SpatialBlocks | None, cutter: SiteCutter | None
) -> np.ndarray:
    """Return the split of each candidate window: its index into SPLITS, or IN_BUFFER, int8 (n,).

    The table of sites decides where it states a split, else the spatial blocks, else the scene.
    """
    if blocks is None:
        splits = np.full(len(windows), SPLITS.index(found.split), np.int8)
    else:
        splits = blocks.of_places(*found.series.grid.lon_lat(windows.rows + size / 2, windows.cols + size / 2))
    if cutter is None:
        return splits
    stated = cutter.splits(windows.sites)
    return np.where(stated == ANY, splits, stated)
