"""YAML files: keys that repeat are refused, merged ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classes: {1: maize, 2: wheat, 2: rice}", "the key 2 is in lines 1 and 1; expected each key once"),
        ("name: a\nsources:\n  modis: {}\n  modis: {}\n", "the key 'modis' is in lines 3 and 4"),
        ("- a: 1\n  b: 2\n  a: 1\n", "the key 'a' is in lines 1 and 3"),
        ("offset: {2015-06-23: 0, 2015-06-23: -1000}", "2015"),
        ("a: [", "is not YAML"),
    ],
)
def test_keys_that_repeat_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_yaml(path)
    assert str(path) in str(raised.value)


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nlist: [{a: 1}, {a: 2}]\n")
    assert read_yaml(path) == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}, "list": [{"a": 1}, {"a": 2}]}
