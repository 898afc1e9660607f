"""Learning curves as differences: the reference minus every other encoder over the fraction of the labels, on one common axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from finetune.comparison.difference_figure import about_data, axis_limit, difference_legend, draw_interval
from finetune.comparison.seed_statistics import TaskComparison
from finetune.comparison.styles import Style, encoder_style
from finetune.comparison.titles import encoder_title, label_fraction_title

COLUMNS = 3
DODGE = 0.06  # of the distance between two fractions, by which encoders stand beside each other


def difference_curves(comparisons: Sequence[TaskComparison]) -> Figure | None:
    """Mean differences in points over the fraction of the labels, with their intervals: one panel per task, one line per encoder.

    All panels have the same axes. The result is None without a reference and another encoder, and with a single fraction.
    """
    shown = [comparison for comparison in comparisons if comparison.others and len(comparison.fractions) > 1]
    if not shown:
        return None
    compared = list(dict.fromkeys(encoder for comparison in shown for encoder in comparison.encoders))
    others = [encoder for encoder in compared if any(encoder in comparison.others for comparison in shown)]
    styles = {encoder: encoder_style(encoder, compared) for encoder in others}
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
    figure = Figure(figsize=(max(6.0, 4.2 * columns), 3.4 * rows + 1.2), dpi=110, layout=layout)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    fractions = sorted({fraction for comparison in shown for fraction in comparison.fractions})
    limit = axis_limit([c.gain(e, f) for c in shown for e in c.others for f in c.fractions])
    for panel, comparison in zip(panels, shown, strict=False):
        _draw_panel(panel, comparison, fractions, styles, limit)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    panels[0].set_ylim(-limit, limit)
    reference = " or ".join(dict.fromkeys(encoder_title(str(comparison.reference)) for comparison in shown))
    note = f"{reference} minus the other encoder, in points: above zero, {reference} is better{about_data(shown)}"
    figure.suptitle(note, fontsize=10, color="#555555")
    handles = difference_legend(styles)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=9)
    return figure


def _draw_panel(
    panel: Axes, comparison: TaskComparison, fractions: Sequence[float], styles: Mapping[str, Style], limit: float
) -> None:
    """The differences of one task, over the fractions on a logarithmic axis."""
    at = np.log10(fractions)
    step = DODGE * float(np.diff(at).min())
    panel.axhline(0, color="#333333", linewidth=1, zorder=1)
    for place, (encoder, style) in enumerate(styles.items()):
        if encoder not in comparison.others:
            continue
        here = [fraction for fraction in fractions if fraction in comparison.fractions]
        gains = [comparison.gain(encoder, fraction) for fraction in here]
        x = np.log10(here) + step * (place - (len(styles) - 1) / 2)
        for position, gain in zip(x, gains, strict=True):
            draw_interval(panel, float(position), gain, style, limit, upright=True, half_width=step / 2.5)
        means = [100 * gain.mean for gain in gains]
        panel.plot(
            x,
            means,
            color=style.color,
            linestyle=style.line,
            linewidth=1.3,
            marker=style.marker,
            markerfacecolor=style.face,
            markersize=5,
        )
    panel.set_xticks(at, [label_fraction_title(fraction) for fraction in fractions])
    panel.tick_params(labelbottom=True)  # also where another panel is below
    panel.set_xlabel("training windows with labels")
    panel.set_title(comparison.title, fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)
