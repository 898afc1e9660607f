"""Numbers of a comparison of encoders: means over seeds, differences by seed, and the document that shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import t as student
from tabulate import tabulate

PUBLISHED = Path(__file__).with_name("published.yaml")
REFERENCE = "pretrained"  # what every other encoder is compared with


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run.

    Attributes:
        task, title, encoder, label_fraction, seed: which run it is.
        metrics: its metrics.json; None when it has none.
        seconds: how long its process took, without starts that were interrupted; None when not known.
        error: why it has no metrics.
    """

    task: str
    title: str
    encoder: str
    label_fraction: float
    seed: int
    metrics: dict[str, Any] | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def score(self) -> float:
        """The task's headline score on the test scenes, 0 to 1; NaN where it is missing or not defined."""
        value = None if self.metrics is None else self.metrics["score"]["value"]
        return math.nan if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores of one encoder at one fraction: mean and standard deviation (n - 1) of those that are defined, NaN where too few.

    `values` float64 (seeds,) has NaN for what is missing.
    """

    values: np.ndarray
    mean: float
    deviation: float

    @property
    def count(self) -> int:
        """Scores that are defined."""
        return int((~np.isnan(self.values)).sum())


def cell_of(values: Sequence[float]) -> Cell:
    """The cell of these scores, one a seed, NaN where missing."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    return Cell(
        values=array,
        mean=float(known.mean()) if len(known) else math.nan,
        deviation=float(known.std(ddof=1)) if len(known) > 1 else math.nan,
    )


class TaskComparison:
    """All runs of one task.

    Attributes:
        task, title: which.
        score_name: its headline score.
        encoders, fractions, seeds: as asked for, fractions ascending.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.task, self.title = outcomes[0].task, outcomes[0].title
        self.encoders = list(dict.fromkeys(o.encoder for o in outcomes))
        self.fractions = sorted({o.label_fraction for o in outcomes})
        self.seeds = sorted({o.seed for o in outcomes})
        self._outcomes = {(o.encoder, o.label_fraction, o.seed): o for o in outcomes}
        self.score_name = next((o.metrics["score"]["name"] for o in outcomes if o.metrics), "score")

    def cell(self, encoder: str, fraction: float) -> Cell:
        """Scores of an encoder at a fraction, over seeds."""
        return cell_of([self._outcomes[encoder, fraction, seed].score for seed in self.seeds])

    def gain(self, other: str, fraction: float) -> Cell:
        """The reference's score minus that of another encoder, by seed: the same windows, another encoder."""
        return cell_of(self.cell(REFERENCE, fraction).values - self.cell(other, fraction).values)

    def training(self, fraction: float) -> list[dict[str, Any]]:
        """What the finished runs of a fraction say of their training windows."""
        outcomes = [self._outcomes[encoder, fraction, seed] for encoder in self.encoders for seed in self.seeds]
        return [o.metrics["training"] for o in outcomes if o.metrics]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: a row a cell, and a row a difference."""
        cells = [(encoder, fraction, self.cell(encoder, fraction)) for encoder in self.encoders for fraction in self.fractions]
        others = [encoder for encoder in self.encoders if encoder != REFERENCE and REFERENCE in self.encoders]
        gains = [(encoder, fraction, self.gain(encoder, fraction)) for encoder in others for fraction in self.fractions]
        return {
            "title": self.title,
            "score": self.score_name,
            "cells": [
                {"encoder": e, "label_fraction": f, "mean": c.mean, "standard_deviation": c.deviation, "seeds": c.count}
                for e, f, c in cells
            ],
            f"{REFERENCE}_minus": [
                {"encoder": e, "label_fraction": f, "mean": c.mean, "standard_error": standard_error(c), "seeds": c.count}
                for e, f, c in gains
            ],
        }


def standard_error(cell: Cell) -> float:
    """Standard error of the cell's mean; NaN for fewer than two values."""
    return cell.deviation / math.sqrt(cell.count) if cell.count > 1 else math.nan


