"""Scores as the season goes on: how good the map is when the series ends at a date, and from which date on it is good enough.

The series is cut at each of a task's `cut_dates`: images of later days are not there, and their periods are zeros, as those of
any period without an image. What is scored, a model's windows or maps, is up to the caller:

    def score(days):
        with ended_after(dataset, days):
            return evaluate(model, dataset, batch_size, device, loss)

    write_season(score_season(score, task, year=2022), output)  # early_season.json, .md (a table) and .png (a plot)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from tabulate import tabulate

from common.atomic_files import whole_file, write_json
from finetune.data.windows import LabelledWindows
from finetune.scoring.metrics import SCORES_OVER_CLASSES
from finetune.task import Task


@dataclass(frozen=True, kw_only=True)
class SeasonScores:
    """Scores of a map by the last date seen.

    Attributes:
        task: what is mapped.
        dates: (N,) datetime64[D], ascending, the season's last day at the end.
        scores: (N,) `metrics.scores` at each date.
    """

    task: Task
    dates: np.ndarray
    scores: Sequence[Mapping[str, Any]]

    @property
    def headline(self) -> str:
        """Name of the curve that stands for the task: its target class, or `mean`."""
        return self.task.target or "mean"

    @property
    def f1(self) -> dict[str, np.ndarray]:
        """F1 of each class, and `mean` over them, at each date: float64 (N,), NaN where it is not defined."""
        curves = {"mean": _numbers(found["mean_f1"] for found in self.scores)}
        for c in self.task.classes:
            curves[c.name] = _numbers(found["classes"][c.name]["f1"] for found in self.scores)
        return curves

    def early_enough(self) -> dict[str, np.datetime64 | None]:
        """For each curve of `f1` the earliest date from which on `season_share` of the last date's F1 is kept."""
        return {name: earliest(self.dates, values, self.task.season_share) for name, values in self.f1.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task.name,
            "share": self.task.season_share,
            "headline": self.headline,
            "early_enough": {name: None if d is None else str(d) for name, d in self.early_enough().items()},
            "dates": [{"last_date": str(d), **found} for d, found in zip(self.dates, self.scores, strict=True)],
        }


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def earliest(dates: np.ndarray, values: np.ndarray, share: float) -> np.datetime64 | None:
    """The first of `dates` (N,) from which on all `values` (N,) are at least `share` of the last one.

    A value that is not defined (NaN) does not reach it. None when the last value is 0 or not defined: nothing was learned
    that could be reached early.
    """
    if not len(values) or not values[-1] > 0:
        return None
    short = np.flatnonzero(~(values >= share * values[-1]))
    found: np.datetime64 = dates[short[-1] + 1 if len(short) else 0]
    return found


@contextmanager
def ended_after(windows: LabelledWindows, days: float) -> Iterator[None]:
    """Within it, `windows` know only the images of the first `days` days of their season. Models see zeros after that."""
    before, windows.seen_days = windows.seen_days, days
    try:
        yield
    finally:
        windows.seen_days = before


def score_season(score: Callable[[int], Mapping[str, Any]], task: Task, year: int) -> SeasonScores:
    """Score at each of the task's cut dates, and with the whole season.

    Args:
        score: the `metrics.scores` of the map when so many days of the season have passed. Days and not a date: scenes of
            another year are cut after as many.
        task: its `cut_dates` say when.
        year: the year in which the season ends.

    Raises ValueError when the task has no cut dates.
    """
    if not task.cut_dates:
        raise ValueError(
            f'task {task.name} has no cut_dates, the last dates at which it is to be scored: give them, as cut_dates: ["06-01", '
            '"07-01"]; see finetune/tasks/early_season.yaml'
        )
    first, _ = task.season_of(year)
    days = task.days_seen(year)
    dates = first + (np.array(days) - 1).astype("timedelta64[D]")
    return SeasonScores(task=task, dates=dates, scores=[score(n) for n in days])


def season_table(season: SeasonScores) -> str:
    """A Markdown table: a row a date, F1 of each class, means, and which dates are early enough."""
    names = list(season.f1)
    others = SCORES_OVER_CLASSES[1:]  # the mean F1 is among the names
    columns = [*(season.f1[name] for name in names), *(_numbers(s[name] for s in season.scores) for name in others)]
    rows = [
        [str(d), *("-" if np.isnan(value) else f"{100 * value:.2f}" for value in values)]
        for d, *values in zip(season.dates, *columns, strict=True)
    ]
    early = season.early_enough()
    rows.append([f"{100 * season.task.season_share:g} % of the last", *(str(early[name] or "-") for name in names), "", "", ""])
    header = ["last date seen", *(f"F1 {name.replace('_', ' ')} %" for name in names)]
    header += ["mean IoU %", "overall accuracy %", "kappa %"]
    return tabulate(rows, header, tablefmt="pipe", colalign=("left", *["right"] * (len(header) - 1)), disable_numparse=True)


def season_figure(season: SeasonScores) -> Figure:
    """F1 over the last date seen: a line a class in its colour, the headline's bold, with the date that is early enough."""
    matplotlib.use("Agg", force=False)
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    colors = {c.name: c.color for c in season.task.classes} | {"mean": "#000000"}
    values, headline = season.f1, season.headline
    for name in sorted(values, key=lambda name: name == headline):  # the headline lies on top
        bold = name == headline
        axes.plot(
            season.dates,
            100 * values[name],
            color=colors[name],
            marker="o",
            markersize=5 if bold else 3.5,
            linewidth=2.6 if bold else 1.3,
            linestyle="--" if name == "mean" and not bold else "-",
            label=name.replace("_", " "),
        )
    early = season.early_enough()[headline]
    share = f"{100 * season.task.season_share:g} % of the whole season's"
    if early is not None:
        axes.axhline(100 * season.task.season_share * values[headline][-1], color="#777777", linewidth=1, linestyle=":")
        axes.axvline(date2num(early), color="#777777", linewidth=1, linestyle=":")
    when = f"is {share} from {early} on" if early is not None else "is 0 or not defined at the end"
    axes.set_title(f"{season.task.title}: {headline.replace('_', ' ')} F1 {when}", fontsize=11)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("last date seen")
    axes.set_ylabel("F1, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    # Beside the lines, never on them.
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def write_season(season: SeasonScores, output: Path) -> None:
    """Write `early_season.json`, `.md` and `.png` into the folder `output`."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "early_season.json", season.to_dict())
    with whole_file(output / "early_season.md") as temporary:
        temporary.write_text(f"# {season.task.title}: scores by the last date seen\n\n{season_table(season)}\n")
    with whole_file(output / "early_season.png") as temporary:
        season_figure(season).savefig(temporary, format="png")
