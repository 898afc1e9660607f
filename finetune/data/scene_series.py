"""The images of one scene over one season, read in windows of the map's grid.

Every source keeps its own grid: a window of 64 px of a 30 m map holds 64 x 64 Landsat pixels and 4 x 4 pixels of a 480 m MODIS
series. This requires aligned grids: the edges of a window must be pixel edges of every source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from typing import Final, Literal, Self

import numpy as np

from common.grid import Grid, corner_distance_px, grid_summary, grid_with_pixel_size
from common.notes import note
from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from data_prep.landcover.label_base import LabelReader
from data_prep.landcover.label_opening import grid_of_source, label_notes, open_label
from data_prep.plan.label_blocks import SplitGround
from data_prep.readers.base import SeriesReader
from data_prep.readers.opening import open_reader
from data_prep.readers.padding import read_padded
from finetune.data.image_stack import ImageStack, empty_stack
from finetune.data.map_grid import TOLERANCE, GridAlignment, align_grids
from finetune.data.season import Season, season_of_dates
from finetune.task import CLASS_DTYPE, IGNORE, Task

FINEST: Final = "finest"  # the pixel size of the finest source of a scene
BYTES_AT_ONCE = 256_000_000  # of windows that are read together
MOST_READ_IN_VAIN = 4  # pixels that are read for each one that is wanted: windows with labels may lie far apart


class NoImageError(ValueError):
    """A scene has no image of any source in the season."""


class SceneSeries:
    """The images of one scene in one season, for every source of a task.

    The constructor opens the readers to learn grids and dates, and closes them again; `with series:` opens them for reading. So
    hundreds of scenes can be in use although each may consist of hundreds of files.

    Args:
        scene: the scene.
        task: sources, season and number of frames.
        sensors: all known sensors.
        pixel_size: the map's grid is that of the finest source with pixels of this size, in units of the CRS, or with its own
            pixels (`FINEST`); None uses the grid of the scene's label.
        year: the year in which the season ends; None uses that of the label, or, where scene.yaml does not state it, the one with
            most images of the first source.

    Attributes:
        grid: the map's grid.
        year: the year in which the season ends.
        ground: the ground whose labels are used, where scenes are divided by spatial blocks; None uses all of them.
        sources: those sources of the task that the scene has.
        sensors, seasons: one per source of the task.
        grids, alignments, readers: one per source of the scene; readers only while the series is open.
        scales: pixels of a source per pixel of the map, along rows and columns, for each source of the task.
        step: windows begin at multiples of this many pixels of the map, and their sides are multiples of it.
        finest: the source with the smallest pixels among those with images in the season.

    With `missing_sources: allow` in the task, a source that the scene lacks, or that has no image in the season, gives stacks
    without images. Their size is that of the sensor's usual pixels (see `with_equal_scales`). One source must have images.

    Raises ValueError if the scene lacks a source, the label or images in the season, or if grids are not aligned; NoImageError,
    which is one, if no source has an image in the season.
    """

    def __init__(
        self,
        scene: Scene,
        task: Task,
        sensors: Mapping[str, Sensor],
        *,
        pixel_size: float | Literal["finest"] | None = None,
        year: int | None = None,
    ) -> None:
        self.scene, self.task, self._sensors = scene, task, sensors
        self.sources = _sources_of_scene(scene, task)
        self._stack = ExitStack()
        self.readers: dict[str, SeriesReader] = {}
        self.ground: SplitGround | None = None
        with self:
            self.grids = {source: reader.grid for source, reader in self.readers.items()}
            self.year = self._year(year, of_label=pixel_size is None)
            self.seasons = {source: self._season(source) for source in task.sources}
            self.sensors = {s: self.readers[s].sensor if s in self.readers else sensors[s] for s in task.sources}
        with_images = [source for source in self.sources if len(self.seasons[source].times)]
        if not with_images:
            raise NoImageError(f"scene {scene.name}: no image of any source in the season that ends in {self.year}")
        self.finest = min(with_images, key=lambda source: self.grids[source].pixel_side)
        self.grid = self._map_grid(pixel_size)
        try:
            self.alignments = {source: align_grids(self.grid, grid, source) for source, grid in self.grids.items()}
        except ValueError as error:
            raise ValueError(f"scene {scene.name}: {error}") from error
        self.step = math.lcm(*(scale.denominator for alignment in self.alignments.values() for scale in alignment.scale))
        self.scales = self._scales()

    def _year(self, year: int | None, of_label: bool) -> int:
        """The year in which the season ends; see the class.

        Raises ValueError if the series is that `of_label` and the label is of another year.
        """
        stated = self._years_of_label()
        if of_label and year is not None and stated and year not in stated:
            raise ValueError(
                f"scene {self.scene.name}: its label {self.task.label!r} is of {' and '.join(map(str, stated))}, as "
                f"{self._where_years_are_stated()}, but --year is {year}; leave --year out to use the year of each label"
            )
        dates = self.readers[self.sources[0]].dates
        if year is not None:
            return year
        if stated:
            chosen = self.task.year_among(stated, dates)
            if len(stated) > 1:
                note(
                    f"scene {self.scene.name}: its label {self.task.label!r} is of {' and '.join(map(str, stated))}; {chosen} is "
                    "used, as it has most images: state another with --year"
                )
            return chosen
        chosen, likely = self.task.year_of(dates), self.task.likely_years(dates)
        if len(likely) > 1:
            note(
                f"scene {self.scene.name}: has many images of the seasons that end in {' and '.join(map(str, likely))}; {chosen} "
                "is used, as it has most: state another with --year, or the year of a label beside it (`year` in scene.yaml)"
            )
        return chosen

    def _years_of_label(self) -> tuple[int, ...]:
        """The years that the label of the scene is of, ascending; empty without a label or where it states none."""
        label = self.scene.labels.get(self.task.label)
        if label is None or label.features is None or not label.features.has_years:
            return () if label is None or label.year is None else (label.year,)
        with self.open_label() as reader:
            return reader.years

    def _where_years_are_stated(self) -> str:
        features = self.scene.labels[self.task.label].features
        column = None if features is None else features.year_column or features.date_column
        return "scene.yaml states" if column is None else f"its column {column} states"

    def open_label(self) -> LabelReader:
        """Open the label of the scene. Raises ValueError when it cannot be read."""

        def grid_of(source: str) -> Grid:
            return self.grids[source] if source in self.grids else grid_of_source(self.scene, source, self._sensors)

        return open_label(self.scene, self.task.label, self.sources, grid_of, self.task.begins_in_year_before())

    def _season(self, source: str) -> Season:
        """The season of a source. Raises ValueError if it has no image and the task does not allow missing sources."""
        dates = self.readers[source].dates if source in self.readers else np.empty(0, "datetime64[D]")
        season = season_of_dates(dates, self.task, self.year)
        if not len(season.times) and self.task.missing_sources == "error":
            begin, end = self.task.season_of(self.year)
            others = (season_of_dates(reader.dates, self.task, self.year) for reader in self.readers.values())
            kind = ValueError if any(len(other.times) for other in others) else NoImageError
            raise kind(
                f"scene {self.scene.name}: no image of {source} between {begin} and {end}; it has {dates[0]} to {dates[-1]}"
            )
        return replace(season, upsample=self.task.upsample.get(source, 1))

    def _map_grid(self, pixel_size: float | Literal["finest"] | None) -> Grid:
        """The map's grid; see the class."""
        if pixel_size is None:
            return self._label_grid()
        own = self.grids[self.finest]
        return own if pixel_size == FINEST else grid_with_pixel_size(own, float(pixel_size))

    def _label_grid(self) -> Grid:
        """The grid of the scene's label. Raises ValueError unless it covers exactly the area of one source."""
        scene, task = self.scene, self.task
        if task.label not in scene.labels:
            raise ValueError(f"scene {scene.name} has no label {task.label!r}; it has {', '.join(scene.labels) or 'none'}")
        with self.open_label() as label:
            grid = label.grid
        # The usual mistake is a label of another tile or of another size; `align_grids` names CRSs that differ.
        misses = [corner_distance_px(other, grid) for other in self.grids.values()]
        if TOLERANCE < min(misses) < math.inf:
            found = "; ".join(f"{source}: {grid_summary(other)}" for source, other in self.grids.items())
            raise ValueError(
                f"label raster {label.label.path} ({grid_summary(grid)}) covers another area than every source of the task "
                f"({found}); put the label on the grid of one of them (no data outside, or `grid` and `resample` in "
                "scene.yaml), or name another label with --override.label"
            )
        return grid

    def _scales(self) -> dict[str, tuple[Fraction, Fraction]]:
        """Pixels per pixel of the map: from the grids, and for missing sources from the ground sampling distances."""
        scales = {source: alignment.scale for source, alignment in self.alignments.items()}
        rows, cols = scales[self.finest]
        for source in set(self.task.sources) - set(self.sources):
            factor = Fraction(self.sensors[self.finest].gsd_m / self._sensors[source].gsd_m)
            scales[source] = rows * factor, cols * factor
        return scales

    @property
    def pixel_size(self) -> float:
        """Side of the map's pixels in units of the CRS."""
        return self.grid.pixel_side

    def open(self) -> Self:
        """Open the readers, unless they are open."""
        if not self.readers:
            with ExitStack() as opened:
                for source in self.sources:
                    self.readers[source] = opened.enter_context(open_reader(self.scene, source, self._sensors))
                self._stack = opened.pop_all()
        return self

    def close(self) -> None:
        """Close the readers."""
        self.readers = {}
        self._stack.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check_window(self, size: int) -> None:
        """Raises ValueError unless windows of `size` pixels of the map hold whole pixels of every source."""
        if size % self.step:
            near = max(self.step, round(size / self.step) * self.step)
            raise ValueError(
                f"scene {self.scene.name}: windows of {size} px do not hold whole pixels of {', '.join(self.task.sources)}; "
                f"window_px must be a multiple of {self.step}, for instance --override.window_px {near}"
            )

    def stack_shape(self, source: str, height: int, width: int) -> tuple[int, int, int, int]:
        """Images, bands, rows and columns of the stack of a source over a window of height x width pixels of the map."""
        if source in self.sources:
            _, _, rows, cols = self.alignments[source].window(0, 0, height, width)
        else:
            rows, cols = (max(1, round(side * scale)) for side, scale in zip((height, width), self.scales[source], strict=True))
        return len(self.seasons[source].times), len(self.sensors[source].bands), rows, cols

    def window_bytes(self, size: int) -> int:
        """Bytes of all images of all sources over one window of size x size pixels of the map."""
        total = 0
        for source in self.sources:
            images, bands, rows, cols = self.stack_shape(source, size, size)
            total += images * rows * cols * (bands * np.dtype(self.sensors[source].dtype).itemsize + 1)
        return total

    def read(self, row: int, col: int, height: int, width: int) -> dict[str, ImageStack]:
        """The season's images of all sources over a window of the map; see `read_source`."""
        return {source: self.read_source(source, row, col, height, width) for source in self.task.sources}

    def read_source(self, source: str, row: int, col: int, height: int, width: int) -> ImageStack:
        """The season's images of one source over a window of the map, which may extend beyond the source's grid.

        The series must be open.
        """
        if source not in self.sources:
            _, bands, rows, cols = self.stack_shape(source, height, width)
            return empty_stack(bands, self.sensors[source].dtype, rows, cols)
        window = self.alignments[source].window(row, col, height, width)
        pixels, valid = read_padded(self.readers[source], window, self.seasons[source].times)
        return ImageStack(pixels=pixels, valid=valid)

    def windows(self, rows: list[int], cols: list[int], size: int) -> Iterator[tuple[int, int, dict[str, ImageStack]]]:
        """(row, col, stacks) of the windows that begin at every pair of `rows` and `cols`, row by row; see `windows_at`."""
        corners = [(row, col) for row in rows for col in cols]
        return ((row, col, stacks) for (row, col), stacks in zip(corners, self.windows_at(corners, size), strict=True))

    def windows_at(self, corners: Sequence[tuple[int, int]], size: int) -> Iterator[dict[str, ImageStack]]:
        """The stacks of the windows that begin at `corners` (row, col), in ascending order.

        Neighbouring windows are read together, as many as fit into `BYTES_AT_ONCE`: an archive may hold one file per band and
        date, and to open each file for each window takes longer than to read it.
        """
        for block in _blocks(corners, size, max(1, BYTES_AT_ONCE // max(1, self.window_bytes(size)))):
            (top, left), (bottom, right) = (edge(block, axis=0).tolist() for edge in (np.min, np.max))
            stacks = self.read(top, left, bottom - top + size, right - left + size)
            for row, col in block:
                yield {source: self._cut(source, stack, row - top, col - left, size) for source, stack in stacks.items()}

    def _cut(self, source: str, stack: ImageStack, row: int, col: int, size: int) -> ImageStack:
        """A window of `stack`; `row` and `col` count pixels of the map from the upper left corner of the stack."""
        if source not in self.sources:
            return self.read_source(source, row, col, size, size)
        scale = self.alignments[source].scale
        top, left, height, width = GridAlignment(scale, (0, 0)).window(row, col, size, size)
        inside = np.s_[..., top : top + height, left : left + width]
        return ImageStack(pixels=stack.pixels[inside], valid=stack.valid[inside])


def _blocks(corners: Sequence[tuple[int, int]], size: int, at_once: int) -> Iterator[list[tuple[int, int]]]:
    """Divide windows, in ascending order, into runs that are read together.

    The rectangle around a run has the area of at most `at_once` windows, and at most `MOST_READ_IN_VAIN` times that of its own.
    """
    run: list[tuple[int, int]] = []
    top = bottom = left = right = 0
    for row, col in corners:
        if run:
            sides = max(bottom, row) - min(top, row), max(right, col) - min(left, col)
            if (sides[0] / size + 1) * (sides[1] / size + 1) > min(at_once, MOST_READ_IN_VAIN * (len(run) + 1)):
                yield run
                run = []
        if not run:
            top, bottom, left, right = row, row, col, col
        run.append((row, col))
        top, bottom, left, right = min(top, row), max(bottom, row), min(left, col), max(right, col)
    if run:
        yield run


def read_classes(series: SceneSeries) -> np.ndarray:
    """The label of a series' scene as class indices, int16 (H, W) on the map's grid, `IGNORE` where not labelled.

    Pixels outside of the series' ground are not labelled.
    """
    with series.open_label() as label:
        classes = _class_indices(series, label, 0, 0, *label.grid.shape)
        for text in label_notes(label.label, label.counts(series.year), series.scene):
            note(text)
        return classes


def read_classes_of_window(series: SceneSeries, row: int, col: int, height: int, width: int) -> np.ndarray | None:
    """As `read_classes`, of a window of the map; None without a label of the map's grid and year."""
    if series.task.label not in series.scene.labels:
        return None
    with series.open_label() as label:
        if label.grid.shape != series.grid.shape or corner_distance_px(label.grid, series.grid) > TOLERANCE:
            return None
        if label.years and series.year not in label.years:
            return None
        return _class_indices(series, label, row, col, height, width)


def _class_indices(series: SceneSeries, label: LabelReader, row: int, col: int, height: int, width: int) -> np.ndarray:
    codes = label.read(row, col, height, width, series.year)
    classes = series.task.class_indices(codes, label.label).astype(CLASS_DTYPE)
    if series.ground is not None:
        classes[~series.ground.of_split(series.grid, classes != IGNORE, row, col)] = IGNORE
    return classes


def with_equal_scales(series: list[SceneSeries]) -> list[SceneSeries]:
    """The same scene series; a source that one scene lacks gets the scale that it has in another, so that windows fit a batch."""
    known = {source: one.scales[source] for one in reversed(series) for source in one.sources}
    for one in series:
        one.scales |= {source: scale for source, scale in known.items() if source not in one.sources}
    return series


def _sources_of_scene(scene: Scene, task: Task) -> tuple[str, ...]:
    """The sources of the task that the scene has. Raises ValueError if it lacks a source and the task does not allow that."""
    sources = tuple(source for source in task.sources if source in scene.sources)
    if not sources or (sources != task.sources and task.missing_sources == "error"):
        missing = [source for source in task.sources if source not in scene.sources]
        raise ValueError(
            f"scene {scene.name} has no {' and no '.join(missing)}, which the task needs; it has {', '.join(scene.sources)}; "
            "choose others with --override.sources"
            + (", or allow missing sources with --missing_sources allow" if sources else "")
        )
    return sources
