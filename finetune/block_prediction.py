"""Predicting one block of a map, here or in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from data_prep.scene import load_scene
from data_prep.sensors import load_sensors
from finetune.cog import NO_DATA, as_stored
from finetune.crop_mapper import CropMapper, Recipe, load_model
from finetune.dataset import frames
from finetune.mosaic import Block, Mosaic
from finetune.series import Clip, SceneSeries

Item = TypeVar("Item")


def predict_block(
    model: CropMapper,
    recipe: Recipe,
    series: SceneSeries,
    mosaic: Mosaic,
    block: Block,
    device: torch.device,
    batch_size: int,
    probabilities: bool,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, np.ndarray]:
    """A block as it is stored: `classes` uint8 (height, width), `NO_DATA` where the finest source was never clear.

    With `probabilities` also these, uint8 (classes, height, width) by `as_stored`. `progress` is told how many windows are done.
    """
    blended, seen = blend_block(model, recipe, series, mosaic, block, device, batch_size, progress)
    result = {"classes": np.where(seen, blended.argmax(axis=0), NO_DATA).astype(np.uint8)}
    if probabilities:
        result["probabilities"] = np.where(seen, as_stored(blended), NO_DATA).astype(np.uint8)
    return result


def blend_block(
    model: CropMapper,
    recipe: Recipe,
    series: SceneSeries,
    mosaic: Mosaic,
    block: Block,
    device: torch.device,
    batch_size: int,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities float32 (classes, height, width), and where the finest source was seen, bool (height, width)."""
    total = np.zeros((len(recipe.task.classes), block.height, block.width), dtype=np.float32)
    seen = np.zeros((block.height, block.width), dtype=bool)
    rows, cols = mosaic.windows_on(block)
    for part in _batches(series.windows(rows, cols, mosaic.window), batch_size):
        # Where a window is never clear there is no data, whatever the model would say: large parts of many scenes.
        clear_part = [(row, col, clips) for row, col, clips in part if clips[series.finest].valid.any()]
        if clear_part:
            predicted, clear = predict_windows(model, recipe, series, [clips for _, _, clips in clear_part], device)
            for (row, col, _), probability, mask in zip(clear_part, predicted, clear, strict=True):
                inside, outside, weight = mosaic.placed(row, col, block)
                total[:, *outside] += probability[:, *inside] * weight
                seen[outside] |= mask[inside]
        progress(len(part))
    return total, seen


@torch.no_grad()
def predict_windows(
    model: CropMapper, recipe: Recipe, series: SceneSeries, windows: list[dict[str, Clip]], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities float32 (B, classes, size, size), and where the finest source was clear in any image used."""
    size = recipe.task.window_px
    data = {}
    for source in recipe.task.sources:
        known, season = recipe.normalization[source], series.seasons[source]
        stacked = np.stack([frames(clips[source], season, known) for clips in windows])
        data[source] = torch.from_numpy(stacked).to(device)
    probabilities = model(data, (size, size)).softmax(dim=1).cpu().numpy()
    clear = np.stack([_seen(clips[series.finest], series, size) for clips in windows])
    return probabilities, clear


@dataclass(frozen=True, kw_only=True)
class BlockJob:
    """What a worker process needs to predict blocks: it opens model and scene once, and computes in one thread.

    Attributes:
        model: folder of a run or its `model.safetensors`.
        scene: the scene's folder.
        year: year in which the season ends.
        device: `cpu` or `cuda`.
        mosaic, batch_size, probabilities: see `predict_block`.
    """

    model: Path
    scene: Path
    year: int
    device: str
    mosaic: Mosaic
    batch_size: int
    probabilities: bool


def predict_in_worker(job: BlockJob, number: int) -> dict[str, np.ndarray]:
    """Block `number` of `job.mosaic`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores
    try:
        model, recipe, series = _opened(job.model, job.scene, job.year, job.device)
        block = job.mosaic.blocks[number]
        return predict_block(
            model, recipe, series, job.mosaic, block, torch.device(job.device), job.batch_size, job.probabilities
        )
    finally:
        torch.set_num_threads(threads)


def open_series(recipe: Recipe, scene: Path, year: int | None) -> SceneSeries:
    """The series of the scene in a folder as the model wants it. Raises ValueError when a source has other bands here."""
    sensors = recipe.sensors | load_sensors(scene.resolve().parent / "sources")
    for source in recipe.task.sources:
        trained, here = recipe.sensors[source].bands, sensors[source].bands
        if here != trained:
            raise ValueError(f"the model knows {source} with bands {list(trained)}; here it has {list(here)}")
    return SceneSeries(load_scene(scene), recipe.task, sensors, pixel=recipe.pixel, year=year)


@lru_cache(maxsize=1)
def _opened(model: Path, scene: Path, year: int, device: str) -> tuple[CropMapper, Recipe, SceneSeries]:
    """Model and open scene, kept by the worker process until it ends."""
    mapper, recipe = load_model(model)
    return mapper.to(device), recipe, open_series(recipe, scene, year).__enter__()


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(islice(items, size)):
        yield batch


def _seen(clip: Clip, series: SceneSeries, size: int) -> np.ndarray:
    """Where any image that the model was given is clear, on the map's grid: bool (size, size)."""
    chosen = series.seasons[series.finest].choose(clip.valid)
    clear = clip.valid[chosen[chosen >= 0]].any(axis=0)
    rows = np.arange(size) * clear.shape[0] // size
    cols = np.arange(size) * clear.shape[1] // size
    return clear[np.ix_(rows, cols)]
