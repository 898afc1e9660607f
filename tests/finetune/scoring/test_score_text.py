"""Scores as text: tables with and without intervals, and scores that are not defined."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from common.json_files import without_nan
from finetune.scoring.bootstrap import with_intervals
from finetune.scoring.metrics import scores
from finetune.scoring.score_text import TABLE_HEADER, about_unlabelled_classes, percent, percent_interval, score_table


def test_table() -> None:
    rows = score_table(scores(np.array([[6, 2], [1, 1]]), ["a", "b"]))
    assert rows[0] == ["a", "80.00", "85.71", "75.00", "66.67", "70.00", "8"]
    assert rows[-1] == ["all", "60.00", "59.52", "62.50", "45.83", "70.00", "10"]
    assert all(len(row) == len(TABLE_HEADER) for row in rows)
    assert percent(None) == percent(float("nan")) == "-"
    assert percent_interval([0.1, 0.25]) == "10.0 to 25.0"
    assert percent_interval([float("nan"), 0.25]) == ""


def test_scores_of_nothing_are_not_defined_and_stay_printable() -> None:
    found = scores(np.zeros((2, 2)), ["other", "rice"])
    assert math.isnan(found["mean_f1"])
    plain = without_nan(found)
    assert plain["mean_f1"] is None
    assert score_table(plain)[-1][1] == "-"


def test_a_class_that_is_mapped_and_nowhere_labelled_is_named() -> None:
    names = ["other", "durum_wheat", "never_mapped"]
    assert about_unlabelled_classes(scores(np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]]), names)) == ""
    note = about_unlabelled_classes(scores(np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]]), names))
    assert note.startswith("no test label holds durum wheat: ")


def test_table_shows_intervals_behind_f1_and_iou() -> None:
    matrices = np.array([[[9, 1], [2, 8]], [[8, 2], [3, 7]]])
    found = with_intervals(matrices, partial(scores, classes=["a", "b"]))
    low, high = found["intervals"]["classes"]["a"]["f1"]
    first, _, last = score_table(found)
    assert first[1] == f"{100 * found['classes']['a']['f1']:.2f} [{100 * low:.1f} to {100 * high:.1f}]"
    assert "[" in first[4]
    assert "[" in last[1]
    assert not any("[" in cell for cell in (first[2], first[3], first[5]))
    assert score_table({**found, "intervals": None})[0][1] == f"{100 * found['classes']['a']['f1']:.2f}"
