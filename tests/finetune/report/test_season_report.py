"""The report of early-season scores: table, JSON and plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from finetune.report.figures import season_figure
from finetune.report.season_report import season_table, write_season
from tests.support.season_scores import RICE, season_scores


def test_table_and_files(tmp_path: Path) -> None:
    season = season_scores(RICE, [None, 0.1, 0.9, 0.4, 0.7812, 0.8])
    assert season.headline == "paddy_rice"
    assert {name: str(d) for name, d in season.early_enough().items()} == {
        "mean": "2021-10-01",
        "other": "2021-03-01",
        "paddy_rice": "2021-10-01",
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in season_table(season).splitlines()]
    assert rows[0][:4] == ["last date seen", "F1 mean %", "F1 other %", "F1 paddy rice %"]
    assert rows[2] == ["2021-03-01", "-", "90.00", "-", "50.00", "75.00", "-"]
    assert rows[6][:4] == ["2021-10-01", "78.12", "90.00", "78.12"]
    assert rows[8][:4] == ["95 % of the last", "2021-10-01", "2021-03-01", "2021-10-01"]
    write_season(season, tmp_path / "early")
    assert sorted(path.name for path in (tmp_path / "early").iterdir()) == [
        "early_season.json",
        "early_season.md",
        "early_season.png",
    ]
    found = json.loads((tmp_path / "early" / "early_season.json").read_text())
    assert found["early_enough"]["paddy_rice"] == "2021-10-01"
    assert [row["last_date"] for row in found["dates"]] == [str(d) for d in season.dates]
    assert found["dates"][0]["classes"]["paddy_rice"]["f1"] is None
    assert season_table(season) in (tmp_path / "early" / "early_season.md").read_text()
    pixels = imread(tmp_path / "early" / "early_season.png")
    figure = season_figure(season)
    assert pixels.shape[:2] == tuple(round(side) for side in figure.get_size_inches()[::-1] * figure.dpi)
    rice = np.array([int(RICE.classes[1].color[i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(np.round(pixels[..., :3] * 255) - rice) <= 1).all(axis=-1).sum() > 100  # the line of rice
    write_season(season, tmp_path / "simulated", simulated=True)
    assert (tmp_path / "simulated" / "early_season.md").read_text().startswith("# Paddy rice (simulated data): scores by")
