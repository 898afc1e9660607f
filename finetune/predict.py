"""Command: a map of a scene from a trained model.

    python finetune/predict.py --model runs/paddy_rice --input scenes/SCENE --output map.tif

The scene is read in windows that overlap, their class probabilities are blended with a weight that falls smoothly to the
window's edges, and rows are written as soon as no later window touches them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import run_command
from data_prep.scene import load_scene
from data_prep.sensors import Sensor, load_sensors
from finetune.crop_mapper import Recipe, load_model
from finetune.dataset import frames, origins_within, read_classes
from finetune.map_figure import composite, preview_window, save_map_figure
from finetune.metrics import confusion, headline, scores
from finetune.series import Clip, SceneSeries, raster_grid
from finetune.task import Task

NO_DATA = 255


def predict(
    model: Path,
    input: Path,
    output: Path,
    overlap: float = 0.5,
    batch_size: int = 16,
    year: int | None = None,
    device: str = "auto",
) -> None:
    """Map a scene: a GeoTIFF with class indices and, beside it, a PNG to look at.

    Args:
        model: folder that finetune/run.py wrote, or its model.safetensors.
        input: a scene, the folder with its scene.yaml.
        output: the GeoTIFF to write; the picture gets the same name with .png.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows at a time.
        year: year in which the season ends; the default takes the one with most images.
        device: auto, cpu or cuda.
    """
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"--output is {output}; the map is a GeoTIFF, give a name that ends in .tif")
    mapper, recipe = load_model(model)
    scene = load_scene(input)
    sensors = recipe.sensors | load_sensors(input.resolve().parent / "sources")
    check_sensors(recipe, sensors)
    place = pick_device(device)
    check_overlap(overlap)
    series = SceneSeries(scene, recipe.task, sensors, pixel=recipe.pixel, year=year)
    series.check_window(recipe.task.window_px)
    label = label_beside(series)
    with series:
        output.parent.mkdir(parents=True, exist_ok=True)
        predict_scene(mapper.to(place), recipe, series, output, place, overlap, batch_size)
        picture = output.with_suffix(".png")
        draw(picture, recipe.task, series, output, label)
    with rasterio.open(output) as written:
        found = written.read(1)
    shares = ", ".join(
        f"{c.name} {100 * np.mean(found[found != NO_DATA] == i) if (found != NO_DATA).any() else 0:.1f} %"
        for i, c in enumerate(recipe.task.classes)
    )
    print(
        f"{output}: {found.shape[0]} x {found.shape[1]} px; {shares}; no data {100 * np.mean(found == NO_DATA):.1f} %; {picture}"
    )


def predict_scene(
    model: nn.Module,
    recipe: Recipe,
    series: SceneSeries,
    output: Path,
    device: torch.device,
    overlap: float = 0.5,
    batch_size: int = 16,
) -> None:
    """Write the map of one scene as GeoTIFF: class indices uint8, `NO_DATA` where the finest source was never clear.

    Memory grows with the width of the scene, not with its height. The file appears under its name when it is whole.
    """
    task, grid = recipe.task, series.grid
    size = task.window_px
    series.check_window(size)
    # Windows must begin on whole pixels of every source.
    stride = max(series.step, round(size * (1 - overlap)) // series.step * series.step)
    rows, cols = (origins_within(length, size, stride, series.step) for length in grid.shape)
    weight = blend_weight(size)
    profile = grid.profile() | {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": NO_DATA, "compress": "deflate"}
    profile |= {"blockysize": min(stride, grid.height), "bigtiff": "if_safer"}
    temporary = output.with_name(f".{output.name}.tmp")
    width = cols[-1] + size
    # Sums of weighted probabilities; the largest is the largest of their weighted mean too.
    total = np.zeros((len(task.classes), size, width), dtype=np.float32)
    seen = np.zeros((size, width), dtype=bool)
    model.eval()
    try:
        with (
            rasterio.open(temporary, "w", **profile) as raster,
            tqdm(total=len(rows) * len(cols), desc=f"mapping {series.scene.name}", unit="window") as bar,
        ):
            raster.write_colormap(1, {i: _rgba(c.color) for i, c in enumerate(task.classes)})
            raster.update_tags(task=task.name, year=series.year)
            raster.update_tags(1, **{f"class_{i}": c.name for i, c in enumerate(task.classes)})
            for (row, strip), after in zip(_by_row(series.windows(rows, cols, size)), [*rows[1:], grid.height], strict=True):
                for start in range(0, len(strip), batch_size):
                    part = strip[start : start + batch_size]
                    probabilities, clear = predict_windows(model, recipe, series, [clips for _, clips in part], device)
                    for (col, _), probability, mask in zip(part, probabilities, clear, strict=True):
                        total[:, :, col : col + size] += probability * weight
                        seen[:, col : col + size] |= mask
                    bar.update(len(part))
                # Rows above the next windows are final.
                done = after - row
                classes = np.where(seen, total.argmax(axis=0), NO_DATA).astype(np.uint8)[:done, : grid.width]
                raster.write(classes, 1, window=Window(0, row, grid.width, done))
                for buffer in (total, seen):
                    buffer[..., : size - done, :] = buffer[..., done:, :].copy()
                    buffer[..., size - done :, :] = 0
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


@torch.no_grad()
def predict_windows(
    model: nn.Module, recipe: Recipe, series: SceneSeries, windows: list[dict[str, Clip]], device: torch.device
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


def blend_weight(size: int) -> np.ndarray:
    """Weight of a window's pixels, float32 (size, size): sine squared from near 0 at the edges to 1 in the middle."""
    ramp = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return np.outer(ramp, ramp).astype(np.float32)


