"""YAML files, read by libyaml, which is ten times as fast as PyYAML's own parser: an archive may have 100,000 scene.yaml."""

from __future__ import annotations

from typing import Any

import yaml

from common.storage import AnyPath

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml
_MERGE = "tag:yaml.org,2002:merge"


class RepeatedKeyError(yaml.YAMLError):
    """A mapping has a key twice."""


class _Loader(_SafeLoader):
    """Refuses keys that repeat (YAML 1.2, section 3.2.1.3): of two equal keys, PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        places: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in places:
                raise RepeatedKeyError(f"the key {key!r} is in lines {places[key]} and {line}; expected each key once")
            places[key] = line
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


def load_yaml(text: str) -> Any:
    """Return the content of a text in YAML. Raises yaml.YAMLError for others, and RepeatedKeyError for a key that repeats."""
    return yaml.load(text, _Loader)


def read_yaml(path: AnyPath) -> Any:
    """Return the content of a YAML file. Raises ValueError that names a file which is not YAML, or which repeats a key."""
    try:
        return load_yaml(path.read_text())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2021-02-30
        raise ValueError(f"{path} is not YAML: {error}") from error
