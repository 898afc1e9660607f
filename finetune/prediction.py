"""What finetune/predict.py does: the map of one scene, or of a region of several, with pictures and polygons."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.exit_codes import INFRASTRUCTURE, USER_ERROR
from common.grid import Grid
from common.run_lock import LOCK, RunLock
from common.storage import AnyPath
from finetune.data.scene_series import SceneSeries
from finetune.mapping.cog import count_classes, fields_paths, probabilities_path, remove_files_of_another_map
from finetune.mapping.finished_map import FinishedMap
from finetune.mapping.model_series import series_for_model
from finetune.mapping.mosaic_grid import MosaicOptions, mosaic_grid
from finetune.mapping.outlines import PolygonOptions
from finetune.mapping.polygons import write_polygons
from finetune.mapping.region import (
    SceneMapper,
    SceneOutcome,
    check_one_year,
    failure,
    map_scenes,
    mosaic_identity,
    mosaic_tags,
    open_scenes,
    outcome_table,
    write_mosaic,
)
from finetune.mapping.resampling import SceneMap
from finetune.mapping.vrt import check_pixels, write_vrt
from finetune.report.map_figure import draw_map, preview_label
from finetune.report.region_figure import draw_region
from finetune.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Maps scenes and regions.

    Attributes:
        mapper: maps a scene.
        mosaic: grid of a mosaic.
        polygons: the class whose areas become polygons, and how.
        scene_maps: folder in which the maps of the scenes of a mosaic are kept; None keeps none.
    """

    mapper: SceneMapper
    mosaic: MosaicOptions
    polygons: PolygonOptions
    scene_maps: Path | None = None

    @property
    def task(self) -> Task:
        """The task of the model."""
        return self.mapper.recipe.task

    def map_scene(self, folder: AnyPath, output: Path, year: int | None, suffix: str) -> int:
        """Map one scene, and return an exit code.

        With a `suffix`, that of a year among several, a finished map is not made again, and a year that fails stops no other.
        """
        try:
            self._map_scene(folder, output, year, suffix)
        except Exception as error:
            if not suffix:
                raise
            outcome = failure(folder.name, error, year)
            print(outcome_table([outcome]))
            return outcome.code
        return 0

    def _map_scene(self, folder: AnyPath, output: Path, year: int | None, suffix: str) -> None:
        series = series_for_model(self.mapper.recipe, folder, year)
        series.check_window(self.task.window_px)
        label = preview_label(series)
        with RunLock(output.with_name(f".{output.name}{LOCK}"), output) as lock:
            lock.acquire()
            note = FinishedMap(output, self.mapper.identity(series))
            if not (suffix and note.is_finished(self.mapper.files(output))):
                with series:
                    self.mapper.map(series, output, lock.check)
                    draw_map(output.with_suffix(".png"), self.task, series, output, label)
                if suffix:
                    note.write(self.mapper.files(output))
            self._write_polygons(output)
        height, width = series.grid.shape
        files = [output, output.with_suffix(".png"), *self.mapper.files(output)[1:], *self._polygon_files(output)]
        shares = class_shares(output, self.task)
        print(f"{height} x {width} px; season ending {series.year}; {shares}; {', '.join(map(str, files))}")

    def map_region(self, folders: Sequence[AnyPath], output: Path, year: int | None, suffix: str) -> int:
        """Map several scenes: a mosaic for a `.tif`, a virtual raster for a `.vrt`, else the maps alone in a folder.

        `suffix`: that of a year among several, for names of maps of scenes. Scenes that cannot be mapped are named in a table.
        Returns the exit code that says it.
        """
        opened, outcomes = open_scenes(self.mapper.recipe, folders, year)
        if opened and output.suffix.lower() in (".tif", ".tiff"):
            outcomes += self._mosaic(opened, output, suffix, any(one.code for one in outcomes))
        elif opened and output.suffix.lower() == ".vrt":
            outcomes += self._virtual(opened, output, suffix)
        elif opened:
            outcomes += self._folder(opened, output, suffix)
        print(outcome_table(outcomes))
        if not any(one.state == "mapped" for one in outcomes):
            print("no scene was mapped" + (f" for the season that ends in {year}" if year is not None else ""))
            return max((one.code for one in outcomes), default=USER_ERROR) or USER_ERROR
        return INFRASTRUCTURE if any(one.code == INFRASTRUCTURE for one in outcomes) else max(one.code for one in outcomes)

    def _folder(self, opened: Mapping[str, SceneSeries], output: Path, suffix: str) -> list[SceneOutcome]:
        """One map per scene in a folder."""
        with RunLock(output / LOCK, output) as lock:
            lock.acquire()
            return map_scenes(self.mapper, opened, _paths(output, opened, suffix), self._draw_scene, lock.check)[1]

    def _virtual(self, opened: Mapping[str, SceneSeries], output: Path, suffix: str) -> list[SceneOutcome]:
        """One map per scene in a folder named as the virtual raster over them."""
        check_one_year(opened)
        if self.mosaic.is_given:
            raise ValueError("--mosaic works with a .tif as --output; a virtual raster has the pixels of its scenes")
        grid = mosaic_grid(_grids(opened), self.mosaic)
        check_pixels(_grids(opened), grid)
        with RunLock(output.with_name(f".{output.name}{LOCK}"), output) as lock:
            lock.acquire()
            paths = _paths(self.scene_maps or output.with_suffix(""), opened, suffix if self.scene_maps else "")
            maps, outcomes = map_scenes(self.mapper, opened, paths, self._draw_scene, lock.check)
            if maps:
                remove_files_of_another_map(output)
                write_vrt(output, maps, grid, self.task, mosaic_tags(maps, self.task))
                self._draw_region(output, opened, maps)
                self._write_polygons(output)
                self._print_region(output, grid)
        return outcomes

    def _mosaic(self, opened: Mapping[str, SceneSeries], output: Path, suffix: str, failed: bool) -> list[SceneOutcome]:
        """The mosaic of all scenes. Their maps are kept until no scene fails; `failed`: whether one could not be opened."""
        check_one_year(opened)
        grid = mosaic_grid(_grids(opened), self.mosaic)
        mapper = self.mapper.with_probabilities()
        hidden = output.with_name(f".{output.name}.scenes")
        paths = _paths(self.scene_maps or hidden, opened, suffix if self.scene_maps else "")
        with RunLock(output.with_name(f".{output.name}{LOCK}"), output) as lock:
            lock.acquire()
            identities = {name: mapper.identity(series) for name, series in opened.items()}
            probabilities = self.mapper.options.probabilities
            files = self.mapper.files(output)
            note = FinishedMap(output, mosaic_identity(identities, grid, probabilities))
            if note.is_finished(files):
                maps = [SceneMap(name=name, path=paths(name), grid=series.grid) for name, series in opened.items()]
                outcomes = [
                    SceneOutcome(name=name, state="mapped", year=series.year, reason="finished before")
                    for name, series in opened.items()
                ]
            else:
                draw = self._draw_scene if self.scene_maps else _draw_nothing
                maps, outcomes = map_scenes(mapper, opened, paths, draw, lock.check)
                if not maps:
                    return outcomes
                identity = mosaic_identity({one.name: identities[one.name] for one in maps}, grid, probabilities)
                note = FinishedMap(output, identity)
                if not note.is_finished(files):
                    write_mosaic(maps, grid, self.task, output, probabilities, identity, lock.check)
                    note.write(files)
            pictures = [output.with_suffix(".png"), *self._polygon_files(output)]
            extras = {"polygons": asdict(self.polygons), "picture": 1}
            if not note.has_extras(extras, pictures):
                self._draw_region(output, opened, maps)
                self._write_polygons(output)
                note.write_extras(extras, pictures)
            failed |= any(one.code for one in outcomes)
            if hidden.is_dir():
                if failed:
                    print(f"maps of the other scenes stay in {hidden}, so that only the scenes that failed are mapped next time")
                else:
                    shutil.rmtree(hidden)
            self._print_region(output, grid)
        if self.scene_maps is None:  # where they were is of no interest
            outcomes = [replace(one, reason="") if one.state == "mapped" else one for one in outcomes]
        return outcomes

    def _draw_scene(self, series: SceneSeries, path: Path) -> None:
        draw_map(path.with_suffix(".png"), self.task, series, path, preview_label(series))

    def _draw_region(self, output: Path, opened: Mapping[str, SceneSeries], maps: Sequence[SceneMap]) -> None:
        years = sorted({opened[one.name].year for one in maps})
        title = f"{self.task.title}, {len(maps)} scenes, season ending {', '.join(map(str, years))}"
        draw_region(output.with_suffix(".png"), self.task, title, output, {one.name: one.grid for one in maps})

    def _polygon_files(self, output: Path) -> list[Path]:
        return [] if self.polygons.class_name is None else [fields_paths(output)[0]]

    def _write_polygons(self, output: Path) -> None:
        for path in self._polygon_files(output):
            assert self.polygons.class_name is not None
            write_polygons(output, self.polygons.class_name, path, self.polygons)

    def _print_region(self, output: Path, grid: Grid) -> None:
        files = [output, output.with_suffix(".png"), *self._polygon_files(output)]
        if self.mapper.options.probabilities and output.suffix.lower() != ".vrt":
            files.append(probabilities_path(output))
        print(f"{grid.height} x {grid.width} px; {class_shares(output, self.task)}; {', '.join(map(str, files))}")


def _grids(opened: Mapping[str, SceneSeries]) -> dict[str, Grid]:
    return {name: series.grid for name, series in opened.items()}


def _paths(folder: Path, opened: Mapping[str, SceneSeries], suffix: str) -> Callable[[str], Path]:
    """The path of the map of each scene. Raises ValueError when two maps would have one file."""
    paths = {name: folder / f"{name}{suffix}.tif" for name in opened}
    written = [path for tif in paths.values() for path in (tif, probabilities_path(tif))]
    twice = sorted({path.name for path in written if written.count(path) > 1})
    if twice:
        raise ValueError(f"the names of scenes give the file {twice[0]} to two maps: rename one of the scenes")
    return paths.__getitem__


def class_shares(path: Path, task: Task) -> str:
    """Shares of the classes in a map, and of no data, for people."""
    counts = count_classes(path, len(task.classes))
    with_data = max(counts[:-1].sum(), 1)
    shares = ", ".join(f"{c.name} {100 * n / with_data:.1f} %" for c, n in zip(task.classes, counts[:-1], strict=True))
    return f"{shares}; no data {100 * counts[-1] / counts.sum():.1f} %"


def _draw_nothing(series: SceneSeries, path: Path) -> None:
    """For maps of scenes that are not kept."""
