"""Checks the keys of YAML files that describe something: a sensor, a task."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any


def check_keys(values: Mapping[str, Any], described: type, origin: str) -> None:
    """Raises ValueError when keys are missing or unknown to the dataclass `described`; `origin` names the file."""
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(described)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.5)
            advice = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ValueError(f"{origin}: unknown key {key!r}; {advice}")
    missing = [key for key, needed in known.items() if needed and key not in values]
    if missing:
        raise ValueError(f"{origin}: missing key {', '.join(missing)}")
