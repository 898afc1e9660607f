"""Sites: a table of points where samples are cut, instead of all windows that tile a grid.

A site is a row of a CSV or Parquet file with the columns `id`, `lon`, `lat` (degrees, WGS 84), and optionally `year` (default:
all years of the scene), `source` (default: all sources) and `split` (default: that of the spatial block or of the scene).
`data_prep/draw_sites.py` draws such tables. A table takes some 50 bytes of memory per row: 10 million sites with all their years
and sources take 0.5 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rasterio.warp import transform_bounds

from common.errors import UNREACHABLE
from common.grid import GEOGRAPHIC
from common.storage import AnyPath, local_copy
from data_prep.archive.scene import SPLITS
from data_prep.plan.plan import PlannedSeries
from data_prep.plan.windows import Windows, windows_at

REQUIRED = {"id": pa.string(), "lon": pa.float64(), "lat": pa.float64()}
OPTIONAL = {"year": pa.int16(), "source": pa.string(), "split": pa.string()}
OUTSIDE, NO_YEAR, AT_BORDER, USED = range(4)
REASONS = {
    OUTSIDE: "the site lies outside every scene",
    NO_YEAR: "the scenes at the site have no image of its year",
    AT_BORDER: "the window around the site reaches over the border of the scene",
}
SAME_WINDOW = "another site has the same window"
ANY = -1
_PART = 100_000  # sites that are reported at a time


@dataclass(frozen=True, kw_only=True)
class Sites:
    """A table of sites as columns.

    Attributes:
        ids: strings (n,).
        lon, lat: degrees, float64 (n,).
        years: int16 (n,), -1 for all years.
        sources: index into `source_names`, int16 (n,), -1 for all sources.
        splits: index into SPLITS, int8 (n,), -1 where the table states no split.
        source_names: the sources that the table names.
    """

    ids: pa.LargeStringArray
    lon: np.ndarray
    lat: np.ndarray
    years: np.ndarray
    sources: np.ndarray
    splits: np.ndarray
    source_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lon)


def load_sites(path: AnyPath) -> Sites:
    """Read the sites of a CSV or Parquet file. Raises ValueError for missing columns and for missing or wrong values."""
    if not path.is_file():
        raise ValueError(f"table of sites {path} does not exist")
    table = _read_table(path)
    _check_values(table, path)
    source_names, sources = _codes(table, "source")
    split_names, splits = _codes(table, "split")
    unknown = sorted(set(split_names) - set(SPLITS))
    if unknown:
        raise ValueError(f"{path}: splits {unknown}; expected {', '.join(SPLITS)}, or nothing")
    split_of = np.array([SPLITS.index(name) for name in split_names] + [ANY], np.int8)  # the last entry is for -1
    has_years = "year" in table.column_names
    ids = table["id"].cast(pa.large_string())
    return Sites(
        ids=pa.concat_arrays(ids.chunks),  # in one piece, because each look-up would join the pieces
        lon=table["lon"].to_numpy(),
        lat=table["lat"].to_numpy(),
        years=pc.fill_null(table["year"], ANY).to_numpy() if has_years else np.full(len(table), ANY, np.int16),
        sources=sources,
        splits=split_of[splits],
        source_names=source_names,
    )


def _read_table(path: AnyPath) -> pa.Table:
    """Read the known columns with their types. Raises ValueError for missing columns and values of other types."""
    columns = {**REQUIRED, **OPTIONAL}
    try:
        with local_copy(path) as local:
            if path.suffix.lower() == ".csv":
                table = pa_csv.read_csv(local, convert_options=pa_csv.ConvertOptions(column_types=columns))
            else:
                table = pq.read_table(local)
        missing = sorted(set(REQUIRED) - set(table.column_names))
        if missing:
            raise ValueError(f"{path}: columns {missing} are missing; it has {table.column_names}")
        columns = {name: kind for name, kind in columns.items() if name in table.column_names}
        return table.select(list(columns)).cast(pa.schema(list(columns.items())))
    except UNREACHABLE:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table of sites (a CSV, or Parquet): {error}") from error


def _check_values(table: pa.Table, path: AnyPath) -> None:
    """Raise ValueError for a table without rows, for missing values, and for coordinates that are not degrees."""
    if not len(table):
        raise ValueError(f"{path} holds no sites")
    for name in REQUIRED:
        if table[name].null_count:
            raise ValueError(f"{path}: {table[name].null_count} of {len(table)} rows have no {name}")
    lon, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    wrong = np.flatnonzero(~((np.abs(lon) <= 180) & (np.abs(lat) <= 90)))
    if len(wrong):
        at = int(wrong[0])
        point = f"lon {lon[at]}, lat {lat[at]}"
        raise ValueError(f"{path}: site {table['id'][at]} lies at {point}; expected degrees, lon -180 to 180, lat -90 to 90")


def _codes(table: pa.Table, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct texts of a column, and the index of each row's text, int16, -1 for a row without a text."""
    if name not in table.column_names:
        return (), np.full(len(table), ANY, np.int16)
    texts = tuple(sorted(text for text in pc.unique(table[name]).to_pylist() if text))
    codes = pc.fill_null(pc.index_in(table[name], pa.array(texts, pa.string())), ANY).to_numpy()
    return texts, codes.astype(np.int16)


