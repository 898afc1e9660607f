"""A trained model on the test scenes: their maps, pictures, and scores with intervals over scenes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn

from finetune.bootstrap import with_intervals
from finetune.boundaries import boundary_counts, boundary_scores
from finetune.crop_mapper import Recipe
from finetune.map_figure import draw, label_beside, map_confusion
from finetune.metrics import headline, scores
from finetune.objects import object_counts, object_scores
from finetune.predict import predict_scene
from finetune.series import SceneSeries

SMALLEST_OBJECT_PX = 4  # smaller ones are specks of the classifier, in the map as in the label


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

    The result is `metrics.scores` over all labelled pixels, with `intervals` over scenes; `scenes`, the headline of each;
    `boundaries`, of all classes; and `objects`, where the task names a class for them. `pictures` are drawn beside the maps.
    """
    task = recipe.task
    names = [c.name for c in task.classes]
    (output / "maps").mkdir(exist_ok=True)
    pixels, edges, areas, each = [], [], [], {}
    for series in series_of_scenes:
        name = series.scene.name
        path = output / "maps" / f"{name}.tif"
        with series:
            predict_scene(model, recipe, series, path, device, overlap)
            if pictures:
                draw(path.with_suffix(".png"), task, series, path, label_beside(series))
        with rasterio.open(path) as raster:
            found = raster.read(1)
        truth = truths[name]
        pixels.append(map_confusion(task, truth, found).numpy())
        edges.append(boundary_counts(truth, found, len(names)))
        if task.objects is not None:
            of_class = names.index(task.objects)
            areas.append(object_counts(truth, found, of_class, len(names), minimum_px=SMALLEST_OBJECT_PX))
        each[name] = headline(scores(pixels[-1], names), task.target)[1]
    result = with_intervals(pixels, partial(scores, classes=names)) | {"scenes": each}
    result["boundaries"] = with_intervals(edges, partial(boundary_scores, classes=names))
    if task.objects is not None:
        result["objects"] = {task.objects: with_intervals(areas, object_scores)}
    return result
