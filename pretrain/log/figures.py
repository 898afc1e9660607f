"""Figures of a training: frames of samples, and true and predicted land-cover fractions."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data_prep.archive.sensor import Sensor
from data_prep.landcover.legend import Legend
from pretrain.data.batch import Batch
from pretrain.log.monitor import Monitor
from pretrain.objective.model import FRACTIONS, MAP, Prediction


def show_examples(
    monitor: Monitor, step: int, batch: Batch, sensor: Sensor, target: Prediction, predicted: Prediction, legend: Legend
) -> None:
    """Log figures of the first samples of a batch: frames, and land cover as it is mapped and as the student predicts it."""
    strip = rgb_strip_figure(batch.pixels.cpu(), batch.valid.cpu(), sensor, batch.dates.cpu())
    monitor.figure(step, f"batch/{batch.source}", strip)
    bars = fractions_figure(target[FRACTIONS].cpu(), predicted[FRACTIONS].cpu(), legend)
    monitor.figure(step, f"fractions/{batch.source}", bars)
    if MAP in target:
        monitor.figure(step, f"map/{batch.source}", maps_figure(target[MAP].cpu(), predicted[MAP].cpu(), legend))


def rgb_strip_figure(
    pixels: torch.Tensor, valid: torch.Tensor, sensor: Sensor, dates: torch.Tensor | None = None, max_samples: int = 4
) -> Figure:
    """The first samples of a batch as rows of true-colour frames in the order of time.

    Args:
        pixels: (B, T, C, H, W) numbers as stored.
        valid: (B, T, H, W) bool; pixels that are not clear are shown grey.
        sensor: names the red, green and blue bands.
        dates: (B, T) days since 1970-01-01, written below the frames.
        max_samples: largest number of rows.
    """
    bands = [sensor.bands.index(band) for band in sensor.rgb]
    rows = min(max_samples, len(pixels))
    frames, height, width = pixels.shape[1], *pixels.shape[3:]
    figure = Figure(figsize=(min(16.0, 0.9 * frames + 0.6), 1.2 * rows + 0.4), layout="constrained")
    for row, axes in enumerate(np.atleast_1d(figure.subplots(rows, 1))):
        # Select before converting: few torch operators know uint16.
        rgb = np.moveaxis(pixels[row].numpy()[:, bands], 1, -1).astype(np.float32)  # (T, H, W, 3)
        clear = valid[row].numpy()
        # 95, so that a missed cloud does not darken all other frames
        low, high = np.percentile(rgb[clear], (2, 95)) if clear.any() else (0, 1)
        shown = np.clip((rgb - low) / max(high - low, 1), 0, 1)
        shown[~clear] = 0.75 + 0.15 * shown[~clear]
        gap = max(1, width // 24)
        strip = np.ones((height, frames * (width + gap) - gap, 3), np.float32)
        for frame in range(frames):
            strip[:, frame * (width + gap) : frame * (width + gap) + width] = shown[frame]
        axes.imshow(strip, interpolation="nearest")
        axes.set_yticks([])
        axes.set_xticks([frame * (width + gap) + (width - 1) / 2 for frame in range(frames)])
        labels = [""] * frames
        if dates is not None:
            labels = [str(day) for day in dates[row].numpy().astype("datetime64[D]")]
        axes.set_xticklabels(labels, fontsize=6)
        axes.tick_params(length=0)
        axes.set_frame_on(False)
    figure.suptitle(f"{sensor.title}: {', '.join(sensor.rgb)} as red, green, blue; grey: not clear", fontsize=9)
    return figure


def fractions_figure(
    true: torch.Tensor | np.ndarray, predicted: torch.Tensor | np.ndarray, legend: Legend, max_samples: int = 8
) -> Figure:
    """Land-cover fractions of the first samples as pairs of stacked bars in the legend's colours.

    Args:
        true: (B, classes) from the land-cover map.
        predicted: (B, classes) by the model.
        legend: class names and colours.
        max_samples: largest number of pairs of bars.
    """
    true, predicted = (np.asarray(torch.as_tensor(a).float())[:max_samples] for a in (true, predicted))
    figure = Figure(figsize=(9, 0.55 * len(true) + 1.3), layout="constrained")
    axes = figure.subplots()
    middles = np.arange(len(true))
    for values, shift, edge in ((true, -0.19, "black"), (predicted, 0.19, "white")):
        left = np.zeros(len(true))
        for column, color in enumerate(legend.colors):
            axes.barh(middles + shift, values[:, column], 0.34, left, color=color, edgecolor=edge, linewidth=0.6)
            left += values[:, column]
    axes.set_yticks(
        [at for middle in middles for at in (middle - 0.19, middle + 0.19)],
        ["map", "predicted"] * len(true),
        fontsize=7,
    )
    for middle, error in zip(middles.tolist(), np.abs(true - predicted).mean(axis=1), strict=True):
        axes.text(1.01, middle, f"error {error:.3f}", va="center", fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(true) - 0.5, -0.5)
    axes.set_xlabel("share of the footprint")
    handles = [Patch(facecolor=color, edgecolor="black", linewidth=0.4) for color in legend.colors]
    figure.legend(handles, legend.classes, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def maps_figure(target: torch.Tensor, scores: torch.Tensor, legend: Legend, max_samples: int = 8) -> Figure:
    """Land-cover maps of the first samples above those that the model predicts, in the legend's colours.

    Args:
        target: shares (B, classes, H, W) by the land-cover map, which sum to 0 where nothing is mapped: white.
        scores: class scores (B, classes, H, W) of the model.
        legend: class names and colours.
        max_samples: largest number of samples.
    """
    colors = np.array([to_rgb(color) for color in legend.colors])
    columns = min(max_samples, len(target))
    figure = Figure(figsize=(1.3 * columns + 0.8, 3.4), layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False)
    for row, (name, shares) in enumerate((("map", target), ("predicted", scores))):
        for axes, sample in zip(panels[row], shares, strict=False):
            shown = colors[sample.argmax(dim=0).numpy()]
            if name == "map":
                shown[(sample.sum(dim=0) == 0).numpy()] = 1
            axes.imshow(shown, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        panels[row, 0].set_ylabel(name, fontsize=8)
    handles = [Patch(facecolor=color, edgecolor="black", linewidth=0.4) for color in legend.colors]
    figure.legend(handles, legend.classes, loc="outside upper center", ncols=4, fontsize=8)
    return figure
