"""The series of one scene over one season, cut into windows of the map's grid.

Every source stays on its own grid: a 64 px window of a 30 m map is 64 x 64 Landsat pixels and 4 x 4 of a 480 m MODIS series.
That needs grids that nest: a window's edges must fall on pixel edges of every source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from typing import Self

import numpy as np

from common.grid import Grid
from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import SeriesReader
from data_prep.readers.opening import open_reader
from finetune.data.map_grid import TOLERANCE, Nesting, describe, grid_of_pixel, nest, raster_grid
from finetune.data.season import Clip, Season, no_images, season_of_dates
from finetune.task import Task

BLOCK_BYTES = 256_000_000


class SceneSeries:
    """The sources of one scene over windows of the map's grid.

    Making one opens the readers to learn grids and dates, and closes them again; `with series:` opens them for reading. So
    hundreds of scenes can be known at a time, though each may be hundreds of files.

    Args:
        scene: the scene.
        task: says which sources, season and frames.
        sensors: all known sensors.
        pixel: the map's grid is that of the finest source with pixels of this size; None takes that of the scene's label.
        year: the year in which the season ends; None takes the one with most images of the first source.

    Attributes:
        grid: the map's grid.
        sources: those of the task that the scene has.
        sensors, seasons: one a source of the task.
        grids, nestings, readers: one a source of the scene; readers only while open.
        scales: of each source of the task its pixels a pixel of the map, along rows and columns.
        step: windows begin at multiples of this many pixels of the map, and so large are their sides multiples of.
        finest: the source with the smallest pixels, of those with images in the season.

    With the task's `missing_sources: allow` a source that the scene lacks, or that has no image in the season, has no images: its
    clips are empty and of the size that a usual sensor of its kind has there (see `with_equal_sizes`). One source must be there.

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
        self.sources = tuple(source for source in task.sources if source in scene.sources)
        if not self.sources or (self.sources != task.sources and task.missing_sources == "error"):
            missing = [source for source in task.sources if source not in scene.sources]
            raise ValueError(
                f"scene {scene.name} has no {' and no '.join(missing)}, which the task needs; it has {', '.join(scene.sources)}; "
                "choose others with --sources" + (", or do without with --missing_sources allow" if self.sources else "")
            )
        self.scene, self.task, self._sensors = scene, task, sensors
        self._stack = ExitStack()
        self.readers: dict[str, SeriesReader] = {}
        with self:
            first = self.readers[self.sources[0]]
            self.year = task.year_of(first.dates) if year is None else year
            self.seasons = {source: self._season(source) for source in task.sources}
            self.sensors = {s: self.readers[s].sensor if s in self.readers else sensors[s] for s in task.sources}
            self.grids = {source: reader.grid for source, reader in self.readers.items()}
        if not any(len(season.times) for season in self.seasons.values()):
            raise ValueError(f"scene {scene.name}: no image of any source in the season that ends in {self.year}")
        seen = [source for source in self.sources if len(self.seasons[source].times)]
        self.finest = min(seen, key=lambda source: abs(self.grids[source].transform.a))
        self.grid = self._label_grid() if pixel is None else grid_of_pixel(self.grids[self.finest], pixel)
        try:
            self.nestings = {source: nest(self.grid, grid, source) for source, grid in self.grids.items()}
        except ValueError as error:
            raise ValueError(f"scene {scene.name}: {error}") from error
        self.step = math.lcm(*(scale.denominator for nesting in self.nestings.values() for scale in nesting.scale))
        self.scales = {source: nesting.scale for source, nesting in self.nestings.items()}
        known = self.sensors[self.finest].gsd_m
        for source in set(task.sources) - set(self.sources):
            factor = Fraction(known / sensors[source].gsd_m)
            self.scales[source] = (self.scales[self.finest][0] * factor, self.scales[self.finest][1] * factor)

    def _season(self, source: str) -> Season:
        """The season's images of a source. Raises ValueError where there are none and the task does not do without."""
        dates = self.readers[source].dates if source in self.readers else np.empty(0, "datetime64[D]")
        season = season_of_dates(dates, self.task, self.year)
        if not len(season.times) and self.task.missing_sources == "error":
            begin, end = self.task.season_of(self.year)
            raise ValueError(
                f"scene {self.scene.name}: no image of {source} between {begin} and {end}; it has {dates[0]} to {dates[-1]}"
            )
        return replace(season, upsample=self.task.upsample.get(source, 1))

    @property
    def pixel(self) -> float:
        """Side of the map's pixels in units of the CRS, to a millionth of it."""
        return round(abs(self.grid.transform.a), 6)

    def __enter__(self) -> Self:
        """Open the readers, unless they are."""
        if not self.readers:
            with ExitStack() as opened:
                for source in self.sources:
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
        for source in self.sources:
            sensor = self.sensors[source]
            _, _, height, width = self.nestings[source].window(0, 0, size, size)
            itemsize = np.dtype(sensor.dtype).itemsize
            total += len(self.seasons[source].times) * height * width * (len(sensor.bands) * itemsize + 1)
        return total

    def read(self, row: int, col: int, height: int, width: int) -> dict[str, Clip]:
        """The season's images over a window of the map, which may reach outside: invalid there. Only while open."""
        return {source: self.read_source(source, row, col, height, width) for source in self.task.sources}

    def read_source(self, source: str, row: int, col: int, height: int, width: int) -> Clip:
        """The season's images of one source over a window of the map."""
        if source not in self.sources:
            rows, cols = (max(1, round(side * scale)) for side, scale in zip((height, width), self.scales[source], strict=True))
            return no_images(len(self.sensors[source].bands), self.sensors[source].dtype, rows, cols)
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
        if source not in self.sources:
            return self.read_source(source, row, col, size, size)
        scale = self.nestings[source].scale
        top, left, height, width = Nesting(scale, (0, 0)).window(row, col, size, size)
        inside = np.s_[..., top : top + height, left : left + width]
        return Clip(pixels=clip.pixels[inside], valid=clip.valid[inside])


def with_equal_sizes(series: list[SceneSeries]) -> list[SceneSeries]:
    """The same series; a source that one lacks gets there the size that it has in another, so that windows can be stacked."""
    known = {source: one.scales[source] for one in reversed(series) for source in one.sources}
    for one in series:
        one.scales |= {source: scale for source, scale in known.items() if source not in one.sources}
    return series


def read_padded(reader: SeriesReader, window: tuple[int, int, int, int], times: np.ndarray) -> Clip:
    """Images over a window (row, col, height, width) of the reader's grid that may reach outside: no data there."""
    row, col, height, width = window
    sensor = reader.sensor
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + height, reader.grid.height), min(col + width, reader.grid.width)
    pixels = np.full((len(times), len(sensor.bands), height, width), sensor.nodata, dtype=sensor.dtype)
    valid = np.zeros((len(times), height, width), dtype=bool)
    if len(times) and bottom > top and right > left:
        series = reader.read(top, left, bottom - top, right - left, times)
        inside = np.s_[..., top - row : bottom - row, left - col : right - col]
        pixels[inside], valid[inside] = series.pixels, series.valid
    return Clip(pixels=pixels, valid=valid)
