"""From the values of a column to codes: whole numbers, prefixes, all others, and names without `classes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely

from data_prep.landcover.label_classes import column_texts, label_codes, with_classes
from tests.support.parcels import GRIDS, on_ground, opened, scene_with, write_parcels

UTM = GRIDS["UTM north"]


def codes(texts: list[str | None], **entry: Any) -> list[int]:
    made = scene_with(Path("here"), vector="a.gpkg", **entry).labels["crop"]
    return label_codes(made, texts, "here").tolist()


def test_values_as_texts() -> None:
    values = [1, 2.0, 2.5, "03", " a ", "", None, float("nan"), np.int64(7), np.float32(4), pd.NA, True]
    assert column_texts(values) == ["1", "2", "2.5", "03", "a", None, None, None, "7", "4", None, "True"]


def test_the_longest_prefix_wins() -> None:
    """As in EuroCrops' HCAT: 33-01-01-01-00 is winter wheat, a cereal. Without `match`, a short code is no prefix."""
    classes = {"33": None, "330101": "cereals", "3301010100": "winter_wheat", "330106": "maize"}
    texts = ["3301010100", "3301010200", "3301060401", "3302000000", None]
    assert codes(texts, classes=classes, match="prefix") == [2, 1, 3, 0, 0]
    with pytest.raises(ValueError, match=r"do not name: '3301010200' \(1\), '3301060401' \(1\), '3302000000' \(1\)"):
        codes(texts, classes=classes)
    with pytest.raises(ValueError, match=r"do not name: '34' \(2\)"):
        codes(["3301", "34", "34"], classes=classes, match="prefix")
    assert codes(["34", "330106"], classes=classes | {"*": "other"}, match="prefix") == [4, 3]


def test_a_star_is_all_others_and_no_code() -> None:
    assert codes(["1", "10", "*"], classes={1: "rice", "*": "other"}) == [1, 2, 2]
    assert codes(["1", "10"], classes={1: "rice", "*": None}) == [1, 0]
    many = [str(number) for number in range(15)]
    with pytest.raises(ValueError, match=r"and 4 others; name them"):
        codes(many, classes={1: "rice"})


def test_texts_of_the_whole_file_are_the_classes(tmp_path: Path) -> None:
    """Those outside of the scene, too: scenes that share a file have the same codes."""
    squares = np.array([shapely.box(0, 0, 5, 5), shapely.box(5, 5, 9, 9), shapely.box(900, 900, 910, 910)])
    write_parcels(tmp_path / "a.gpkg", on_ground(squares, UTM), UTM.crs, crop=["wheat", "rice", "barley"])
    with opened(tmp_path, UTM, vector="a.gpkg") as label:
        assert label.label.classes == {1: "barley", 2: "rice", 3: "wheat"}
        assert np.unique(label.read()).tolist() == [0, 2, 3]
        assert label.read()[1, 1] == 3
    made = scene_with(tmp_path, vector="a.gpkg").labels["crop"]
    assert with_classes(made, "here").classes == {1: "barley", 2: "rice", 3: "wheat"}
    write_parcels(tmp_path / "a.gpkg", on_ground(squares, UTM), UTM.crs, crop=["wheat", "rice", "rice"])
    assert with_classes(made, "here").classes == {1: "rice", 2: "wheat"}
