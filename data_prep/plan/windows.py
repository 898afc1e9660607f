"""Windows of a series: where samples are cut and from which dates, as columns in the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from data_prep.plan.chunk_groups import chunk_group_shape
from data_prep.plan.plan import PlannedSeries


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Some windows of one series, each with all dates of one year.

    Attributes:
        rows, cols: upper left pixel, int64 (n,).
        years: int64 (n,).
        starts, stops: dates [start, stop) of the series, int64 (n,).
        sites: number of each window's site, int64 (n,), -1 for a window without a site.
    """

    rows: np.ndarray
    cols: np.ndarray
    years: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    sites: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> Windows:
        """Return the windows of a mask, or of indices."""
        return Windows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def windows_at(series: PlannedSeries, size: int, rows: np.ndarray, cols: np.ndarray, sites: np.ndarray | None = None) -> Windows:
    """Return a window at each (row, col) in each year of the series, ordered by chunk group, then year, then row and column."""
    dates = np.array(series.dates, dtype=np.int64).astype("datetime64[D]")
    calendar = np.unique(dates.astype("datetime64[Y]"))
    starts, stops = np.searchsorted(dates, calendar), np.searchsorted(dates, calendar + 1)
    year, position = (index.ravel() for index in np.indices((len(calendar), len(rows))))
    row, col = rows[position], cols[position]
    group_rows, group_cols = chunk_group_shape(series.chunk, size)
    order = np.lexsort((col, row, year, col // group_cols, row // group_rows))
    year, position = year[order], position[order]
    return Windows(
        rows=rows[position],
        cols=cols[position],
        years=(calendar.astype(np.int64) + 1970)[year],
        starts=starts[year],
        stops=stops[year],
        sites=np.full(len(position), -1) if sites is None else sites[position],
    )


def grid_windows(series: PlannedSeries, size: int) -> Windows:
    """Return the windows of `size` x `size` pixels that tile the grid of a planned series without overlap, in each year."""
    rows, cols = (np.arange(0, extent - size + 1, size) for extent in series.grid.shape)
    return windows_at(series, size, np.repeat(rows, len(cols)), np.tile(cols, len(rows)))
