"""Samples that a task cannot use: errors say what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_prep.archive.sensor import load_sensors
from finetune.data.labelled_sample import check_sample
from finetune.task import load_task
from tests.support.labelled_samples import FRAMES, SIDE, make_sample

SENSORS = load_sensors()
RICE = replace(load_task("paddy_rice"), season=("01-01", "12-31"), frames=FRAMES, window_px=SIDE)


def spoilt(**changes: Any) -> dict[str, Any]:
    return make_sample(7) | changes


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((1, 2), "sample 3: is tuple; expected a dictionary with data, label and file_name"),
        ({"data": {}}, r"sample 3: is \['data'\]"),
        (spoilt(label=np.full((SIDE, SIDE), 5)), r"s7: label holds \[5\]; task paddy_rice has the classes .*0: 'other'"),
        (spoilt(label=np.full((SIDE, SIDE), -3)), r"label holds \[-3\]"),
        (spoilt(label=np.zeros((SIDE, SIDE))), "label is float64"),
        (spoilt(label=np.zeros((SIDE, SIDE, 1), int)), r"expected whole numbers \(H, W\)"),
        (spoilt(label=np.zeros((24, SIDE), int)), "landsat is 32 x 32 px, the label 24 x 32; both must cover the same area"),
        (spoilt(data={}), "has no landsat and no modis, which the task needs; it has nothing"),
        (spoilt(data={"S2": np.zeros((1, 10, 4, 4))}), "it has S2; choose others with --override.sources$"),
        (
            spoilt(data={"landsat": np.zeros((8, 7, SIDE, SIDE)), "modis": np.zeros((8, 7, 2, 2))}),
            "s7: landsat has 7 bands; expected 6: B02, B03, B04, B05, B06, B07",
        ),
        (spoilt(data={"landsat": np.zeros((6, SIDE, SIDE)), "modis": np.zeros((8, 7, 2, 2))}), r"expected \(T, C, H, W\)"),
        (spoilt(valid={"modis": np.ones((8, 4, 4))}), r"valid of modis has shape \(8, 4, 4\); expected \(8, 2, 2\)"),
        (
            spoilt(valid={"Modis": np.ones((8, 2, 2))}),
            "s7: valid are given for Modis, which data does not hold; it h",
        ),
        (spoilt(dates={"S2": ["2021-01-01"] * 8}), "s7: dates are given for S2, which data does not hold"),
        (spoilt(dates={"modis": ["2021-01-01"]}), "dates of modis: 1 dates for 8 images; each needs one"),
        (spoilt(dates={"modis": ["spring"] * 8}), "dates of modis: dates as text must be ISO 8601 like 2021-05-01, got 'spring'"),
        (spoilt(dates={"modis": np.array(["NaT"] * 8, "datetime64[D]")}), "8 of 8 dates are missing, before 1972"),
        (spoilt(dates={"modis": 20220700 + np.arange(8)}), "dates of modis: numbers like 20220700 without units"),
        (
            spoilt(dates={"modis": 100 + np.arange(8)}),
            "8 of 8 dates are missing, before 1972-07-23 or after 2100, first 1970",
        ),
    ],
)
def test_samples_that_are_wrong_say_what_is_wrong(sample: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sample(sample, 3, RICE, SENSORS)
