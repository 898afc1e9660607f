"""A task: its season, its classes, and values that it cannot have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.archive.scene import Label
from finetune.data.season import season_of_dates
from finetune.task import CLASS_DTYPE, IGNORE, load_task, task_from_dict

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
    with pytest.raises(ValueError, match=r"codes \[9\] that its `classes` do not name"):
        task.class_indices(np.array([9, 1]), label)


@pytest.mark.parametrize(
    "name", ["Paddy rice", "paddyrice", "PADDY-RICE", "paddy_rices", "paddy_rise", "pady_rice", "padyd_rice"]
)
def test_a_name_that_is_nearly_one_of_a_class_is_refused(name: str) -> None:
    """It would count as the first class in silence."""
    label = Label(path=Path("label.tif"), classes={1: name, 2: "maize"}, nodata=0)
    with pytest.raises(ValueError, match=rf"name a class '{name}', which is nearly 'paddy_rice' .* would count as 'other'"):
        load_task("paddy_rice").class_indices(np.array([1, 2]), label)


@pytest.mark.parametrize("name", ["rice", "dry_rice", "paddy_rice_2", "not_paddy_rice", "barley"])
def test_other_names_are_the_rest(name: str) -> None:
    label = Label(path=Path("label.tif"), classes={1: "paddy_rice", 2: name}, nodata=0)
    assert load_task("paddy_rice").names_of_rest(label) == [name]
    listed = load_task("paddy_rice").to_dict()
    listed["classes"][0]["labels"] = [name]
    assert task_from_dict(listed).names_of_rest(label) == []


def test_a_task_has_at_most_as_many_classes_as_a_map_holds() -> None:
    def classes(count: int) -> list[dict]:
        return [{"name": f"crop_{number}", "color": "#00ff00", "labels": [f"crop_{number}"]} for number in range(count)]

    values = load_task("paddy_rice").to_dict() | {"target": None}
    task = task_from_dict(values | {"classes": classes(255)})
    label = Label(path=Path("label.tif"), classes={7: "crop_128", 8: "crop_254"}, nodata=0)
    assert task.class_indices(np.array([7, 8, 0]), label).astype(CLASS_DTYPE).tolist() == [128, 254, IGNORE]
    with pytest.raises(ValueError, match=r"has 256 classes; a map holds at most 255, .* where 255 means no data: merge classes"):
        task_from_dict(values | {"classes": classes(256)})


def test_years_that_a_label_may_be_of() -> None:
    dates = np.concatenate(
        [
            np.arange(f"{year}-01-01", f"{year}-12-31", step, "datetime64[D]")
            for year, step in ((2020, 60), (2021, 20), (2022, 15))
        ]
    )
    assert WHOLE_YEAR.year_of(dates) == 2022
    assert WHOLE_YEAR.likely_years(dates) == [2021, 2022]
    assert WHOLE_YEAR.likely_years(dates[:7]) == [2020]


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
