"""A task: its season, its classes, and values that it cannot have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.archive.scene import Label
from finetune.data.season import season_of_dates
from finetune.task import IGNORE, load_task, task_from_dict

WHOLE_YEAR = replace(load_task("paddy_rice"), season=("01-01", "12-31"))


def test_season_may_begin_in_the_year_before() -> None:
    wheat = replace(load_task("paddy_rice"), season=("10-01", "06-30"))
    assert wheat.season_of(2021) == (np.datetime64("2020-10-01"), np.datetime64("2021-07-01"))
    assert WHOLE_YEAR.season_of(2020) == (np.datetime64("2020-01-01"), np.datetime64("2021-01-01"))
    dates = np.arange("2020-11-01", "2021-05-01", 7, dtype="datetime64[D]")
    assert wheat.year_of(dates) == 2021
    season = season_of_dates(dates, wheat, 2021)
    assert len(season.times) == len(dates)
    # All are clear, so a period has an image if and only if one was taken in its sixteenth of the season's 273 days.
    chosen = season.choose(np.ones((len(dates), 1, 1), dtype=bool))
    taken = (dates - np.datetime64("2020-10-01")).astype(int) + 0.5
    for period in range(16):
        inside = np.flatnonzero((taken >= 273 / 16 * period) & (taken < 273 / 16 * (period + 1)))
        assert (chosen[period] == -1) if not len(inside) else (chosen[period] in inside)


def test_label_codes_become_classes() -> None:
    task = load_task("paddy_rice")
    label = Label(path=Path("label.tif"), classes={1: "paddy_rice", 2: "maize", 7: "not_cropland"}, nodata=0)
    assert task.class_indices(np.array([[0, 1], [2, 7]]), label).tolist() == [[IGNORE, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"codes \[9\] that scene.yaml does not name"):
        task.class_indices(np.array([9, 1]), label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"season": ["01-01", "02-31x"]}, "expected two dates of the form MM-DD"),
        ({"sources": []}, "sources must be distinct"),
        ({"target": "maize"}, "none of its classes"),
        ({"frames": 0}, "at least 1"),
        ({"windowpx": 3}, "unknown key 'windowpx'; did you mean window_px"),
        ({"classes": [{"name": "a", "color": "#000000", "labels": ["x"]}, {"name": "b", "color": "#000000"}]}, "the first class"),
        ({"classes": [{"name": "a", "color": "red"}, {"name": "b", "color": "#000000", "labels": ["x"]}]}, "expected #rrggbb"),
    ],
)
def test_wrong_tasks_are_refused(change: dict, message: str) -> None:
    values = load_task("paddy_rice").to_dict() | change
    with pytest.raises(ValueError, match=message):
        task_from_dict(values)
