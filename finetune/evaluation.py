"""A trained model on the test split: its maps or pictures, and scores with intervals over scenes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn

from finetune.data.sample_windows import SampleWindows
from finetune.data.scene_series import SceneSeries
from finetune.data.season import Clip
from finetune.mapping.blocks import predict_windows
from finetune.mapping.cog import NO_DATA
from finetune.model.crop_mapper import Recipe
from finetune.predict import predict_scene
from finetune.report.map_figure import draw, label_beside, map_confusion, save_map_figure, true_color
from finetune.scoring.bootstrap import with_intervals
from finetune.scoring.boundaries import boundary_counts, boundary_scores
from finetune.scoring.metrics import headline, scores
from finetune.scoring.objects import object_counts, object_scores
from finetune.task import IGNORE, Task

SMALLEST_OBJECT_PX = 4  # smaller ones are specks of the classifier, in the map as in the label
MOST_PICTURES = 12  # of samples, which may be thousands


class MapScores:
    """Counts of maps against labels, added up a scene: pixels of a scene are no independent samples."""

    def __init__(self, task: Task) -> None:
        self._task, self._names = task, [c.name for c in task.classes]
        self._pixels: dict[str, np.ndarray] = {}
        self._edges: dict[str, np.ndarray] = {}
        self._areas: dict[str, np.ndarray] = {}

    def add(self, scene: str, truth: np.ndarray, found: np.ndarray) -> None:
        """A map uint8 (H, W) with `NO_DATA` of a scene or a part of it, and class indices (H, W) with `IGNORE`."""
        count, names, objects = len(self._names), self._names, self._task.objects
        _add(self._pixels, scene, map_confusion(self._task, truth, found).numpy())
        _add(self._edges, scene, boundary_counts(truth, found, count))
        if objects is not None:
            areas = object_counts(truth, found, names.index(objects), count, minimum_px=SMALLEST_OBJECT_PX)
            _add(self._areas, scene, areas)

    def result(self) -> dict[str, Any]:
        """`metrics.scores` over all labelled pixels, with `intervals` over scenes; `scenes`, the headline of each; `boundaries`,
        of all classes; and `objects`, where the task names a class for them.
        """
        names, target = self._names, self._task.target
        result = with_intervals(list(self._pixels.values()), partial(scores, classes=names))
        result["scenes"] = {name: headline(scores(matrix, names), target)[1] for name, matrix in self._pixels.items()}
        result["boundaries"] = with_intervals(list(self._edges.values()), partial(boundary_scores, classes=names))
        if self._task.objects is not None:
            result["objects"] = {self._task.objects: with_intervals(list(self._areas.values()), object_scores)}
        return result


def _add(counts: dict[str, np.ndarray], scene: str, more: np.ndarray) -> None:
    counts[scene] = counts[scene] + more if scene in counts else np.asarray(more)


def evaluate_scenes(
    model: nn.Module,
    recipe: Recipe,
    series_of_scenes: list[SceneSeries],
    truths: dict[str, np.ndarray],
    output: Path,
    device: torch.device,
    overlap: float,
    pictures: bool = True,
) -> dict[str, Any]:
    """Map every scene into `output/maps` and score the maps against `truths`, class indices (H, W) by the scene's name.

    See `MapScores.result` for what it gives. `pictures` are drawn beside the maps.
    """
    task, found_scores = recipe.task, MapScores(recipe.task)
    (output / "maps").mkdir(exist_ok=True)
    for series in series_of_scenes:
        name = series.scene.name
        path = output / "maps" / f"{name}.tif"
        with series:
            predict_scene(model, recipe, series, path, device, overlap)
            if pictures:
                draw(path.with_suffix(".png"), task, series, path, label_beside(series))
        with rasterio.open(path) as raster:
            found_scores.add(name, truths[name], raster.read(1))
    return found_scores.result()


def evaluate_samples(
    model: nn.Module,
    recipe: Recipe,
    windows: SampleWindows,
    output: Path,
    device: torch.device,
    batch_size: int = 16,
    pictures: bool = True,
) -> dict[str, Any]:
    """Score the model on all labelled pixels of samples, and draw `pictures` of the first of them into `output/maps`.

    See `MapScores.result`; where samples do not say of which scene they are, each is a scene of its own.
    """
    task, size, found_scores = recipe.task, recipe.task.window_px, MapScores(recipe.task)
    (output / "maps").mkdir(exist_ok=True)
    model.eval()
    for number, (truth, found) in enumerate(_sample_maps(model, windows, size, device, batch_size)):
        if (truth == IGNORE).all():
            continue
        found_scores.add(windows.scenes[number], truth, found)
        if pictures and number < MOST_PICTURES:
            name = windows.names[number]
            result = scores(map_confusion(task, truth, found), [c.name for c in task.classes])
            score, value = headline(result, task.target)
            path = output / "maps" / f"{name.replace('/', '_')}.png"
            image, pixel = sample_image(windows, number), next(iter(windows.pixels))
            save_map_figure(path, task, f"{task.title}, {name}: {score} {100 * value:.1f} %", image, truth, found, pixel, None)
    return found_scores.result()


def _sample_maps(
    model: nn.Module, windows: SampleWindows, size: int, device: torch.device, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Label int8 (H, W) and map uint8 (H, W) of each sample; the map has `NO_DATA` where no window is labelled."""
    of_sample: list[list[int]] = [[] for _ in windows.names]
    for index, (number, _, _) in enumerate(windows.windows):
        of_sample[number].append(index)
    for number, indices in enumerate(of_sample):
        truth = windows.sample(number).label
        found = np.full(truth.shape, NO_DATA, dtype=np.uint8)
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            data = {source: pixels.numpy() for source, pixels in windows.batch(part)["data"].items()}
            classes = predict_windows(model, data, size, device).argmax(axis=1)
            for index, window in zip(part, classes, strict=True):
                _, row, col = windows.windows[index]
                inside = found[row : row + size, col : col + size]
                inside[:] = window[: inside.shape[0], : inside.shape[1]]
        yield truth, found


def sample_image(windows: SampleWindows, number: int) -> np.ndarray:
    """True-colour median of a sample's finest source, float (H, W, 3) on the label's grid, NaN where nothing is clear."""
    sample = windows.sample(number)
    source = max(sample.data, key=sample.scale)
    clip: Clip = windows.whole_clip(sample, source)
    image = true_color(clip, windows.sensors[source])
    rows, cols = (np.arange(n) * part // n for n, part in zip(sample.label.shape, image.shape[:2], strict=True))
    return image[np.ix_(rows, cols)]
