"""Differences between the reference and every other encoder, for all tasks and fractions of the labels on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from finetune.comparison.seed_statistics import Cell, TaskComparison
from finetune.comparison.styles import Style, encoder_style
from finetune.comparison.titles import encoder_title, label_fraction_title

LEAST_RANGE = 5.0  # points on both sides of zero
BAND = 0.3  # half the height of the interval over scenes; encoders are 1 apart
GAP = 0.8  # between tasks
CUT = "cut"  # marks the arrows of intervals that the axis cuts


def difference_figure(settings: Mapping[str, Sequence[TaskComparison]]) -> Figure | None:
    """Mean differences in points, with their intervals: one row of panels per setting, one column per fraction of the labels.

    `settings`: the tasks of a comparison by the title of its data; "" for none. All panels have the same axis. Its range leaves
    out those ends of intervals that lie more than twice as far from zero as any difference: of two seeds an interval may be
    hundreds of points wide. The result is None when no task has a reference and another encoder.
    """
    settings = {title: [c for c in comparisons if c.others] for title, comparisons in settings.items()}
    settings = {title: comparisons for title, comparisons in settings.items() if comparisons}
    if not settings:
        return None
    everything = [comparison for comparisons in settings.values() for comparison in comparisons]
    fractions = sorted({fraction for comparison in everything for fraction in comparison.fractions})
    compared = list(dict.fromkeys(encoder for comparison in everything for encoder in comparison.encoders))
    others = [encoder for encoder in compared if any(encoder in comparison.others for comparison in everything)]
    styles = {encoder: encoder_style(encoder, compared) for encoder in others}
    most_tasks = max(map(len, settings.values()))
    height = len(settings) * (most_tasks * (0.17 * len(styles) + 0.2) + 0.6) + 1.4
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08)
    figure = Figure(figsize=(2.2 + max(4.5, 2.7 * len(fractions)), height), dpi=110, layout=layout)
    panels = figure.subplots(len(settings), len(fractions), squeeze=False, sharex=True)
    limit = axis_limit([c.gain(e, f) for c in everything for e in c.others for f in c.fractions])
    for row, (title, comparisons) in zip(panels, settings.items(), strict=True):
        for panel, fraction in zip(row, fractions, strict=True):
            _draw_panel(panel, comparisons, fraction, styles, limit)
            panel.set_title(", ".join(filter(None, [title, f"{label_fraction_title(fraction)} of labels"])), fontsize=10)
            if panel is not row[0]:
                panel.tick_params(labelleft=False)
    panels[0][0].set_xlim(-limit, limit)
    reference = " or ".join(dict.fromkeys(encoder_title(str(c.reference)) for c in everything))
    note = f"{reference} minus the other encoder, in points: right of zero, {reference} is better{about_data(everything)}"
    figure.suptitle(note, fontsize=10, color="#555555")
    handles = difference_legend(styles)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=9)
    return figure


def about_data(comparisons: Sequence[TaskComparison]) -> str:
    """What a title says of simulated data; "" where none is known to be simulated."""
    simulated = [comparison.simulated for comparison in comparisons]
    return "" if not any(simulated) else "; simulated data" if all(simulated) else "; partly simulated data"


def _draw_panel(
    panel: Axes, comparisons: Sequence[TaskComparison], fraction: float, styles: Mapping[str, Style], limit: float
) -> None:
    """The differences of all tasks at one fraction, from top to bottom."""
    step = len(styles) + GAP
    panel.axvline(0, color="#333333", linewidth=1, zorder=1)
    for number, comparison in enumerate(comparisons):
        if number:
            panel.axhline(number * step - (1 + GAP) / 2, color="#dddddd", linewidth=0.8, zorder=0)
        for place, (encoder, style) in enumerate(styles.items()):
            if encoder in comparison.others and fraction in comparison.fractions:
                _draw_difference(panel, number * step + place, comparison.gain(encoder, fraction), style, limit)
    middles = [number * step + (len(styles) - 1) / 2 for number in range(len(comparisons))]
    panel.set_yticks(middles, [comparison.title for comparison in comparisons])
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(comparisons) * step - (1 + GAP) / 2, -(1 + GAP) / 2)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x", alpha=0.3)


def _draw_difference(panel: Axes, height: float, gain: Cell, style: Style, limit: float) -> None:
    """A dot at the mean, with its intervals."""
    draw_interval(panel, height, gain, style, limit, upright=False, half_width=BAND)
    dot = {"color": style.color, "markerfacecolor": style.face, "marker": style.marker, "markersize": 5.5}
    panel.plot([100 * gain.mean], [height], linestyle="", **dot)  # type: ignore[arg-type]


def draw_interval(panel: Axes, at: float, gain: Cell, style: Style, limit: float, *, upright: bool, half_width: float) -> None:
    """A line for the interval over seeds, a band for the one over scenes, and an arrow where the axis cuts an interval.

    Args:
        panel: where to draw.
        at: place across the axis of differences.
        gain: the difference.
        style: that of the encoder.
        limit: half of the axis' range, in points.
        upright: whether the axis of differences is the vertical one.
        half_width: half of the width of the band.
    """
    seeds = [100 * end for end in gain.over_seeds]
    scenes = [] if gain.over_scenes is None else [100 * end for end in gain.over_scenes]
    if scenes:
        band = panel.fill_betweenx if upright else panel.fill_between
        band(scenes, at - half_width, at + half_width, color=style.color, alpha=0.25, linewidth=0)
    line = ([at, at], seeds) if upright else (seeds, [at, at])
    panel.plot(*line, color=style.color, linewidth=1.3, solid_capstyle="butt")
    for end, marker in ((-limit, "v" if upright else "<"), (limit, "^" if upright else ">")):
        if any(abs(value) > limit and value * end > 0 for value in [*seeds, *scenes]):
            inside = 0.98 * end
            place = (at, inside) if upright else (inside, at)
            panel.plot(*([axis] for axis in place), marker=marker, color=style.color, markersize=5, linestyle="", gid=CUT)


def difference_legend(styles: Mapping[str, Style]) -> list[Line2D | Patch]:
    """What dots, lines, bands and arrows mean."""
    dots: list[Line2D | Patch] = [
        Line2D(
            [], [], color=s.color, marker=s.marker, markerfacecolor=s.face, linestyle="", label=f"minus {encoder_title(encoder)}"
        )
        for encoder, s in styles.items()
    ]
    return [
        *dots,
        Line2D([], [], color="#555555", label="95 % interval over draws of labels"),
        Patch(facecolor="#555555", alpha=0.25, label="95 % interval over test scenes"),
        Line2D([], [], color="#555555", marker=">", linestyle="", markersize=5, label="the interval goes on"),
    ]


def axis_limit(gains: Sequence[Cell]) -> float:
    """Half of the axis' range, in points."""
    means = 100 * np.array([gain.mean for gain in gains])
    ends = 100 * np.concatenate([[*gain.over_seeds, *(gain.over_scenes or ())] for gain in gains])
    widest, largest = (float(np.abs(values[~np.isnan(values)]).max(initial=0)) for values in (ends, means))
    return 1.05 * max(LEAST_RANGE, largest, min(widest, 2 * largest))
