"""The document of a comparison: Markdown tables of scores and differences, with published figures beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tabulate import tabulate

from finetune.comparison.convergence import CRITERION
from finetune.comparison.encoders import FOREST
from finetune.comparison.seed_statistics import Cell, Outcome, TaskComparison
from finetune.comparison.titles import encoder_title, label_fraction_title

INTERVALS = (
    "Differences are means over seeds, each of runs with the same labelled windows. They have two 95 % intervals: over seeds "
    "(Student's t), which says how far other draws of labels and weights may lead; and over test scenes (paired bootstrap, "
    "averaged over seeds), which says the same of other scenes like these. Neither holds the doubt of the other, nor that "
    "of another pretraining."
)
PUBLISHED = Path(__file__).with_name("published.yaml")
NO_FOREST = (
    "**This comparison lacks the random forest**, which sees the series of single pixels and with few labels is the one to beat: "
    "what it does not show is whether a forest would do as well. Add `random_forest` to `--encoders`."
)


def markdown_document(
    comparisons: Sequence[TaskComparison], outcomes: Sequence[Outcome], curves: Sequence[str], differences: str
) -> str:
    """The document of a comparison: scores, labels, differences and published figures of each task; runs without scores.

    Args:
        comparisons: the runs by task.
        outcomes: all runs.
        curves: names of the pictures of scores and, if there is one, of differences by fraction of the labels.
        differences: name of the picture of differences; it is left out when there are none.
    """
    parts = [
        "# Comparison of encoders",
        *_notes(comparisons),
        *_overview({"": comparisons}, differences),
        *(f"![{about} by fraction of the labels]({name})" for about, name in zip(("Score", "Differences"), curves, strict=False)),
    ]
    for comparison in comparisons:
        parts += _task_parts(comparison, "##")
    parts += ["## Convergence", CRITERION, _convergence_table(comparisons)]
    return "\n\n".join(parts + _missing(outcomes, "##")) + "\n"


def joined_document(settings: Mapping[str, tuple[Sequence[TaskComparison], Sequence[Outcome]]], differences: str) -> str:
    """The document of comparisons on several data: their differences side by side, then the tables of each.

    Args:
        settings: the tasks and the runs of each comparison, by the title of its data.
        differences: name of the picture of differences.
    """
    notes = list(dict.fromkeys(note for comparisons, _ in settings.values() for note in _notes(comparisons)))
    parts = ["# Comparison of encoders: " + ", ".join(settings), *notes]
    parts += _overview({title: comparisons for title, (comparisons, _) in settings.items()}, differences)
    for title, (comparisons, outcomes) in settings.items():
        parts.append(f"## {title}")
        for comparison in comparisons:
            parts += _task_parts(comparison, "###")
        parts += ["### Convergence", CRITERION, _convergence_table(comparisons), *_missing(outcomes, "###")]
    return "\n\n".join(parts) + "\n"


def _notes(comparisons: Sequence[TaskComparison]) -> list[str]:
    """What a reader must know before the numbers."""
    seeds = len(comparisons[0].seeds)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return [
        *(["**The data are simulated.**"] if any(comparison.simulated for comparison in comparisons) else []),
        *([] if all(FOREST in comparison.encoders for comparison in comparisons) else [NO_FOREST]),
        f"Scores on the test scenes in percent, {over}. A seed draws the labelled windows, the weights that are not pretrained, "
        "and order, dates and augmentation of the windows; with one seed and fraction of the labels, all encoders get the same "
        "windows. The checkpoint and the test scenes are the same for all seeds. All validation windows, whatever the fraction, "
        "choose the epoch. Pixels are normalised by the statistics of the checkpoint or, without one, of the training windows.",
    ]


def _overview(settings: Mapping[str, Sequence[TaskComparison]], picture: str) -> list[str]:
    """The picture of differences and, for several tasks, their means and how many are clear."""
    with_others = {title: [c for c in comparisons if c.others] for title, comparisons in settings.items()}
    everything = [comparison for comparisons in with_others.values() for comparison in comparisons]
    if not everything:
        return []
    parts = [f"![Differences with intervals]({picture})", INTERVALS]
    if len(everything) == 1:
        return parts
    columns = [(title, fraction) for title, comparisons in with_others.items() for fraction in _fractions(comparisons)]
    others = list(dict.fromkeys(other for comparison in everything for other in comparison.others))
    rows = [[f"minus {encoder_title(o)}", *(_over_tasks(with_others[t], o, f) for t, f in columns)] for o in others]
    header = ["labels", *(", ".join(filter(None, [title, label_fraction_title(fraction)])) for title, fraction in columns)]
    reference = " or ".join(dict.fromkeys(encoder_title(str(comparison.reference)) for comparison in everything))
    text = (
        f"{reference.capitalize()} minus the others over all tasks, in points: the mean difference, and the number of tasks on "
        "which both intervals lie above 0, and below."
    )
    return [*parts, text, _table(rows, header)]


def _fractions(comparisons: Sequence[TaskComparison]) -> list[float]:
    return sorted({fraction for comparison in comparisons for fraction in comparison.fractions})


def _over_tasks(comparisons: Sequence[TaskComparison], other: str, fraction: float) -> str:
    """`+5.1 (4 above, 1 below of 6)`."""
    gains = [c.gain(other, fraction) for c in comparisons if other in c.others and fraction in c.fractions]
    found = [gain for gain in gains if gain.count]
    if not found:
        return "missing"
    ends = [np.array([gain.over_seeds, *([gain.over_scenes] if gain.over_scenes else [])]) for gain in found]
    above, below = sum(bool((each > 0).all()) for each in ends), sum(bool((each < 0).all()) for each in ends)
    return f"{100 * np.mean([gain.mean for gain in found]):+.1f} ({above} above, {below} below of {len(found)})"


def _task_parts(comparison: TaskComparison, heading: str) -> list[str]:
    parts = [f"{heading} {comparison.title}: {comparison.score_name}, %", _score_table(comparison)]
    if comparison.others:
        title = encoder_title(str(comparison.reference)).capitalize()
        parts += [f"{title} minus the others, in points, with 95 % intervals:", _gain_table(comparison)]
    published = yaml.safe_load(PUBLISHED.read_text())
    return parts + (_published(published[comparison.task]) if comparison.task in published else [])


def _score_table(comparison: TaskComparison) -> str:
    fractions = comparison.fractions
    rows = [[encoder_title(encoder), *(_score(comparison, encoder, f) for f in fractions)] for encoder in comparison.encoders]
    training = [comparison.training(fraction) for fraction in fractions]
    windows = [f"{_range(t['windows'] for t in each)} of {_range(t['of_windows'] for t in each)}" for each in training]
    pixels = [_range(sum(t["pixels"].values()) for t in each) for each in training]
    steps = [_range(t["steps"] for t in each if "steps" in t) for each in training]  # a forest has none
    rows += [["*training windows*", *windows], ["*labelled pixels*", *pixels], ["*steps*", *steps]]
    return _table(rows, ["labels", *map(label_fraction_title, fractions)])


def _score(comparison: TaskComparison, encoder: str, fraction: float) -> str:
    """`81.20 ± 1.10`, with how many seeds there are if some are missing, and how many had converged if some had not."""
    cell, (converged, known) = comparison.cell(encoder, fraction), comparison.convergence(encoder, fraction)
    if not cell.count:
        return "missing"
    text = f"{100 * cell.mean:.2f}" + (f" ± {100 * cell.deviation:.2f}" if cell.count > 1 else "")
    text += _number_of_seeds(cell)
    return text if converged == known else f"{text} [converged: {converged} of {known}]"


def _gain_table(comparison: TaskComparison) -> str:
    pairs = [(other, fraction) for other in comparison.others for fraction in comparison.fractions]
    rows = []
    for other, fraction in pairs:
        gain = comparison.gain(other, fraction)
        mean = f"{100 * gain.mean:+.2f}{_number_of_seeds(gain)}" if gain.count else "missing"
        name = f"minus {encoder_title(other)} at {label_fraction_title(fraction)}"
        rows.append([name, mean, _interval(gain.over_seeds), _interval(gain.over_scenes)])
    scenes = f"over {comparison.num_scenes} test scenes" if comparison.num_scenes else "over test scenes"
    return _table(rows, ["labels", "difference", f"over {len(comparison.seeds)} seeds", scenes])


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None or np.isnan(ends).any() else f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}"


def _number_of_seeds(cell: Cell) -> str:
    """How many seeds have a value, if some are missing."""
    return "" if cell.count == len(cell.values) else f" [{cell.count} of {len(cell.values)}]"


def _convergence_table(comparisons: Sequence[TaskComparison]) -> str:
    """Converged trainings of each cell, of those whose history is known."""
    fractions = _fractions(comparisons)
    rows = []
    for comparison in comparisons:
        for encoder in comparison.encoders:
            counts = [comparison.convergence(encoder, f) if f in comparison.fractions else (0, 0) for f in fractions]
            if any(known for _, known in counts):
                shown = [f"{converged} of {known}" if known else "-" for converged, known in counts]
                rows.append([f"{comparison.title}, {encoder_title(encoder)}", *shown])
    return _table(rows, ["labels", *map(label_fraction_title, fractions)]) if rows else "No training has three epochs or more."


def _missing(outcomes: Sequence[Outcome], heading: str) -> list[str]:
    missing = [o for o in outcomes if o.error]
    if not missing:
        return []
    rows = [[o.task, o.encoder, label_fraction_title(o.label_fraction), o.seed, o.error] for o in missing]
    header = ["task", "encoder", "labels", "seed", "why"]
    return [f"{heading} Missing: {len(missing)} of {len(outcomes)} runs", _table(rows, header)]


def _published(known: dict[str, Any]) -> list[str]:
    rows = [[entry["encoder"], label_fraction_title(entry["label_fraction"]), f"{entry['f1']:.2f}"] for entry in known["results"]]
    text = f"Published figures, as context, **not comparable: other data, other size** ({known['data']}):"
    return [text, _table(rows, ["published", "labels", "F1 %"])]


def _range(values: Iterable[int]) -> str:
    """The value of all runs, or the lowest and the highest."""
    found = sorted(set(values))
    return " to ".join(f"{value:,}" for value in dict.fromkeys([found[0], found[-1]])) if found else "-"


def _table(rows: list[list[Any]], header: list[str]) -> str:
    aligned = ("left", *["right"] * (len(header) - 1)) if header[0] == "labels" else None
    return tabulate(rows, header, tablefmt="pipe", colalign=aligned, disable_numparse=True)
