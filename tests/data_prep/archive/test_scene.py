"""scene.yaml: which code of a label means "not labelled", of which year labels are, and whether a scene is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.archive.scene import Label, is_simulated, load_scene
from data_prep.simulation.scene_folder import SIMULATION_RECORD


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


def test_a_scene_is_simulated_where_it_says_so_or_has_the_record_of_simulate(tmp_path: Path) -> None:
    def scene(**values: Any) -> bool:
        (tmp_path / "scene.yaml").write_text(yaml.safe_dump({"name": "a", "sources": {"landsat": {}}, **values}))
        return is_simulated(load_scene(tmp_path))

    assert not scene()
    assert not scene(simulated=False)
    assert scene(simulated=True)
    with pytest.raises(ValueError, match=r"scene.yaml: simulated is 'yes, it is'.*true or false"):
        scene(simulated="yes, it is")
    (tmp_path / SIMULATION_RECORD).write_text("{}")
    assert scene()
