"""Figures of scores: confusion matrix, training curves, early-season curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.plot_style import INK, MUTED
from finetune.scoring.early_season import SeasonScores
from finetune.scoring.score_text import readable_name

MOST_CLASSES_WITH_COUNTS = 8  # with more classes the cells are too small for a second line


def confusion_figure(matrix: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix (classes, classes) of counts, whose rows are labels; cells are coloured by their share of the row.

    Each cell shows its share in percent and, with up to eight classes, its count. Rows without labelled pixels are grey.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    pixels = counts.sum(axis=1)
    shares = np.divide(counts, pixels[:, None], out=np.full_like(counts, np.nan), where=pixels[:, None] > 0)
    number = len(classes)
    with_counts = number <= MOST_CLASSES_WITH_COUNTS
    side = number * (0.95 if with_counts else 0.6)
    figure = Figure(figsize=(side + 2.2, side + 1.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    colors = colormaps["Blues"].with_extremes(bad="#e8e8e8")
    axes.imshow(np.ma.masked_invalid(shares), cmap=colors, vmin=0, vmax=1.15)  # the darkest blue would hide the text
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        text = _share(share)
        if with_counts and not np.isnan(share):
            text += f"\n{_short(float(counts[row, column]))}"
        color = "white" if share > 0.7 else INK if share > 0 else MUTED
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10 if with_counts else 8)
    labels = [readable_name(name) for name in classes]
    axes.set_xticks(range(number), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(number), [f"{name}\n{_short(count)} px" for name, count in zip(labels, pixels.tolist(), strict=True)])
    axes.set_xlabel("map", color=MUTED)
    axes.set_ylabel("label", color=MUTED)
    axes.tick_params(length=0, colors=INK)
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return figure


def training_figure(history: Sequence[Mapping[str, float | None]], best_epoch: int = 0) -> Figure:
    """The numbers of each epoch: losses (names with "loss") left, scores right; a line at `best_epoch`, counted from 1."""
    names = list(dict.fromkeys(name for epoch in history for name in epoch))
    panels = [[name for name in names if "loss" in name], [name for name in names if "loss" not in name]]
    panels = [panel for panel in panels if panel]
    figure = Figure(figsize=(4.6 * len(panels), 2.9), layout="constrained", facecolor="white")
    epochs = np.arange(len(history)) + 1
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in panel:
            values = [epoch.get(name) for epoch in history]
            axes.plot(epochs, [np.nan if v is None else v for v in values], marker="o", markersize=3, label=_title(name))
        if best_epoch:
            axes.axvline(best_epoch, color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_xlabel("epoch", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel) > 1:
            axes.legend(frameon=False, fontsize=9)
        else:
            axes.set_title(_title(panel[0]), fontsize=10, loc="left")
    return figure


def season_figure(season: SeasonScores, simulated: bool = False) -> Figure:
    """F1 over the last date seen: one line per class in its colour, the headline's bold, and the date that is early enough.

    `simulated`: whether test scenes are simulated; the title says so.
    """
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    _plot_season_curves(axes, season)
    headline, values = season.headline, season.f1
    early = season.early_enough()[headline]
    share = f"{100 * season.task.season_share:g} % of the whole season's"
    if early is not None:
        axes.axhline(100 * season.task.season_share * values[headline][-1], color="#777777", linewidth=1, linestyle=":")
        axes.axvline(date2num(early), color="#777777", linewidth=1, linestyle=":")
    when = f"is {share} from {early} on" if early is not None else "is 0 or not defined at the end"
    data = " (simulated data)" if simulated else ""
    axes.set_title(f"{season.task.title}{data}: {readable_name(headline)} F1 {when}", fontsize=11)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("last date seen")
    axes.set_ylabel("F1, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    # Beside the axes, so that it never covers a line.
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _plot_season_curves(axes: Axes, season: SeasonScores) -> None:
    """One line per class and one for their mean; the headline's lies on top."""
    colors = {c.name: c.color for c in season.task.classes} | {"mean": "#000000"}
    values, headline = season.f1, season.headline
    for name in sorted(values, key=lambda name: name == headline):
        bold = name == headline
        axes.plot(
            season.dates,
            100 * values[name],
            color=colors[name],
            marker="o",
            markersize=5 if bold else 3.5,
            linewidth=2.6 if bold else 1.3,
            linestyle="--" if name == "mean" and not bold else "-",
            label=readable_name(name),
        )


def _title(score: str) -> str:
    return readable_name(score).replace("f1", "F1").replace("iou", "IoU")


def _share(share: float) -> str:
    """A share in percent; a share above 0 is never shown as 0, nor one below 1 as 100."""
    if np.isnan(share):
        return "-"
    if 0 < share < 0.0005:
        return "<0.1"
    if 0.9995 <= share < 1:
        return ">99.9"
    return f"{100 * share:.1f}" if 0 < share < 1 else f"{100 * share:g}"


def _short(count: float) -> str:
    """A count with three digits: 12, 3.46k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"
