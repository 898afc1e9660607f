"""The document of a comparison: Markdown tables of scores and differences, with published figures beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import t as student
from tabulate import tabulate

from finetune.comparison.seed_statistics import REFERENCE, Cell, Outcome, TaskComparison, standard_error
from finetune.comparison.titles import encoder_title, label_fraction_title

PUBLISHED = Path(__file__).with_name("published.yaml")


def markdown_document(comparisons: Sequence[TaskComparison], outcomes: Sequence[Outcome], picture: str) -> str:
    """The document of a comparison: scores, labels, differences and published figures of each task; runs without scores."""
    seeds = len(comparisons[0].seeds)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [
        "# Comparison of encoders",
        f"Scores on the test scenes in percent, {over}. A seed draws the labelled windows, the weights and their order; with one "
        "seed and fraction of the labels, all encoders get the same windows. All validation windows, whatever the fraction, "
        "choose the epoch. Pixels are normalised by the statistics of the checkpoint or, without one, of the training windows.",
        f"![Score by fraction of the labels]({picture})",
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
        rows = [[o.task, o.encoder, label_fraction_title(o.label_fraction), o.seed, o.error] for o in missing]
        header = ["task", "encoder", "labels", "seed", "why"]
        parts += [f"## Missing: {len(missing)} of {len(outcomes)} runs", _table(rows, header)]
    return "\n\n".join(parts) + "\n"


def _score_table(comparison: TaskComparison) -> str:
    fractions, seeds = comparison.fractions, len(comparison.seeds)
    rows = [
        [encoder_title(encoder), *(_shown(comparison.cell(encoder, f), "±", seeds) for f in fractions)]
        for encoder in comparison.encoders
    ]
    training = [comparison.training(fraction) for fraction in fractions]
    windows = [f"{_range(t['windows'] for t in each)} of {_range(t['of_windows'] for t in each)}" for each in training]
    pixels = [_range(sum(t["pixels"].values()) for t in each) for each in training]
    steps = [_range(t["steps"] for t in each if "steps" in t) for each in training]  # a forest has none
    rows += [["*training windows*", *windows], ["*labelled pixels*", *pixels], ["*steps*", *steps]]
    return _table(rows, ["labels", *map(label_fraction_title, fractions)])


def _gain_text(seeds: int) -> str:
    text = f"{encoder_title(REFERENCE).capitalize()} minus the others, in points, by seed: mean difference (its standard error)."
    if seeds > 1:
        least = student.ppf(0.975, seeds - 1)
        text += (
            f" With {seeds} seeds, a single difference is significant at the 5 % level from {least:.1f} standard errors on "
            "(Student's t; more if seeds are missing). All seeds share the same test scenes: in other regions differences may be "
            "larger."
        )
    return text


def _gain_table(comparison: TaskComparison) -> str:
    others = [encoder for encoder in comparison.encoders if encoder != REFERENCE]
    rows = [
        [
            f"minus {encoder_title(other)}",
            *(_shown(comparison.gain(other, f), "()", len(comparison.seeds)) for f in comparison.fractions),
        ]
        for other in others
    ]
    return _table(rows, ["labels", *map(label_fraction_title, comparison.fractions)])


def _published(known: dict[str, Any]) -> list[str]:
    rows = [[entry["encoder"], label_fraction_title(entry["label_fraction"]), f"{entry['f1']:.2f}"] for entry in known["results"]]
    text = f"Published figures, as context, **not comparable: other data, other size** ({known['data']}):"
    return [text, _table(rows, ["published", "labels", "F1 %"])]


def _shown(cell: Cell, form: str, seeds: int) -> str:
    """`81.20 ± 1.10`, or for a difference `+2.30 (0.80)`; if seeds are missing, also how many there are."""
    if not cell.count:
        return "missing"
    if form == "±":
        text = f"{100 * cell.mean:.2f}" + (f" ± {100 * cell.deviation:.2f}" if cell.count > 1 else "")
    else:
        text = f"{100 * cell.mean:+.2f}" + (f" ({100 * standard_error(cell):.2f})" if cell.count > 1 else "")
    return text if cell.count == seeds else f"{text} [{cell.count} of {seeds}]"


def _range(values: Iterable[int]) -> str:
    """The value of all runs, or the lowest and the highest."""
    found = sorted(set(values))
    return " to ".join(f"{value:,}" for value in dict.fromkeys([found[0], found[-1]])) if found else "-"


def _table(rows: list[list[Any]], header: list[str]) -> str:
    aligned = ("left", *["right"] * (len(header) - 1)) if header[0] == "labels" else None
    return tabulate(rows, header, tablefmt="pipe", colalign=aligned, disable_numparse=True)
