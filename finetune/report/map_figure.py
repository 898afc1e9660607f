"""The map as a picture: satellite image, label and prediction side by side; of a large map its middle, and all of it smaller."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import rasterio
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from rasterio.crs import CRS
from rasterio.windows import Window

from data_prep.archive.sensor import Sensor
from finetune.data.map_grid import raster_grid
from finetune.data.scene_series import SceneSeries
from finetune.data.season import Clip
from finetune.mapping.cog import NO_DATA
from finetune.scoring.metrics import confusion, headline, scores
from finetune.task import IGNORE, Task

NO_DATA_COLOR = "#8a8a8a"
LARGEST_PREVIEW_PX = 768


def draw(path: Path, task: Task, series: SceneSeries, raster_path: Path, label: np.ndarray | None) -> None:
    """The picture of a map. With the label of its `preview_window` the title holds the score of that part.

    Of a map too large to show all pixels of, the whole comes from its overviews.
    """
    row, col, height, width = window = preview_window(*series.grid.shape)
    with rasterio.open(raster_path) as raster:
        predicted = raster.read(1, window=Window(col, row, width, height))
        overview = None
        if (height, width) != raster.shape:
            factor = max(raster.shape) / LARGEST_PREVIEW_PX
            overview = raster.read(1, out_shape=tuple(max(1, round(side / factor)) for side in raster.shape))
    title = f"{task.title}, {series.scene.name}, season ending {series.year}"
    if label is not None:
        result = map_scores(task, label, predicted)
        name, score = headline(result, task.target)
        title += f": {name} {100 * score:.1f} %, overall accuracy {100 * result['overall_accuracy']:.1f} %"
    pixel = abs(series.grid.transform.a)
    image = composite(series, window)
    box = tuple(share / side for share, side in zip(window, series.grid.shape * 2, strict=True))
    save_map_figure(path, task, title, image, label, predicted, pixel, series.grid.crs, overview, box)


def label_beside(series: SceneSeries) -> np.ndarray | None:
    """The task's label over the `preview_window` of a scene that has one on the map's grid: class indices (H, W)."""
    label = series.scene.labels.get(series.task.label)
    if label is None:
        return None
    grid = raster_grid(label.path)
    if grid.shape != series.grid.shape or not grid.transform.almost_equals(series.grid.transform, precision=1e-3):
        return None
    row, col, height, width = preview_window(*grid.shape)
    with rasterio.open(label.path) as raster:
        return series.task.class_indices(raster.read(1, window=Window(col, row, width, height)), label)


def map_confusion(task: Task, label: np.ndarray, predicted: np.ndarray) -> torch.Tensor:
    """Confusion matrix of a map (H, W) with `NO_DATA` against class indices (H, W); pixels without either do not count."""
    matrix = confusion(len(task.classes))
    both = (label >= 0) & (predicted != NO_DATA)
    matrix.update(torch.from_numpy(predicted[both].astype(np.int64)), torch.from_numpy(label[both].astype(np.int64)))
    result: torch.Tensor = matrix.compute()
    return result


def map_scores(task: Task, label: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """`metrics.scores` of a map against its label."""
    return scores(map_confusion(task, label, predicted), [c.name for c in task.classes])


def preview_window(height: int, width: int) -> tuple[int, int, int, int]:
    """The central part (row, col, height, width) of a map that a picture shows: all of it unless it is very large."""
    h, w = min(height, LARGEST_PREVIEW_PX), min(width, LARGEST_PREVIEW_PX)
    return (height - h) // 2, (width - w) // 2, h, w


def composite(series: SceneSeries, window: tuple[int, int, int, int]) -> np.ndarray:
    """True-colour median of the season's clear observations of the finest source, float (H, W, 3) in 0..1, NaN where none."""
    step = series.step
    row, col, height, width = window
    # Whole source pixels only, then cut to the window.
    top, left = row // step * step, col // step * step
    bottom, right = -(-(row + height) // step) * step, -(-(col + width) // step) * step
    clip = series.read_source(series.finest, top, left, bottom - top, right - left)
    stretched = true_color(clip, series.sensors[series.finest])
    rows = np.minimum(((np.arange(height) + row - top) * stretched.shape[0] / (bottom - top)).astype(int), stretched.shape[0] - 1)
    cols = np.minimum(((np.arange(width) + col - left) * stretched.shape[1] / (right - left)).astype(int), stretched.shape[1] - 1)
    return stretched[np.ix_(rows, cols)]


def true_color(clip: Clip, sensor: Sensor) -> np.ndarray:
    """True-colour median of the clear observations of a clip, stretched to 0..1: float (H, W, 3), NaN where there is none."""
    images = clip.pixels[:, [sensor.bands.index(band) for band in sensor.rgb]].astype(np.float32)
    images[~np.broadcast_to(clip.valid[:, None], images.shape)] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels that were never clear stay NaN
        median = np.nanmedian(images, axis=0).transpose(1, 2, 0)
        low, high = np.nanpercentile(median, (2, 98), axis=(0, 1))
    spread = high - low
    result: np.ndarray = np.clip((median - low) / np.where(spread > 0, spread, 1), 0, 1)
    return result


def colored(classes: np.ndarray, task: Task) -> np.ndarray:
    """Class indices (H, W) -> RGB (H, W, 3); whatever is no class gets the colour of no data."""
    palette = np.array([to_rgb(c.color) for c in task.classes] + [to_rgb(NO_DATA_COLOR)])
    return palette[np.where((classes >= 0) & (classes < len(task.classes)), classes, len(task.classes))]


def save_map_figure(
    path: Path,
    task: Task,
    title: str,
    image: np.ndarray,
    label: np.ndarray | None,
    predicted: np.ndarray,
    pixel: float,
    crs: str | None,
    overview: np.ndarray | None = None,
    box: tuple[float, ...] = (0, 0, 1, 1),
) -> None:
    """Write the PNG.

    Args:
        path: the PNG.
        task, title: names and colours of classes; the heading.
        image: RGB (H, W, 3) in 0..1, NaN where there is none.
        label: class indices (H, W).
        predicted: class indices (H, W).
        pixel: side of a pixel in units of `crs`.
        crs: the map's CRS; None where it is not known.
        overview: class indices (h, w) of the whole map, when the others show a part of it.
        box: that part (row, column, height, width) in shares of the map's sides.
    """
    matplotlib.use("Agg", force=False)
    shown = np.where(np.isnan(image), to_rgb(NO_DATA_COLOR), image)
    panels = [("satellite image, median of the season", shown, pixel)]
    if label is not None:
        panels.append(("label", colored(np.where(label == IGNORE, -1, label), task), pixel))
    panels.append(("prediction", colored(predicted.astype(int), task), pixel))
    if overview is not None:
        coarse = pixel * predicted.shape[1] / box[3] / overview.shape[1]
        panels.append(("prediction, all of the map", colored(overview.astype(int), task), coarse))
    height, width = predicted.shape
    side = 4.6
    figure = Figure(figsize=(side * len(panels), side * min(2.0, max(0.5, height / width)) + 1.0), dpi=110, layout="constrained")
    for axes, (name, picture, size) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(name, fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        rows, cols, _ = picture.shape
        if crs is not None and CRS.from_user_input(crs).is_projected:
            _scale_bar(axes, size, cols, rows)
        if size != pixel:
            row, col, tall, wide = (share * side for share, side in zip(box, (rows, cols) * 2, strict=True))
            axes.add_patch(Rectangle((col, row), wide, tall, fill=False, edgecolor="black", linewidth=1.5))
    patches = [Patch(facecolor=c.color, edgecolor="#555555", label=c.name.replace("_", " ")) for c in task.classes]
    patches.append(Patch(facecolor=NO_DATA_COLOR, edgecolor="#555555", label="no data"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=11)
    figure.suptitle(title, fontsize=13)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    os.replace(temporary, path)


def _scale_bar(axes: Axes, pixel: float, width: int, height: int) -> None:
    """A bar of a round length, about a quarter of the picture, lower left."""
    target = width * pixel / 4
    magnitude = 10 ** np.floor(np.log10(target))
    length = max(step * magnitude for step in (1, 2, 5) if step * magnitude <= target)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    x, y = 0.04 * width, 0.95 * height
    axes.plot([x, x + length / pixel], [y, y], color="black", linewidth=6, solid_capstyle="butt")
    axes.plot([x, x + length / pixel], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    outline = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(x, y - 0.03 * height, text, fontsize=9, va="bottom", bbox=outline)
