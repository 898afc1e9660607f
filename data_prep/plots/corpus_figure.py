"""The figure of a corpus: land cover, numbers of frames, and band statistics of each source and split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.plot_style import INK, MUTED
from data_prep.archive.sensor import Sensor
from data_prep.corpus.dataset import Corpus
from data_prep.corpus.summary import ShardSummary
from data_prep.landcover.legend import Legend

SPLIT_COLORS = {"train": "#2f5d8a", "validation": "#d98f2b", "test": "#8a3b5d"}
_MOST_BARS = 24  # of the histogram of numbers of frames
_SHOWN_SHARE = 0.07  # shares below have no room for their number


def corpus_figure(corpus: Corpus, groups: Mapping[tuple[str, str], ShardSummary]) -> Figure:
    """Draw one row per source: land cover of each split, frames per sample, mean reflectance of each band with its deviation.

    `groups`: summaries by source and split.
    """
    sources = sorted({source for source, _ in groups})
    height = 3.0 * len(sources) + 0.9
    figure = Figure(figsize=(15, height), facecolor="white")
    grid = figure.add_gridspec(len(sources), 3, width_ratios=[1.25, 1, 1.15], wspace=0.24, hspace=0.62)
    grid.update(left=0.075, right=0.985, top=1 - 0.62 / height, bottom=1.25 / height)
    handles: dict[tuple[str, str], Any] = {}
    for row, source in enumerate(sources):
        of_source = {split: group for (name, split), group in groups.items() if name == source}
        sensor = corpus.sensors[source]
        cover, frames, bands = (figure.add_subplot(grid[row, column]) for column in range(3))
        samples = sum(group.samples for group in of_source.values())
        size = sum(group.bytes for group in of_source.values()) / 1e9
        title = f"{sensor.title}: {samples:,} samples, {size:.2g} GB"
        cover.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        handles |= _draw_land_cover(cover, of_source, corpus.legends)
        _draw_frames(frames, of_source)
        _draw_bands(bands, of_source, sensor)
    names = [name for name, _ in handles]
    figure.legend(list(handles.values()), names, loc="lower center", ncols=min(8, len(names)), fontsize=8.5, frameon=False)
    return figure


def _draw_land_cover(axes: Axes, of_source: dict[str, ShardSummary], legends: dict[str, Legend]) -> dict[tuple[str, str], Any]:
    """Draw one stacked bar per split and legend; return the patches of classes by name and colour for the figure's legend."""
    handles: dict[tuple[str, str], Any] = {}
    labels: list[str] = []
    for split, group in of_source.items():
        for name, counts in group.land_cover.items():
            legend, left = legends[name], 0.0
            for label, color, share in zip(legend.classes, legend.colors, legend.fractions(counts).tolist(), strict=True):
                bar = axes.barh(len(labels), share, left=left, color=color, edgecolor="white", linewidth=0.6)
                handles.setdefault((label.replace("_", " "), color), bar[0])
                if share > _SHOWN_SHARE:
                    ink = "white" if np.mean(to_rgb(color)) < 0.5 else INK
                    axes.text(left + share / 2, len(labels), f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink)
                left += share
            labels.append(split if len(group.land_cover) == 1 else f"{split}, {name}")
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(max(len(labels), 3) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 5), [f"{share:.0%}" for share in np.linspace(0, 1, 5)], fontsize=8)
    axes.set_xlabel("land cover, share of the area", fontsize=8.5, color=MUTED)
    _plain(axes)
    return handles


def _draw_frames(axes: Axes, of_source: dict[str, ShardSummary]) -> None:
    """Draw the histogram of frames per sample, splits stacked."""
    lengths = [list(group.frames) for group in of_source.values()]
    counts = [list(group.frames.values()) for group in of_source.values()]
    shortest, longest = min(map(min, lengths)), max(map(max, lengths))
    width = -(-(longest - shortest + 1) // _MOST_BARS)
    edges = np.arange(shortest, longest + width + 1, width) - 0.5
    colors = [SPLIT_COLORS[split] for split in of_source]
    axes.hist(lengths, edges.tolist(), weights=counts, stacked=True, color=colors, label=list(of_source))
    if shortest == longest:
        axes.set_xlim(shortest - 5, longest + 5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frames per sample", fontsize=8.5, color=MUTED)
    axes.set_ylabel("samples", fontsize=8.5, color=MUTED)
    _plain(axes)


def _draw_bands(axes: Axes, of_source: dict[str, ShardSummary], sensor: Sensor) -> None:
    """Draw mean and standard deviation of the reflectance of each band, one bar per split."""
    width = 0.8 / len(of_source)
    for number, (split, group) in enumerate(of_source.items()):
        mean, std = group.statistics.mean * sensor.scale, group.statistics.std * sensor.scale
        position = np.arange(len(mean)) - 0.4 + width * (number + 0.5)
        label = f"{split}: {group.valid_share(sensor.chip_px):.0%} valid"
        axes.bar(position, mean, width, color=SPLIT_COLORS[split], label=label)
        axes.errorbar(position, mean, std, fmt="none", ecolor=MUTED, elinewidth=0.9, capsize=2)
    axes.set_xticks(range(len(sensor.bands)), sensor.bands)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("reflectance, mean and deviation", fontsize=8.5, color=MUTED)
    _plain(axes)


def _plain(axes: Axes) -> None:
    """Remove the box of the axes, and place their legend above them, where it hides nothing."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.02, 1.0), ncols=3, borderaxespad=0.2)
