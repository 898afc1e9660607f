"""The maps of several scenes, one after the other, and their mosaic. A scene that cannot be mapped stops no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import rasterio
import torch
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from common.errors import MissingPackageError, is_data_error, is_infrastructure_error, while_running
from common.exit_codes import INFRASTRUCTURE, USER_ERROR
from common.grid import Grid
from common.storage import AnyPath
from finetune.data.scene_series import NoImageError, SceneSeries
from finetune.mapping.cog import probabilities_path, remove_files_of_another_map, write_classes, write_probabilities
from finetune.mapping.finished_blocks import FinishedBlocks
from finetune.mapping.finished_map import FinishedMap, digest
from finetune.mapping.model_series import note_other_scale, series_for_model
from finetune.mapping.mosaic import FEATHER_PX, Mosaic, default_mosaic_block
from finetune.mapping.resampling import SceneMap
from finetune.mapping.scene import MapOptions, predict_scene, scene_identity
from finetune.mapping.workers import Workers
from finetune.model.recipe import Recipe
from finetune.task import Task

State = Literal["mapped", "no images", "failed"]


@dataclass(frozen=True, kw_only=True)
class SceneOutcome:
    """What became of a scene.

    Attributes:
        name: name of the scene, or of its folder where scene.yaml cannot be read.
        state: mapped; no images, where none is in the season; or failed.
        year: year in which the season ends; None where it is not known.
        images: number of images of all sources in the season.
        reason: why it failed, else the path of the map.
        code: exit code that says it.
    """

    name: str
    state: State
    year: int | None = None
    images: int = 0
    reason: str = ""
    code: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneMapper:
    """A trained model, and how it maps scenes.

    Attributes:
        model: the model, in the memory of `device`.
        recipe: the recipe that `load_model` gives with the model.
        device: the device that computes.
        options: how scenes are mapped.
        workers: processes that predict; None predicts in this process.
    """

    model: nn.Module
    recipe: Recipe
    device: torch.device
    options: MapOptions
    workers: Workers | None = None

    def map(self, series: SceneSeries, output: Path, check_lock: Callable[[], None] = lambda: None) -> None:
        """Write the map of a scene, whose series is open; see `predict_scene`."""
        note_other_scale(series, self.recipe.normalization, self.recipe.task.window_px)
        predict_scene(self.model, self.recipe, series, output, self.device, self.options, self.workers, check_lock)

    def identity(self, series: SceneSeries) -> dict[str, Any]:
        """Everything that the map of a scene depends on."""
        return scene_identity(self.model, self.recipe, series, self.device, self.options)

    def files(self, output: Path) -> list[Path]:
        """The files of a map."""
        return [output, *([probabilities_path(output)] if self.options.probabilities else [])]

    def with_probabilities(self) -> SceneMapper:
        """The same that also writes probabilities."""
        return replace(self, options=replace(self.options, probabilities=True))


def open_scenes(
    recipe: Recipe, folders: Sequence[AnyPath], year: int | None
) -> tuple[dict[str, SceneSeries], list[SceneOutcome]]:
    """The series of the scenes that can be read, by name and closed, and what is wrong with the others.

    A scene without any image in the season is no failure if the year is stated: an archive has scenes of several years.

    Raises ValueError when two scenes have one name, and for a package that is not installed.
    """
    opened: dict[str, SceneSeries] = {}
    outcomes = []
    for folder in tqdm(folders, desc="opening scenes", unit="scene", leave=False):
        try:
            series = series_for_model(recipe, folder, year)
            series.check_window(recipe.task.window_px)
        except NoImageError as error:
            if year is None:
                outcomes.append(failure(folder.name, error, None))
            else:
                outcomes.append(SceneOutcome(name=folder.name, state="no images", year=year, reason=_text(error)))
            continue
        except Exception as error:
            outcomes.append(failure(folder.name, error, year))
            continue
        name = series.scene.name
        if name in opened:
            raise ValueError(
                f"{opened[name].scene.folder} and {folder} are both called {name!r}; names of scenes that are mapped together "
                "must be unique"
            )
        opened[name] = series
    return dict(sorted(opened.items())), outcomes


def map_scenes(
    mapper: SceneMapper,
    scenes: Mapping[str, SceneSeries],
    path_of: Callable[[str], Path],
    extras: Callable[[SceneSeries, Path], None],
    check_lock: Callable[[], None] = lambda: None,
) -> tuple[list[SceneMap], list[SceneOutcome]]:
    """Map scenes that are not mapped yet; returns the maps, and what became of each scene.

    Args:
        mapper: maps a scene.
        scenes: series by name, closed.
        path_of: path of the map of a scene by its name.
        extras: called with the open series and path of a map that is new, to make a picture from it.
        check_lock: raises when another job writes these maps.
    """
    maps, outcomes = [], []
    for name, series in scenes.items():
        output = path_of(name)
        try:
            note = FinishedMap(output, mapper.identity(series))
            if not note.is_finished(mapper.files(output)):
                with series:
                    mapper.map(series, output, check_lock)
                    extras(series, output)
                note.write(mapper.files(output))
        except Exception as error:
            check_lock()  # a job that has lost its lock must not go on with the next scene
            outcomes.append(failure(name, error, series.year))
            continue
        maps.append(SceneMap(name=name, path=output, grid=series.grid))
        images = sum(len(season.times) for season in series.seasons.values())
        outcomes.append(SceneOutcome(name=name, state="mapped", year=series.year, images=images, reason=str(output)))
    return maps, outcomes


def failure(name: str, error: Exception, year: int | None) -> SceneOutcome:
    """The outcome of a scene that ended with an error. Raises the error again if it is a bug, or concerns all scenes."""
    if isinstance(error, MissingPackageError) or not (is_data_error(error) or is_infrastructure_error(error)):
        raise error
    code = INFRASTRUCTURE if is_infrastructure_error(error) else USER_ERROR
    return SceneOutcome(name=name, state="failed", year=year, reason=_text(error), code=code)


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_one_year(scenes: Mapping[str, SceneSeries]) -> None:
    """Raises ValueError when the scenes of a mosaic are of several years, which nobody has stated."""
    years: dict[int, list[str]] = {}
    for name, series in scenes.items():
        years.setdefault(series.year, []).append(name)
    if len(years) > 1:
        found = "; ".join(f"{year}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for year, names in years.items())
        raise ValueError(f"the seasons of the scenes end in several years ({found}); state one with --year, or some with --years")


def mosaic_identity(scenes: Mapping[str, dict[str, Any]], grid: Grid, probabilities: bool) -> dict[str, Any]:
    """Everything that a mosaic depends on. `scenes`: identities of the maps of scenes by name."""
    return {
        "format": 1,
        "scenes": {name: digest(identity) for name, identity in sorted(scenes.items())},
        "grid": repr(grid),
        "feather_px": FEATHER_PX,
        "probabilities": probabilities,
    }


def write_mosaic(
    maps: Sequence[SceneMap],
    grid: Grid,
    task: Task,
    output: Path,
    probabilities: bool,
    identity: Mapping[str, Any],
    check_lock: Callable[[], None] = lambda: None,
) -> None:
    """Write the mosaic of the maps of scenes as COG. Finished blocks are kept, and the same call resumes from them.

    Memory does not grow with the mosaic, nor with the number of scenes: it holds the sums of one block and one scene below it.
    """
    mosaic = Mosaic(
        scenes=maps,
        grid=grid,
        num_classes=len(task.classes),
        block_px=default_mosaic_block(len(task.classes)),
        probabilities=probabilities,
    )
    finished = FinishedBlocks(output, identity, check_lock)
    blocks = mosaic.blocks
    with while_running(f"joining {output}"):
        missing = [number for number in range(len(blocks)) if number not in finished]
        for number in tqdm(missing, total=len(blocks), initial=len(blocks) - len(missing), desc="mosaic", unit="block"):
            finished.write(number, mosaic.block(blocks[number]))
    tags = mosaic_tags(maps, task)

    def arrays(name: str) -> Any:
        return ((block, finished.read(number)[name]) for number, block in enumerate(blocks))

    check_lock()
    with while_running(f"writing {output}"):
        remove_files_of_another_map(output, keep_probabilities=probabilities)
        if probabilities:
            write_probabilities(probabilities_path(output), finished.folder, grid, task, arrays("probabilities"), tags)
        write_classes(output, finished.folder, grid, task, arrays("classes"), tags)
    finished.remove()


def mosaic_tags(maps: Sequence[SceneMap], task: Task) -> dict[str, Any]:
    """Metadata of a mosaic: those of the maps of its scenes, with all names and years and the last image of all."""
    found = []
    for one in sorted(maps, key=lambda scene: scene.name):
        with rasterio.open(one.path) as raster:
            found.append(raster.tags())
    return {
        "task": task.name,
        "scene": ", ".join(tags["scene"] for tags in found),
        "year": ", ".join(sorted({tags["year"] for tags in found})),
        "last_image": max(tags["last_image"] for tags in found),
    }


def outcome_table(outcomes: Sequence[SceneOutcome]) -> str:
    """What became of each scene, for people: those that failed at the end, where they are seen."""
    order: list[State] = ["mapped", "no images", "failed"]
    rows = [
        [one.name, one.state, one.year or "", one.images or "", one.reason]
        for one in sorted(outcomes, key=lambda one: (order.index(one.state), one.name))
    ]
    return tabulate(rows, ["scene", "state", "year", "images", "map, or reason"])
