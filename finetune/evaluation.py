"""Evaluation of a trained model on the test split: maps or pictures, and scores with intervals over scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn

from common.notes import note
from finetune.data.labelled_data import LabelledScenes
from finetune.data.sample_windows import SampleWindows
from finetune.data.tables.point_windows import PointWindows
from finetune.data.window_dataset import note_windows_of_other_scale
from finetune.mapping.blocks import predict_windows
from finetune.mapping.cog import NO_DATA
from finetune.mapping.model_series import note_other_scale
from finetune.mapping.points import predict_points
from finetune.mapping.scene import MapOptions, predict_classes, predict_scene
from finetune.mapping.windows import clear_pixels
from finetune.model.recipe import Recipe
from finetune.report.map_figure import MapPicture, draw_map, preview_label, true_color, write_map_picture
from finetune.scoring.headline import headline
from finetune.scoring.map_scores import MapScores
from finetune.scoring.metrics import confusion, scores
from finetune.task import IGNORE, Task

MOST_PICTURES = 12  # there may be thousands of samples
WINDOWS_PER_BATCH = 16


def evaluate_test_data(
    model: nn.Module,
    recipe: Recipe,
    data: LabelledScenes | SampleWindows,
    maps: Path | None,
    device: torch.device,
    overlap: float = 0.5,
) -> dict[str, Any]:
    """Score a model on whole test scenes or on test samples.

    The result is that of `MapScores.result`.

    Args:
        model: the model.
        recipe: the recipe that `load_model` gives with the model.
        data: the test split.
        maps: folder for the maps of scenes and for pictures; None scores without writing a file.
        device: the device that computes.
        overlap: share of a window that its neighbour covers too, in maps of scenes.
    """
    if maps is not None:
        maps.mkdir(exist_ok=True)
    if isinstance(data, PointWindows):
        return evaluate_points(model, recipe, data, device)
    if isinstance(data, SampleWindows):
        return evaluate_samples(model, recipe, data, maps, device)
    return evaluate_scenes(model, recipe, data, maps, device, overlap)


def evaluate_scenes(
    model: nn.Module,
    recipe: Recipe,
    scenes: LabelledScenes,
    maps: Path | None,
    device: torch.device,
    overlap: float = 0.5,
) -> dict[str, Any]:
    """Map every scene and score the maps; with a folder `maps` write each map there, and draw it beside it."""
    map_scores = MapScores(recipe.task)
    for series in scenes.series:
        name = series.scene.name
        with series:
            note_other_scale(series, recipe.normalization, recipe.task.window_px)
            if maps is None:
                predicted = predict_classes(model, recipe, series, device, MapOptions(overlap=overlap))
            else:
                path = maps / f"{name}.tif"
                predict_scene(model, recipe, series, path, device, MapOptions(overlap=overlap))
                draw_map(path.with_suffix(".png"), recipe.task, series, path, preview_label(series))
                with rasterio.open(path) as raster:
                    predicted = raster.read(1)
        map_scores.add(name, scenes.labels[name], predicted)
    return map_scores.result()


def evaluate_samples(
    model: nn.Module,
    recipe: Recipe,
    windows: SampleWindows,
    maps: Path | None,
    device: torch.device,
) -> dict[str, Any]:
    """Score the model on all labelled pixels of samples; with a folder `maps` draw the first `MOST_PICTURES` there.

    Samples have no place on the ground, so there are no maps. A sample without a scene is a scene of its own.
    """
    note_windows_of_other_scale(windows, "test", recipe.normalization)
    map_scores = MapScores(recipe.task)
    windows.normalization = recipe.normalization
    model.eval()
    try:
        for number, (label, predicted) in enumerate(_sample_maps(model, windows, device)):
            if (label == IGNORE).all():
                continue
            map_scores.add(windows.scenes[number], label, predicted)
            if maps is not None and number < MOST_PICTURES:
                name = windows.names[number].replace("/", "_")
                picture = _sample_picture(recipe.task, windows, number, label, predicted)
                write_map_picture(maps / f"{name}.png", recipe.task, picture)
    finally:
        windows.close()
    return map_scores.result()


def evaluate_points(model: nn.Module, recipe: Recipe, windows: PointWindows, device: torch.device) -> dict[str, Any]:
    """Score the model on the points of a table. There are no maps, and the scenes are the points' blocks.

    Points without a clear observation in the season have no prediction, like such pixels of a map, and are not scored.
    """
    note_windows_of_other_scale(windows, "test", recipe.normalization)
    map_scores = MapScores(recipe.task)
    predicted = predict_points(model, windows.frames(recipe.normalization), device, seen_days=windows.seen_days).classes
    labels = np.array([label[0, 0] for label in windows.labels])
    scenes = np.array([str(windows.scene_of(index)) for index in range(len(windows))])
    names, first = np.unique(scenes[order := np.argsort(scenes, kind="stable")], return_index=True)
    for name, points in zip(names, np.split(order, first[1:]), strict=True):
        map_scores.add_points(str(name), labels[points], predicted[points])
    unseen = int((predicted == NO_DATA).sum())
    if unseen:
        note(f"{unseen} of {len(predicted)} test points have no clear observation in the season and are not scored")
    return map_scores.result()


def _sample_maps(model: nn.Module, windows: SampleWindows, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Label int16 (H, W) and map uint8 (H, W) of each sample.

    The map has `NO_DATA` outside the labelled windows, and where no image of the season is clear, as maps of scenes have.
    """
    size = windows.task.window_px
    windows_of: list[list[int]] = [[] for _ in windows.names]
    for index, (number, _, _) in enumerate(windows.windows):
        windows_of[number].append(index)
    for number, indices in enumerate(windows_of):
        label = windows.sample(number).label
        predicted = np.full(label.shape, NO_DATA, dtype=np.uint8)
        for start in range(0, len(indices), WINDOWS_PER_BATCH):
            part = indices[start : start + WINDOWS_PER_BATCH]
            data = {source: pixels.numpy() for source, pixels in windows.batch(part)["data"].items()}
            classes = predict_windows(model, data, size, device).argmax(axis=1)
            for index, window in zip(part, classes, strict=True):
                _, row, col = windows.windows[index]
                inside = predicted[row : row + size, col : col + size]
                clear = _clear_pixels(windows, index)[: inside.shape[0], : inside.shape[1]]
                inside[:] = np.where(clear, window[: inside.shape[0], : inside.shape[1]], NO_DATA)
        yield label, predicted


