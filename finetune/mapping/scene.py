"""The map of a scene: predicted block by block, resumed after an interruption, written as Cloud-Optimised GeoTIFF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import while_running
from finetune.data.scene_series import SceneSeries
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.cog import probabilities_path, remove_files_of_another_map, write_classes, write_probabilities
from finetune.mapping.finished_blocks import FinishedBlocks, finish_blocks, map_identity
from finetune.mapping.tiling import Block, Tiling, check_overlap, default_block
from finetune.mapping.windows import Progress
from finetune.mapping.workers import Workers
from finetune.model.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How a scene is mapped.

    Attributes:
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows per batch.
        block_px: side of a block in pixels of the map; None uses `default_block`.
        probabilities: also write probabilities.

    Raises ValueError for values out of range.
    """

    overlap: float = 0.5
    batch_size: int = 16
    block_px: int | None = None
    probabilities: bool = False

    def __post_init__(self) -> None:
        check_overlap(self.overlap)
        if self.batch_size < 1:
            raise ValueError(f"--batch_size is {self.batch_size}; expected at least 1")


def predict_scene(
    model: nn.Module,
    recipe: Recipe,
    series: SceneSeries,
    output: Path,
    device: torch.device,
    options: MapOptions | None = None,
    workers: Workers | None = None,
    check_lock: Callable[[], None] = lambda: None,
) -> None:
    """Write the map of one scene as COG: class indices uint8, `NO_DATA` where the finest source is never clear in the season.

    Memory does not grow with the scene: it holds the sums of one block and the windows that `SceneSeries.windows` reads together.
    Each file appears under its name only when it is complete. Until then, finished blocks are kept in a folder beside `output`,
    and the same call resumes from them.

    Args:
        model: the model, in the memory of `device`.
        recipe: the recipe that `load_model` gives with the model.
        series: the scene, open.
        output: the GeoTIFF; probabilities get the name `probabilities_path(output)`.
        device: the device that computes.
        options: how to map; None uses the defaults of `MapOptions`.
        workers: processes that predict; None predicts in this process.
        check_lock: called before every write; raises when another job writes this map.

    Raises ValueError if the model's windows do not hold whole pixels of every source of the scene.
    """
    predictor = _block_predictor(model, recipe, series, device, options or MapOptions())
    finished = FinishedBlocks(output, map_identity(predictor), check_lock)
    try:
        with while_running(f"mapping {series.scene.name}"):
            _predict_blocks(predictor, finished, workers)
        check_lock()
        with while_running(f"writing {output}"):
            _write_map(predictor, finished, output)
        finished.remove()
    except BaseException:
        check_lock()
        finished.remove_if_empty()
        raise


def scene_identity(
    model: nn.Module, recipe: Recipe, series: SceneSeries, device: torch.device, options: MapOptions
) -> dict[str, Any]:
    """Everything that the map of a scene depends on; see `map_identity`. The series need not be open."""
    return map_identity(_block_predictor(model, recipe, series, device, options))


def predict_classes(
    model: nn.Module, recipe: Recipe, series: SceneSeries, device: torch.device, options: MapOptions | None = None
) -> np.ndarray:
    """The map of one scene, that of `predict_scene`, in memory: class indices uint8 (H, W). No file is written."""
    predictor = _block_predictor(model, recipe, series, device, options or MapOptions())
    classes = np.empty(series.grid.shape, dtype=np.uint8)
    with while_running(f"mapping {series.scene.name}"):
        for block in predictor.tiling.blocks:
            inside = classes[block.row : block.row + block.height, block.col : block.col + block.width]
            inside[:] = predictor.predict(block)["classes"]
    return classes


def predict_pixel(
    model: nn.Module,
    recipe: Recipe,
    series: SceneSeries,
    device: torch.device,
    row: int,
    col: int,
    options: MapOptions | None = None,
) -> np.ndarray | None:
    """Class probabilities of one pixel, those of the map that `predict_scene` makes: float32 (classes,); None for no data.

    Only the windows that overlap the pixel are predicted. The series must be open.
    """
    predictor = _block_predictor(model, recipe, series, device, options or MapOptions())
    with while_running(f"mapping {series.scene.name}"):
        probabilities, seen = predictor.blend(Block(row, col, 1, 1))
    return probabilities[:, 0, 0] if seen[0, 0] else None


def _block_predictor(
    model: nn.Module, recipe: Recipe, series: SceneSeries, device: torch.device, options: MapOptions
) -> BlockPredictor:
    """Predicts the blocks of a scene's map. Raises ValueError if windows do not hold whole pixels of every source."""
    model.eval()
    return BlockPredictor(
        model=model,
        recipe=recipe,
        series=series,
        tiling=_scene_tiling(series, recipe.task.window_px, options),
        device=device,
        batch_size=options.batch_size,
        probabilities=options.probabilities,
    )


def _scene_tiling(series: SceneSeries, window_px: int, options: MapOptions) -> Tiling:
    """Blocks and windows of a scene's map. Raises ValueError if windows do not hold whole pixels of every source."""
    series.check_window(window_px)
    # Windows must begin on whole pixels of every source.
    stride = max(series.step, round(window_px * (1 - options.overlap)) // series.step * series.step)
    height, width = series.grid.shape
    block = default_block(window_px) if options.block_px is None else options.block_px
    return Tiling(height=height, width=width, window=window_px, stride=stride, step=series.step, block=block)


def _predict_blocks(predictor: BlockPredictor, finished: FinishedBlocks, workers: Workers | None) -> None:
    """Predict and store all blocks that are not finished."""
    tiling = predictor.tiling

    def predicted(numbers: list[int], progress: Progress) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        if workers is None:
            yield from ((number, predictor.predict(tiling.blocks[number], progress)) for number in numbers)
        else:
            for number, arrays in workers.predict(predictor, numbers):
                yield number, arrays
                progress(tiling.num_windows(tiling.blocks[number]))

    finish_blocks(finished, tiling, predictor.series.scene.name, "mapping", predicted)


def _write_map(predictor: BlockPredictor, finished: FinishedBlocks, output: Path) -> None:
    """Write the files of a map whose blocks are all finished."""
    series, task = predictor.series, predictor.recipe.task

    def blocks(name: str) -> Iterator[tuple[Block, np.ndarray]]:
        return ((block, finished.read(number)[name]) for number, block in enumerate(predictor.tiling.blocks))

    tags = {"task": task.name, "scene": series.scene.name, "year": series.year, "last_image": last_image(series)}
    remove_files_of_another_map(output, keep_probabilities=predictor.probabilities)
    if predictor.probabilities:
        path = probabilities_path(output)
        write_probabilities(path, finished.folder, series.grid, task, blocks("probabilities"), tags)
    write_classes(output, finished.folder, series.grid, task, blocks("classes"), tags)


def last_image(series: SceneSeries) -> str:
    """Date YYYY-MM-DD of the last image of any source in the season. The series must be open."""
    seasons = series.seasons.items()
    return str(max(series.readers[source].dates[season.times].max() for source, season in seasons if len(season.times)))
