"""What a run tells people: TensorBoard, the same numbers as `metrics.jsonl`, and one line an interval on the terminal.

Only rank 0 writes. A run that starts again continues its logs: what was logged after the step that it resumes from is
hidden in TensorBoard (`purge_step`) and cut from `metrics.jsonl`, so no point stands there twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tabulate import tabulate
from torch.utils.tensorboard import SummaryWriter

from data_prep.corpus import Corpus
from data_prep.durable import whole_file
from data_prep.landcover import Legend
from data_prep.sensors import Sensor

METRICS_LINES = "metrics.jsonl"


class Monitor:
    """Logs of one run; on other ranks than the main one every method does nothing.

    Args:
        output: folder of the run; TensorBoard's files and `metrics.jsonl` go into it.
        is_main: True on rank 0.
        first_step: optimizer steps done when the run was resumed; later points in the logs are dropped.
        num_steps: optimizer steps of the whole run, for the time left; 0 when it is not known.
    """

    def __init__(self, output: Path, is_main: bool, first_step: int = 0, num_steps: int = 0) -> None:
        self._writer: SummaryWriter | None = None
        self._lines: TextIO | None = None
        self._first_step, self._num_steps = first_step, num_steps
        self._started = time.monotonic()
        if is_main:
            output.mkdir(parents=True, exist_ok=True)
            keep_lines_until(output / METRICS_LINES, first_step)
            self._lines = (output / METRICS_LINES).open("a")
            self._writer = SummaryWriter(str(output), purge_step=first_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name (`loss/total`, `speed/samples_per_second`, ...) after optimizer step `step`."""
        if self._writer is None or self._lines is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # JSON has no NaN: what is not finite becomes null.
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self._lines.flush()
        print(self._line(step, values), flush=True)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Log an image."""
        if self._writer is not None:
            self._writer.add_figure(name, figure, step)
            self._writer.flush()

    def text(self, step: int, name: str, markdown: str) -> None:
        """Log a text, shown as Markdown."""
        if self._writer is not None:
            self._writer.add_text(name, markdown, step)
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        if self._writer is not None and self._lines is not None:
            self._writer.close()
            self._lines.close()
            self._writer = self._lines = None

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        """One line for the terminal: the step, every value shortly, and the time left."""
        total = f"/{self._num_steps}" if self._num_steps else ""
        if "loss/total" in values:  # a whole report: only what one watches, the rest is in the files
            parts = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in values.items() if name.startswith("loss/")]
            shown = ["loss " + ", ".join(parts)]
            for name, form in (
                ("learning_rate", "rate {:.2e}"),
                ("speed/samples_per_second", "{:.0f} samples/s"),
                ("speed/share_waiting_for_data", "waiting {:.0%}"),
            ):
                shown += [form.format(values[name])] if name in values else []
        else:
            shown = [f"{name} {value:.4g}" for name, value in values.items() if name.count("/") < 3]  # no single classes
        if step > self._first_step and self._num_steps:
            each = (time.monotonic() - self._started) / (step - self._first_step)
            shown.append(f"left {timedelta(seconds=round(each * (self._num_steps - step)))}")
        return f"step {step}{total}  " + "  ".join(shown)


def keep_lines_until(path: Path, step: int) -> None:
    """Cut a file of JSON lines to those of `step` and before; a half line that a kill has left goes, too."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            continue
    with whole_file(path) as temporary:
        temporary.write_text("".join(kept))


def corpus_description(corpus: Corpus) -> str:
    """Markdown: a table of what the corpus holds by source and split, and its fingerprint."""
    rows = []
    for source in sorted(corpus.sensors):
        for split in sorted({shard.split for shard in corpus.shards if shard.source == source}):
            shards = [shard for shard in corpus.shards if (shard.source, shard.split) == (source, split)]
            shape = " x ".join(map(str, corpus.shapes[source]))
            size = f"{sum(shard.bytes for shard in shards) / 1e6:.1f}"
            rows.append([source, corpus.sensors[source].title, split, len(shards), sum(s.samples for s in shards), shape, size])
    table = tabulate(rows, ["source", "sensor", "split", "shards", "samples", "bands x rows x columns", "MB"], tablefmt="github")
    return f"{table}\n\nfingerprint `{corpus.fingerprint}`, {corpus.rejected} samples rejected"


def rgb_strip_figure(
    pixels: torch.Tensor, valid: torch.Tensor, sensor: Sensor, dates: torch.Tensor | None = None, max_samples: int = 4
) -> Figure:
    """The first samples of a batch as rows of true-colour frames in the order of time.

    Args:
        pixels: (B, T, C, H, W) numbers as stored.
        valid: (B, T, H, W) bool; what is not clear is veiled in grey.
        sensor: which bands are red, green and blue.
        dates: (B, T) days since 1970-01-01, written below the frames.
        max_samples: rows.
    """
    bands = [sensor.bands.index(band) for band in sensor.rgb]
    rows = min(max_samples, len(pixels))
    frames, height, width = pixels.shape[1], *pixels.shape[3:]
    figure = Figure(figsize=(min(16.0, 0.9 * frames + 0.6), 1.2 * rows + 0.4), layout="constrained")
    for row, axes in enumerate(np.atleast_1d(figure.subplots(rows, 1))):
        # Select before converting: few torch operators know uint16.
        rgb = np.moveaxis(pixels[row].numpy()[:, bands], 1, -1).astype(np.float32)  # (T, H, W, 3)
        clear = valid[row].numpy()
        # 95: a missed cloud must not darken all other frames
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
        max_samples: pairs of bars.
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