def markdown(comparisons: Sequence[TaskComparison], outcomes: Sequence[Outcome], picture: str) -> str:
    """The whole document: for each task scores, labels, differences by seed, published figures; and what is missing."""
    seeds = len(comparisons[0].seeds)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [
        "# Comparison of encoders",
        f"Scores on the test scenes in percent, {over}. A seed draws the labelled windows, the weights and their order; with one "
        "seed and share of the labels all encoders see the same windows. All windows of validation, whatever the share, choose "
        "the epoch. Pixels are normalised by the statistics that come with a checkpoint, without one by those of the training "
        "windows.",
        f"![Score by share of the labels]({picture})",
    ]
    published = yaml.safe_load(PUBLISHED.read_text())
    for comparison in comparisons:
        parts += [f"## {comparison.title}: {comparison.score_name}, %", _score_table(comparison)]
        if REFERENCE in comparison.encoders and len(comparison.encoders) > 1:
            parts += [_gain_text(seeds), _gain_table(comparison)]
        if comparison.task in published:
            parts += _published(published[comparison.task])
    missing = [o for o in outcomes if o.error]
    if missing:
        rows = [[o.task, o.encoder, share(o.label_fraction), o.seed, o.error] for o in missing]
        header = ["task", "encoder", "labels", "seed", "why"]
        parts += [f"## Missing: {len(missing)} of {len(outcomes)} runs", _table(rows, header)]
    return "\n\n".join(parts) + "\n"


def share(fraction: float) -> str:
    """A fraction of the labels as percent."""
    return f"{100 * fraction:g} %"


def _score_table(comparison: TaskComparison) -> str:
    fractions, seeds = comparison.fractions, len(comparison.seeds)
    rows = [
        [name_of(encoder), *(_shown(comparison.cell(encoder, f), "±", seeds) for f in fractions)]
        for encoder in comparison.encoders
    ]
    training = [comparison.training(fraction) for fraction in fractions]
    windows = [f"{_range(t['windows'] for t in each)} of {_range(t['of_windows'] for t in each)}" for each in training]
    pixels = [_range(sum(t["pixels"].values()) for t in each) for each in training]
    steps = [_range(t["steps"] for t in each) for each in training]
    rows += [["*training windows*", *windows], ["*labelled pixels*", *pixels], ["*steps*", *steps]]
    return _table(rows, ["labels", *map(share, fractions)])


def _gain_text(seeds: int) -> str:
    text = f"{name_of(REFERENCE).capitalize()} minus the others, in points, by seed: mean difference (its standard error)."
    if seeds > 1:
        least = student.ppf(0.975, seeds - 1)
        text += (
            f" With {seeds} seeds a difference is told from none, at 5 % and one by one, from {least:.1f} standard errors on "
            "(Student's t; more where seeds are missing). All seeds have the same test scenes: other regions may differ by more."
        )
    return text


def _gain_table(comparison: TaskComparison) -> str:
    others = [encoder for encoder in comparison.encoders if encoder != REFERENCE]
    rows = [
        [
            f"minus {name_of(other)}",
            *(_shown(comparison.gain(other, f), "()", len(comparison.seeds)) for f in comparison.fractions),
        ]
        for other in others
    ]
    return _table(rows, ["labels", *map(share, comparison.fractions)])


def _published(known: dict[str, Any]) -> list[str]:
    rows = [[entry["encoder"], share(entry["label_fraction"]), f"{entry['f1']:.2f}"] for entry in known["results"]]
    text = f"Published figures, as context, **not comparable: other data, other size** ({known['data']}):"
    return [text, _table(rows, ["published", "labels", "F1 %"])]


def _shown(cell: Cell, form: str, seeds: int) -> str:
    """`81.20 ± 1.10`, or for a difference `+2.30 (0.80)`; where seeds are missing, how many there are."""
    if not cell.count:
        return "missing"
    if form == "±":
        text = f"{100 * cell.mean:.2f}" + (f" ± {100 * cell.deviation:.2f}" if cell.count > 1 else "")
    else:
        text = f"{100 * cell.mean:+.2f}" + (f" ({100 * standard_error(cell):.2f})" if cell.count > 1 else "")
    return text if cell.count == seeds else f"{text} [{cell.count} of {seeds}]"


def name_of(encoder: str) -> str:
    """An encoder's name for people."""
    return {"unet": "U-Net", "temporal_cnn": "temporal CNN", "lora": "LoRA", "scratch": "from scratch"}.get(encoder, encoder)


def _range(values: Iterable[int]) -> str:
    """The one value of all runs, or from the least to the greatest."""
    found = sorted(set(values))
    return " to ".join(f"{value:,}" for value in dict.fromkeys([found[0], found[-1]])) if found else "-"


def _table(rows: list[list[Any]], header: list[str]) -> str:
    aligned = ("left", *["right"] * (len(header) - 1)) if header[0] == "labels" else None
    return tabulate(rows, header, tablefmt="pipe", colalign=aligned, disable_numparse=True)
