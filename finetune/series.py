"""The series of one scene over one season, cut into windows of the map's grid.

Every source stays on its own grid: a 64 px window of a 30 m map is 64 x 64 Landsat pixels and 4 x 4 of a 480 m MODIS series.
That needs grids that nest: a window's edges must fall on pixel edges of every source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS

from data_prep.grid import Grid
from data_prep.readers import SeriesReader, open_reader
from data_prep.scene import Scene
from data_prep.sensors import Sensor
from finetune.task import Task

BLOCK_BYTES = 256_000_000
# Pixel edges may miss each other by this share of a source pixel: grids written with rounded coordinates still nest.
TOLERANCE = 0.02
LARGEST_FACTOR = 256  # between pixels of a source and of the map


@dataclass(frozen=True, kw_only=True)
class Clip:
    """All images of the season of one source over one window.

    Attributes:
        pixels: (N, C, H, W), the sensor's integer dtype, N images of the season.
        valid: (N, H, W) bool, False also where the window reaches outside the source's grid.
    """

    pixels: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Season:
    """When the images of a clip were taken, and how they become the frames of a model.

    Attributes:
        times: (N,) indices of the reader's dates that lie in the season.
        days: (N,) days from the season's beginning to noon of each.
        length: days of the season.
        periods: number of equal periods it is dealt into (the model's frames).
        upsample: how often pixels are repeated along rows and columns.
        seen_days: days of the season that have passed; images of later days are not there yet and are never chosen.
    """

    times: np.ndarray
    days: np.ndarray
    length: int
    periods: int
    upsample: int = 1
    seen_days: float = math.inf

    def choose(self, valid: np.ndarray, rng: np.random.Generator | None = None, shift: float = 0.0) -> np.ndarray:
        """One image a period: valid (N, H, W) -> indices (periods,) into the clip, -1 where the period has none.

        Without `rng` the clearest image of each period, the one nearest to its middle among equals; with `rng` a random one
        of those with any clear pixel, so that training sees other dates in every epoch. `shift`: days by which every image is
        taken to be later.
        """
        position = (self.days + shift) / (self.length / self.periods)
        off_centre = np.abs(position % 1 - 0.5)
        clear = valid.reshape(len(valid), -1).mean(axis=1)
        seen = self.days < self.seen_days
        chosen = np.full(self.periods, -1)
        for period in range(self.periods):
            candidates = np.flatnonzero((np.floor(position) == period) & (clear > 0) & seen)
            if len(candidates):
                best = np.lexsort((off_centre[candidates], -clear[candidates]))[0]
                chosen[period] = candidates[best] if rng is None else rng.choice(candidates)
        return chosen


def season_of_dates(dates: np.ndarray, task: Task, year: int) -> Season:
    """The images of `dates` (datetime64[D]) in the season that ends in `year`."""
    first, end = task.season_of(year)
    times = np.flatnonzero((dates >= first) & (dates < end))
    days = (dates[times] - first).astype(int) + 0.5
    return Season(times=times, days=days, length=int((end - first).astype(int)), periods=task.frames)


def seen_until(seasons: Mapping[str, Season], days: float) -> dict[str, Season]:
    """The seasons of all sources as they are known when `days` of them have passed: periods after that are empty."""
    return {source: replace(season, seen_days=days) for source, season in seasons.items()}


@dataclass(frozen=True)
class Nesting:
    """Where a pixel of the map lies in a source's grid: source = map * scale + offset, in pixels."""

    scale: tuple[Fraction, Fraction]
    offset: tuple[int, int]

    def window(self, row: int, col: int, height: int, width: int) -> tuple[int, int, int, int]:
        """A window of the map in pixels of the source. The window must be a multiple of the nesting step."""
        rows, cols = self.scale
        values = row * rows + self.offset[0], col * cols + self.offset[1], height * rows, width * cols
        assert all(value.denominator == 1 for value in values), f"window {row, col, height, width} does not nest"
        return tuple(int(value) for value in values)  # type: ignore[return-value]  # four of them


def nest(grid: Grid, source_grid: Grid, source: str) -> Nesting:
    """How `source_grid` nests with the map's `grid`. Raises ValueError when pixel edges do not meet."""
    if CRS.from_user_input(grid.crs) != CRS.from_user_input(source_grid.crs):
        raise ValueError(
            f"the map's grid is in {short_crs(grid.crs)}, {source} in {short_crs(source_grid.crs)}; both must have one CRS: "
            "reproject one of them"
        )
    to_source = ~source_grid.transform @ grid.transform
    scale = tuple(Fraction(value).limit_denominator(LARGEST_FACTOR) for value in (to_source.e, to_source.a))
    offset = round(to_source.f), round(to_source.c)
    drift = max(abs(to_source.e - scale[0]) * grid.height, abs(to_source.a - scale[1]) * grid.width)
    miss = max(abs(to_source.f - offset[0]), abs(to_source.c - offset[1]))
    if abs(to_source.b) + abs(to_source.d) > 1e-9 or min(scale) <= 0 or drift > TOLERANCE or miss > TOLERANCE:
        raise ValueError(
            f"pixels of {source} ({describe(source_grid)}) do not nest with the map's grid ({describe(grid)}): "
            "their edges must meet; resample one of them"
        )
    return Nesting((scale[0], scale[1]), offset)


def short_crs(crs: str) -> str:
    """`EPSG:n` where there is such a code, for messages."""
    return CRS.from_user_input(crs).to_string()[:40]


def describe(grid: Grid) -> str:
    """Size, pixel size and origin of a grid, for messages."""
    return (
        f"{grid.height} x {grid.width} px of {abs(grid.transform.a):g} from ({grid.transform.c:.1f}, {grid.transform.f:.1f}) "
        f"in {short_crs(grid.crs)}"
    )


def raster_grid(path: Path) -> Grid:
    """The grid of a raster file. Raises ValueError when it is missing, unreadable or has no CRS."""
    if not path.is_file():
        raise ValueError(f"label raster {path} does not exist")
    try:
        with rasterio.open(path) as raster:
            if raster.crs is None:
                raise ValueError(f"label raster {path} has no coordinate reference system")
            return Grid(crs=raster.crs.to_string(), transform=raster.transform, height=raster.height, width=raster.width)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"label raster {path} cannot be read: {error}") from error


