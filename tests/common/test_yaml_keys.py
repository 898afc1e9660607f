"""Keys of YAML files: unknown ones are named with the nearest, missing ones all at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from common.yaml_keys import check_keys
from data_prep.archive.sensor import BUILT_IN_SENSORS, load_sensors
from finetune.task import TASKS, load_task


@dataclass
class Described:
    name: str
    size: int
    colour: str = "red"
    parts: list[str] = field(default_factory=list)


def test_all_keys_are_known_and_there() -> None:
    check_keys({"name": "a", "size": 1}, Described, "a.yaml")
    with pytest.raises(ValueError, match=r"^a.yaml: unknown key 'colur'; did you mean colour\?$"):
        check_keys({"name": "a", "size": 1, "colur": "blue"}, Described, "a.yaml")
    with pytest.raises(ValueError, match=r"^a.yaml: unknown key 'xyz'; known keys: name, size, colour, parts$"):
        check_keys({"xyz": 1}, Described, "a.yaml")
    with pytest.raises(ValueError, match=r"^a.yaml: missing key name, size$"):
        check_keys({"parts": []}, Described, "a.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("frames:", "frame:", r"rice.yaml: unknown key 'frame'; did you mean frames\?"),
        ("season:", "# season:", "rice.yaml: missing key season"),
        ("color:", "colour:", r"rice.yaml, class 1: unknown key 'colour'; did you mean color\?"),
    ],
)
def test_wrong_keys_of_a_task(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (TASKS / "paddy_rice.yaml").read_text()
    assert old in text
    (tmp_path / "rice.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_task(str(tmp_path / "rice.yaml"))


def test_a_task_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no task file .*maize.yaml"):
        load_task(str(tmp_path / "maize.yaml"))


def test_wrong_keys_of_a_sensor(tmp_path: Path) -> None:
    values = yaml.safe_load((BUILT_IN_SENSORS / "landsat.yaml").read_text())
    without = {key: value for key, value in values.items() if key != "quality"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(without))
    with pytest.raises(ValueError, match=r"mine.yaml: missing key quality$"):
        load_sensors(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(without | {"quality": values["quality"] | {"nodat": 1}}))
    with pytest.raises(ValueError, match=r"mine.yaml, quality: unknown key 'nodat'; did you mean nodata\?"):
        load_sensors(tmp_path)
