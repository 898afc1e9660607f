"""Predicting one block of a map, here or in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.data.season import Clip
from finetune.data.windows import frames
from finetune.mapping.cog import NO_DATA, as_stored
from finetune.mapping.tiling import Block, Mosaic
from finetune.model.crop_mapper import Recipe, load_model


def predict_block(
    model: nn.Module,
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
    model: nn.Module,
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
    for batch in _read_ahead(_batches(recipe, series, mosaic, block, batch_size)):
        if batch.places:
            predicted = predict_windows(model, batch.data, mosaic.window, device)
            for (row, col), probability, mask in zip(batch.places, predicted, batch.clear, strict=True):
                inside, outside, weight = mosaic.placed(row, col, block)
                total[:, *outside] += probability[:, *inside] * weight
                seen[outside] |= mask[inside]
        progress(batch.num_windows)
    return total, seen


@torch.no_grad()
def predict_windows(model: nn.Module, data: Mapping[str, np.ndarray], size: int, device: torch.device) -> np.ndarray:
    """Class probabilities float32 (B, classes, size, size) from the frames of each source, float32 (B, T, C, H, W)."""
    inputs = {source: torch.from_numpy(images).to(device) for source, images in data.items()}
    probabilities: np.ndarray = model(inputs, (size, size)).softmax(dim=1).cpu().numpy()
    return probabilities


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows on their way to the model.

    Attributes:
        num_windows: windows that were read.
        places: (row, col) of those that are clear anywhere. In the others there is no data, whatever the model would say: large
            parts of many scenes.
        data: frames of each source, float32 (B, T, C, H, W).
        clear: where the finest source was clear in any image used, bool (size, size) each.
    """

    num_windows: int
    places: list[tuple[int, int]]
    data: dict[str, np.ndarray]
    clear: list[np.ndarray]


def _batches(recipe: Recipe, series: SceneSeries, mosaic: Mosaic, block: Block, batch_size: int) -> Iterator[Batch]:
    """The windows that touch a block, read and normalised."""
    rows, cols = mosaic.windows_on(block)
    windows = series.windows(rows, cols, mosaic.window)
    while part := list(islice(windows, batch_size)):
        clear = [(row, col, clips) for row, col, clips in part if clips[series.finest].valid.any()]
        data = {}
        for source in recipe.task.sources if clear else ():
            known, season = recipe.normalization[source], series.seasons[source]
            data[source] = np.stack([frames(clips[source], season, known) for _, _, clips in clear])
        yield Batch(
            num_windows=len(part),
            places=[(row, col) for row, col, _ in clear],
            data=data,
            clear=[_seen(clips[series.finest], series, mosaic.window) for _, _, clips in clear],
        )


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; while the model works on one, a thread reads the next."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


@dataclass(frozen=True, kw_only=True)
class BlockJob:
    """What a worker process needs to predict blocks: it opens model and scene once, and computes in one thread.

    Attributes:
        model: folder of a run or its `model.safetensors`.
        scene: the scene's folder.
        year: year in which the season ends.
        device: `cpu` or `cuda`.
        missing_sources: see `Task`.
        mosaic, batch_size, probabilities: see `predict_block`.
    """

    model: Path
    scene: Path
    year: int
    device: str
    missing_sources: str
    mosaic: Mosaic
    batch_size: int
    probabilities: bool


def predict_in_worker(job: BlockJob, number: int) -> dict[str, np.ndarray]:
    """Block `number` of `job.mosaic`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores
    try:
        model, recipe, series = _opened(job.model, job.scene, job.year, job.device, job.missing_sources)
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
def _opened(model: Path, scene: Path, year: int, device: str, missing_sources: str) -> tuple[nn.Module, Recipe, SceneSeries]:
    """Model and open scene, kept by the worker process until it ends."""
    mapper, recipe = load_model(model)
    recipe = replace(recipe, task=replace(recipe.task, missing_sources=missing_sources))
    return mapper.to(device), recipe, open_series(recipe, scene, year).__enter__()


def _seen(clip: Clip, series: SceneSeries, size: int) -> np.ndarray:
    """Where any image that the model was given is clear, on the map's grid: bool (size, size)."""
    chosen = series.seasons[series.finest].choose(clip.valid)
    clear = clip.valid[chosen[chosen >= 0]].any(axis=0)
    rows = np.arange(size) * clear.shape[0] // size
    cols = np.arange(size) * clear.shape[1] // size
    return clear[np.ix_(rows, cols)]