def _clear_pixels(windows: SampleWindows, index: int) -> np.ndarray:
    """Where an image of the finest source of a sample is clear in the part of the season that is seen: bool (size, size)."""
    number = windows.windows[index][0]
    sample = windows.sample(number)
    source = max(sample.data, key=sample.scale)
    days = windows.group(number).seasons[source].days
    return clear_pixels(windows.stacks(index)[source], days, windows.seen_days, windows.task.window_px)


def _sample_picture(task: Task, windows: SampleWindows, number: int, label: np.ndarray, predicted: np.ndarray) -> MapPicture:
    """The picture of one sample; its title holds the headline score of the sample."""
    names = [c.name for c in task.classes]
    score, value = headline(scores(confusion(label, predicted, len(names)), names), task.target)
    return MapPicture(
        title=f"{task.title}, {windows.names[number]}: {score} {100 * value:.1f} %",
        image=_sample_image(windows, number),
        label=label,
        predicted=predicted,
        pixel_m=None,
    )


def _sample_image(windows: SampleWindows, number: int) -> np.ndarray:
    """True-colour median of a sample's finest source, float (H, W, 3) on the label's grid, NaN where no image is clear."""
    sample = windows.sample(number)
    source = max(sample.data, key=sample.scale)
    image = true_color(windows.whole_stack(sample, source), windows.sensors[source])
    rows, cols = (np.arange(n) * part // n for n, part in zip(sample.label.shape, image.shape[:2], strict=True))
    return image[np.ix_(rows, cols)]
