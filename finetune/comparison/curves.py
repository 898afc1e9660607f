"""Learning curves: score over the fraction of the labels, with one panel per task and one line per encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from finetune.comparison.difference_figure import about_data
from finetune.comparison.seed_statistics import TaskComparison
from finetune.comparison.styles import encoder_style
from finetune.comparison.titles import encoder_title, label_fraction_title

COLUMNS = 3


def learning_curves(comparisons: Sequence[TaskComparison]) -> Figure:
    """Mean and range over seeds of each task's score; for a single fraction, one dot per seed and a bar for the mean."""
    columns = min(COLUMNS, len(comparisons))
    rows = math.ceil(len(comparisons) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches
    figure = Figure(figsize=(max(6.0, 4.6 * columns), 3.8 * rows + 0.5), dpi=110, layout=layout)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, comparison in zip(panels, comparisons, strict=False):
        draw = _curves if len(comparison.fractions) > 1 else _dots
        draw(panel, comparison)
        panel.set_title(comparison.title, fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(comparisons) :]:
        panel.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3 * columns), frameon=False)
    seeds = len(comparisons[0].seeds)
    title = "Test scenes" + about_data(comparisons)
    if seeds > 1:
        shown = "line: mean, band: lowest to highest" if handles else "dots: seeds, line: mean"
        title = f"Test scenes, {seeds} seeds ({shown}){about_data(comparisons)}"
    figure.suptitle(title, fontsize=10, color="#555555")
    return figure


def _curves(panel: Axes, comparison: TaskComparison) -> None:
    fractions = np.array(comparison.fractions)
    for encoder in comparison.encoders:
        style = encoder_style(encoder, comparison.encoders)
        cells = [comparison.cell(encoder, fraction) for fraction in comparison.fractions]
        found = [100 * cell.values[~np.isnan(cell.values)] for cell in cells]  # NaN: failed or not run yet
        lowest, highest = ([end(values) if len(values) else np.nan for values in found] for end in (np.min, np.max))
        panel.fill_between(fractions, lowest, highest, color=style.color, alpha=0.15, linewidth=0)
        panel.plot(
            fractions,
            [100 * cell.mean for cell in cells],
            color=style.color,
            linestyle=style.line,
            marker=style.marker,
            markerfacecolor=style.face,
            markersize=5,
            linewidth=1.8,
            label=encoder_title(encoder),
        )
    panel.set_xscale("log")
    panel.set_xticks(fractions, [label_fraction_title(fraction) for fraction in comparison.fractions])
    panel.minorticks_off()
    panel.set_xlabel("training windows with labels")
    panel.set_ylabel(f"{comparison.score_name}, %")
    panel.grid(alpha=0.3)


def _dots(panel: Axes, comparison: TaskComparison) -> None:
    names = [encoder_title(encoder) for encoder in comparison.encoders]
    for row, encoder in enumerate(comparison.encoders):
        color = encoder_style(encoder, comparison.encoders).color
        cell = comparison.cell(encoder, comparison.fractions[0])
        values = 100 * cell.values[~np.isnan(cell.values)]
        panel.plot(values, np.full(len(values), row), "o", color=color, alpha=0.5, markersize=7, markeredgewidth=0)
        panel.plot([100 * cell.mean] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2.5)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlabel(f"{comparison.score_name}, %, with {label_fraction_title(comparison.fractions[0])} of the labels")
    panel.grid(alpha=0.3, axis="x")
