"""YAML files, read by libyaml, which is ten times as fast as PyYAML's own parser: an archive may have 100,000 scene.yaml."""

from __future__ import annotations

from typing import Any

import yaml

from common.storage import AnyPath

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml


def read_yaml(path: AnyPath) -> Any:
    """Return the content of a YAML file. Raises ValueError that names a file which is not YAML."""
    try:
        return yaml.load(path.read_text(), _LOADER)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2021-02-30
        raise ValueError(f"{path} is not YAML: {error}") from error
