"""Labels in scene.yaml: which code means "not labelled", and of which year they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.archive.scene import Label, load_scene


def label_of(folder: Path, **label: Any) -> Label:
    values = {"name": "a", "sources": {"landsat": {}}, "labels": {"crop": {"path": "label.tif", **label}}}
    (folder / "scene.yaml").write_text(yaml.safe_dump(values))
    return load_scene(folder).labels["crop"]


@pytest.mark.parametrize(
    ("classes", "nodata"), [({1: "rice"}, 0), ({0: "other", 1: "rice"}, 255), ({0: "other", 1: "rice", 255: "sea"}, 2)]
)
def test_a_class_never_means_not_labelled(tmp_path: Path, classes: dict[int, str], nodata: int) -> None:
    label = label_of(tmp_path, classes=classes)
    assert (label.nodata, label.nodata_stated, label.year) == (nodata, False, None)
    stated = label_of(tmp_path, classes=classes, nodata=9, year=2021)
    assert (stated.nodata, stated.nodata_stated, stated.year) == (9, True, 2021)
    code, name = next(iter(classes.items()))
    with pytest.raises(ValueError, match=rf"scene.yaml: label crop: .*: code {code} is class '{name}' and also `nodata`"):
        label_of(tmp_path, classes=classes, nodata=code)


def test_an_unknown_key_of_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"label crop needs `path` and `classes` and knows \[.*'year'\]; it has .*'yaer'"):
        label_of(tmp_path, classes={1: "rice"}, yaer=2021)