def label_beside(series: SceneSeries) -> np.ndarray | None:
    """The task's label of the scene where it has one on the map's grid: class indices (H, W)."""
    label = series.scene.labels.get(series.task.label)
    if label is None:
        return None
    grid = raster_grid(label.path)
    same = grid.shape == series.grid.shape and grid.transform.almost_equals(series.grid.transform, precision=1e-3)
    return read_classes(series) if same else None


def draw(path: Path, task: Task, series: SceneSeries, raster_path: Path, label: np.ndarray | None) -> None:
    """The picture of a map; with a label its title holds the score of the part shown."""
    row, col, height, width = window = preview_window(*series.grid.shape)
    with rasterio.open(raster_path) as raster:
        predicted = raster.read(1, window=Window(col, row, width, height))
    title = f"{task.title}, {series.scene.name}, season ending {series.year}"
    if label is not None:
        label = label[row : row + height, col : col + width]
        result = map_scores(task, label, predicted)
        name, score = headline(result, task.target)
        title += f": {name} {100 * score:.1f} %, overall accuracy {100 * result['overall_accuracy']:.1f} %"
    pixel = abs(series.grid.transform.a)
    save_map_figure(path, task, title, composite(series, window), label, predicted, pixel, series.grid.crs)


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


def check_sensors(recipe: Recipe, sensors: Mapping[str, Sensor]) -> None:
    """Raises ValueError when a source has other bands here than the model was trained on."""
    for source in recipe.task.sources:
        trained, here = recipe.sensors[source].bands, sensors[source].bands
        if here != trained:
            raise ValueError(f"the model knows {source} with bands {list(trained)}; here it has {list(here)}")


def check_overlap(overlap: float) -> None:
    """Raises ValueError unless 0 <= overlap <= 0.9."""
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"--overlap is {overlap}; expected a share from 0 to 0.9")


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ValueError for another name or when CUDA is asked for and missing."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch finds no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _by_row(
    windows: Iterator[tuple[int, int, dict[str, Clip]]],
) -> Iterator[tuple[int, list[tuple[int, dict[str, Clip]]]]]:
    """Windows that come row by row, one list of (col, clips) a row."""
    strip: list[tuple[int, dict[str, Clip]]] = []
    current = 0
    for row, col, clips in windows:
        if strip and row != current:
            yield current, strip
            strip = []
        current = row
        strip.append((col, clips))
    if strip:
        yield current, strip


def _seen(clip: Clip, series: SceneSeries, size: int) -> np.ndarray:
    """Where any image that the model was given is clear, on the map's grid: bool (size, size)."""
    chosen = series.seasons[series.finest].choose(clip.valid)
    clear = clip.valid[chosen[chosen >= 0]].any(axis=0)
    rows = np.arange(size) * clear.shape[0] // size
    cols = np.arange(size) * clear.shape[1] // size
    return clear[np.ix_(rows, cols)]


def _rgba(color: str) -> tuple[int, int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16), 255


if __name__ == "__main__":
    run_command(predict)