class SiteCutter:
    """Cuts one series after another at sites, and in the end lists the sites without a window.

    A site is used once per source and year, in the first scene that holds its whole window.
    """

    def __init__(self, sites: Sites, sources: Sequence[str]) -> None:
        self._sites = sites
        self._fate = {source: np.zeros(len(sites), np.uint8) for source in sources}
        self._used: dict[tuple[str, int], np.ndarray] = {}
        # Sites are sorted by square degree, so that a scene finds its sites without a look at all of them.
        cells = _cells(sites.lon, sites.lat)
        self._order = np.argsort(cells, kind="stable").astype(np.int32)
        self._cells = cells[self._order]

    def cut(self, series: PlannedSeries, size: int) -> tuple[Windows, Windows]:
        """Return the windows centred at the sites, snapped to pixels, and the windows of sites that repeat another's window."""
        sites, source = self._sites, series.source
        near = self._near(series)
        wanted = sites.source_names.index(source) if source in sites.source_names else ANY - 1
        near = near[np.isin(sites.sources[near], (ANY, wanted))]
        col, row = series.grid.pixels_at(sites.lon[near], sites.lat[near])
        exists = np.isfinite(col) & np.isfinite(row)
        near, col, row = near[exists], col[exists], row[exists]
        rows, cols = (np.round(at - size / 2).astype(np.int64) for at in (row, col))
        height, width = series.grid.shape
        is_inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        is_whole = (rows >= 0) & (rows + size <= height) & (cols >= 0) & (cols + size <= width)
        fate = self._fate[source]
        at_border = near[is_inside & ~is_whole]
        fate[at_border] = np.maximum(fate[at_border], AT_BORDER)
        near, rows, cols = near[is_whole], rows[is_whole], cols[is_whole]
        fate[near] = np.maximum(fate[near], NO_YEAR)

        windows = windows_at(series, size, rows, cols, near)
        years = sites.years[windows.sites]
        windows = windows.take((years == ANY) | (years == windows.years))
        windows = windows.take(~self._mark_used(source, windows))
        fate[windows.sites] = USED
        return _first_of_each(windows)

    def without_window(self) -> Iterator[tuple[str, str, pa.Array]]:
        """Yield (source, reason, ids of sites) of the sites without a window, in parts."""
        for source, fate in self._fate.items():
            wanted = self._sites.source_names.index(source) if source in self._sites.source_names else ANY - 1
            concerned = np.isin(self._sites.sources, (ANY, wanted))
            for code, reason in REASONS.items():
                numbers = np.flatnonzero(concerned & (fate == code))
                for part in np.split(numbers, range(_PART, len(numbers), _PART)):
                    if len(part):
                        yield source, reason, self.ids(part)

    def ids(self, numbers: np.ndarray) -> pa.Array:
        """Return the ids of the sites with these numbers, null for -1."""
        return self._sites.ids.take(pa.array(numbers, mask=numbers < 0)).cast(pa.string())

    def splits(self, numbers: np.ndarray) -> np.ndarray:
        """Return the index into SPLITS of the sites with these numbers, -1 where the table states no split."""
        return self._sites.splits[numbers]

    def _near(self, series: PlannedSeries) -> np.ndarray:
        """Return the numbers of the sites in the square degrees that the grid touches, ascending."""
        west, south, east, north = transform_bounds(series.grid.crs, GEOGRAPHIC, *series.grid.bounds, densify_pts=21)
        if not np.isfinite([west, south, east, north]).all():  # a corner lies outside of the projection
            return np.arange(len(self._sites))
        if east < west:  # the grid crosses the antimeridian
            east += 360
        found = []
        for lat in range(int(np.floor(south)), int(np.floor(north)) + 1):
            for lon in range(int(np.floor(west)), int(np.floor(east)) + 1):
                cell = _cells(np.array([(lon + 180) % 360 - 180]), np.array([lat]))[0]
                begin, end = np.searchsorted(self._cells, (cell, cell + 1))
                found.append(self._order[begin:end])
        return np.unique(np.concatenate(found)).astype(np.int64)

    def _mark_used(self, source: str, windows: Windows) -> np.ndarray:
        """Return True for windows whose site was used before for this source and year, and mark all of them as used."""
        was_used = np.zeros(len(windows), np.bool_)
        for year in np.unique(windows.years).tolist():
            used = self._used.setdefault((source, year), np.zeros(len(self._sites) // 8 + 1, np.uint8))  # one bit per site
            of_year = windows.years == year
            byte, bit = np.divmod(windows.sites[of_year], 8)
            was_used[of_year] = used[byte] >> bit & 1
            np.bitwise_or.at(used, byte, (1 << bit).astype(np.uint8))
        return was_used


def _first_of_each(windows: Windows) -> tuple[Windows, Windows]:
    """Return the windows without repetitions, and the repetitions."""
    keys = np.stack([windows.rows, windows.cols, windows.years], axis=1)
    first = np.zeros(len(windows), np.bool_)
    first[np.unique(keys, axis=0, return_index=True)[1]] = True
    return windows.take(first), windows.take(~first)


def _cells(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return the number of each point's square degree, int32."""
    return (np.floor(lat).astype(np.int32) + 90) * 1000 + np.floor((lon + 180) % 360).astype(np.int32)
