"""The report of early-season scores: a table, a plot and JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tabulate import tabulate

from common.atomic_files import whole_file
from common.json_files import write_json
from finetune.report.figures import season_figure
from finetune.scoring.early_season import SeasonScores
from finetune.scoring.metrics import OVER_CLASSES
from finetune.scoring.score_text import readable_name


def season_table(season: SeasonScores) -> str:
    """A Markdown table: one row per date with F1 of each class and scores over classes, then the dates that are early enough."""
    names = list(season.f1)
    columns = [*(season.f1[name] for name in names), *(season.curve(name) for name in OVER_CLASSES[1:])]
    rows = [
        [str(d), *("-" if np.isnan(value) else f"{100 * value:.2f}" for value in values)]
        for d, *values in zip(season.dates, *columns, strict=True)
    ]
    early = season.early_enough()
    rows.append([f"{100 * season.task.season_share:g} % of the last", *(str(early[name] or "-") for name in names), "", "", ""])
    header = ["last date seen", *(f"F1 {readable_name(name)} %" for name in names)]
    header += ["mean IoU %", "overall accuracy %", "kappa %"]
    return tabulate(rows, header, tablefmt="pipe", colalign=("left", *["right"] * (len(header) - 1)), disable_numparse=True)


def write_season(season: SeasonScores, output: Path, simulated: bool = False) -> None:
    """Write `early_season.json`, `.md` and `.png` into the folder `output`. `simulated`: whether test scenes are simulated."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "early_season.json", season.to_dict())
    data = " (simulated data)" if simulated else ""
    with whole_file(output / "early_season.md") as temporary:
        temporary.write_text(f"# {season.task.title}{data}: scores by the last date seen\n\n{season_table(season)}\n")
    with whole_file(output / "early_season.png") as temporary:
        season_figure(season, simulated).savefig(temporary, format="png")
