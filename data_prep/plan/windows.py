"""Windows of a series: where samples are cut and from which dates, as columns, ordered as they are read."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from data_prep.plan.plan import PlannedSeries
from data_prep.shards.block_reader import block_shape


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Some windows of one series, each with all dates of one year.

    Attributes:
        rows, cols: upper left pixel, int64 (n,).
        years: int64 (n,).
        starts, stops: dates [start, stop) of the series, int64 (n,).
        sites: number of the site that each is at, int64 (n,), -1 for none.
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
        """Those of a mask, or of indices."""
        return Windows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def windows_at(series: PlannedSeries, size: int, rows: np.ndarray, cols: np.ndarray, sites: np.ndarray | None = None) -> Windows:
    """A window at each place (rows, cols) in each year of the series, block by block, in a block year by year."""
    dates = np.array(series.dates, dtype=np.int64).astype("datetime64[D]")
    calendar = np.unique(dates.astype("datetime64[Y]"))
    starts, stops = np.searchsorted(dates, calendar), np.searchsorted(dates, calendar + 1)
    year, place = (index.ravel() for index in np.indices((len(calendar), len(rows))))
    row, col = rows[place], cols[place]
    block_rows, block_cols = block_shape(series.chunk, size)
    order = np.lexsort((col, row, year, col // block_cols, row // block_rows))
    year, place = year[order], place[order]
    return Windows(
        rows=rows[place],
        cols=cols[place],
        years=(calendar.astype(np.int64) + 1970)[year],
        starts=starts[year],
        stops=stops[year],
        sites=np.full(len(place), -1) if sites is None else sites[place],
    )


def grid_windows(series: PlannedSeries, size: int) -> Windows:
    """The whole size x size windows of the series' grid without overlap, in each year."""
    rows, cols = (np.arange(0, extent - size + 1, size) for extent in series.grid.shape)
    return windows_at(series, size, np.repeat(rows, len(cols)), np.tile(cols, len(rows)))