def grid_of_pixel(source_grid: Grid, pixel: float) -> Grid:
    """A grid over the same footprint with another pixel size (in units of the CRS); the same grid where sizes agree.

    Raises ValueError when sizes differ so much that they must be in different units: metres and degrees.
    """
    factor = pixel / abs(source_grid.transform.a)
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise ValueError(
            f"the model maps pixels of {pixel:g}; the scene ({describe(source_grid)}) has another unit: bring it into a CRS with "
            "the unit of the scenes that the model was trained on"
        )
    if abs(factor - 1) < 1e-6:
        return source_grid
    height, width = max(1, round(source_grid.height / factor)), max(1, round(source_grid.width / factor))
    return Grid(crs=source_grid.crs, transform=source_grid.transform @ Affine.scale(factor), height=height, width=width)


class SceneSeries:
    """The sources of one scene over windows of the map's grid.

    Making one opens the readers to learn grids and dates, and closes them again; `with series:` opens them for reading. So
    hundreds of scenes can be known at a time, though each may be hundreds of files.

    Args:
        scene: the scene.
        task: says which sources, season and frames.
        sensors: all known sensors.
        label: take the map's grid from the scene's label raster; otherwise from the finest source with pixels of `pixel`.
        year: the year in which the season ends; None takes the one with most images of the first source.

    Attributes:
        grid: the map's grid.
        sensors, grids, seasons, nestings, readers: one a source; readers only while open.
        step: windows begin at multiples of this many pixels of the map, and so large are their sides multiples of.
        finest: the source with the smallest pixels.

    Raises ValueError when the scene lacks a source or the label, has no image in the season, or grids do not nest.
    """

    def __init__(
        self,
        scene: Scene,
        task: Task,
        sensors: Mapping[str, Sensor],
        *,
        pixel: float | None = None,
        year: int | None = None,
    ) -> None:
        missing = [source for source in task.sources if source not in scene.sources]
        if missing:
            raise ValueError(
                f"scene {scene.name} has no {' and no '.join(missing)}, which the task needs; it has {', '.join(scene.sources)}; "
                "choose others with --sources"
            )
        self.scene, self.task, self._sensors = scene, task, sensors
        self._stack = ExitStack()
        self.readers: dict[str, SeriesReader] = {}
        with self:
            first = self.readers[task.sources[0]]
            self.year = task.year_of(first.dates) if year is None else year
            self.seasons = {
                source: replace(season_of_dates(reader.dates, task, self.year), upsample=task.upsample.get(source, 1))
                for source, reader in self.readers.items()
            }
            for source, season in self.seasons.items():
                if not len(season.times):
                    begin, end = task.season_of(self.year)
                    dates = self.readers[source].dates
                    raise ValueError(
                        f"scene {scene.name}: no image of {source} between {begin} and {end}; it has {dates[0]} to {dates[-1]}"
                    )
            self.sensors = {source: reader.sensor for source, reader in self.readers.items()}
            self.grids = {source: reader.grid for source, reader in self.readers.items()}
        self.finest = min(task.sources, key=lambda source: abs(self.grids[source].transform.a))
        self.grid = self._label_grid() if pixel is None else grid_of_pixel(self.grids[self.finest], pixel)
        try:
            self.nestings = {source: nest(self.grid, grid, source) for source, grid in self.grids.items()}
        except ValueError as error:
            raise ValueError(f"scene {scene.name}: {error}") from error
        self.step = math.lcm(*(scale.denominator for nesting in self.nestings.values() for scale in nesting.scale))

    def __enter__(self) -> Self:
        """Open the readers, unless they are."""
        if not self.readers:
            with ExitStack() as opened:
                for source in self.task.sources:
                    self.readers[source] = opened.enter_context(open_reader(self.scene, source, self._sensors))
                self._stack = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.readers = {}
        self._stack.close()

    def _label_grid(self) -> Grid:
        scene, task = self.scene, self.task
        if task.label not in scene.labels:
            raise ValueError(f"scene {scene.name} has no label {task.label!r}; it has {', '.join(scene.labels) or 'none'}")
        path = scene.labels[task.label].path
        grid = raster_grid(path)
        # One source must cover exactly what the label covers: the usual mistake is a label of another tile or another size.
        if not any(
            np.allclose(grid.bounds, other.bounds, rtol=0, atol=TOLERANCE * abs(grid.transform.a))
            for other in self.grids.values()
        ):
            found = "; ".join(f"{source}: {describe(other)}" for source, other in self.grids.items())
            raise ValueError(
                f"label raster {path} ({describe(grid)}) covers another area than every source of the task ({found}); "
                "put the label on the grid of one of them (no data outside), or name another label with --label"
            )
        return grid

    def check_window(self, size: int) -> None:
        """Raises ValueError unless windows of `size` pixels of the map hold whole pixels of every source."""
        if size % self.step:
            near = max(self.step, round(size / self.step) * self.step)
            raise ValueError(
                f"scene {self.scene.name}: windows of {size} px do not hold whole pixels of {', '.join(self.task.sources)}; "
                f"window_px must be a multiple of {self.step}, for instance --window_px {near}"
            )

    def window_bytes(self, size: int) -> int:
        """Bytes of all images of all sources over one window of size x size pixels of the map."""
        total = 0
        for source, sensor in self.sensors.items():
            _, _, height, width = self.nestings[source].window(0, 0, size, size)
            itemsize = np.dtype(sensor.dtype).itemsize
            total += len(self.seasons[source].times) * height * width * (len(sensor.bands) * itemsize + 1)
        return total

    def read(self, row: int, col: int, height: int, width: int) -> dict[str, Clip]:
        """The season's images over a window of the map, which may reach outside: invalid there. Only while open."""
        return {source: self.read_source(source, row, col, height, width) for source in self.task.sources}

    def read_source(self, source: str, row: int, col: int, height: int, width: int) -> Clip:
        """The season's images of one source over a window of the map."""
        return read_padded(
            self.readers[source], self.nestings[source].window(row, col, height, width), self.seasons[source].times
        )

    def windows(self, rows: list[int], cols: list[int], size: int) -> Iterator[tuple[int, int, dict[str, Clip]]]:
        """(row, col, clips) of the windows that begin at every pair of `rows` and `cols`, row by row.

        Neighbours are read together, as many as fit into some 256 MB: archives hold one file a band and date, and to open each
        of them for each window costs more than to read it.
        """
        at_once = max(1, BLOCK_BYTES // self.window_bytes(size))
        rows_at_once = max(1, at_once // len(cols))
        cols_at_once = min(at_once, len(cols))
        for r in range(0, len(rows), rows_at_once):
            some_rows = rows[r : r + rows_at_once]
            for c in range(0, len(cols), cols_at_once):
                some_cols = cols[c : c + cols_at_once]
                top, left = some_rows[0], some_cols[0]
                block = self.read(top, left, some_rows[-1] - top + size, some_cols[-1] - left + size)
                for row in some_rows:
                    for col in some_cols:
                        yield (
                            row,
                            col,
                            {source: self._cut(source, block[source], row - top, col - left, size) for source in block},
                        )

    def _cut(self, source: str, clip: Clip, row: int, col: int, size: int) -> Clip:
        scale = self.nestings[source].scale
        top, left, height, width = Nesting(scale, (0, 0)).window(row, col, size, size)
        inside = np.s_[..., top : top + height, left : left + width]
        return Clip(pixels=clip.pixels[inside], valid=clip.valid[inside])


def read_padded(reader: SeriesReader, window: tuple[int, int, int, int], times: np.ndarray) -> Clip:
    """Images over a window (row, col, height, width) of the reader's grid that may reach outside: no data there."""
    row, col, height, width = window
    sensor = reader.sensor
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + height, reader.grid.height), min(col + width, reader.grid.width)
    pixels = np.full((len(times), len(sensor.bands), height, width), sensor.nodata, dtype=sensor.dtype)
    valid = np.zeros((len(times), height, width), dtype=bool)
    if bottom > top and right > left:
        series = reader.read(top, left, bottom - top, right - left, times)
        inside = np.s_[..., top - row : bottom - row, left - col : right - col]
        pixels[inside], valid[inside] = series.pixels, series.valid
    return Clip(pixels=pixels, valid=valid)
