"""JSON objects as bytes and as files, and files of JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.atomic_files import whole_file
from common.storage import AnyPath


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON: equal values give equal bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def write_json(path: AnyPath, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; NaN becomes null."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(without_nan(values), indent=2))


def read_json(path: AnyPath) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError that names the file when it is missing or holds no JSON object."""
    try:
        return json_object(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error


def json_object(content: bytes, path: str) -> dict[str, Any]:
    """Parse a JSON object that was read from `path`. Raises ValueError that names `path` when it is none."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); it is damaged or was not written by shard.py") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected a JSON object")
    return values


def without_nan(values: Any) -> Any:
    """Replace NaN by None in nested dictionaries and lists, because JSON has no NaN."""
    if isinstance(values, dict):
        return {key: without_nan(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, without partial lines that kills have left; [] when there is no file."""
    return [values for _, values in _whole_lines(path)]


def append_json_lines(path: Path, objects: Sequence[Mapping[str, Any]]) -> None:
    """Append objects to a JSON-lines file, on lines of their own even after a partial line that a kill has left."""
    with path.open("a+b") as file:
        if file.tell() and not path.read_bytes().endswith(b"\n"):
            file.write(b"\n")
        file.writelines(json.dumps(values).encode() + b"\n" for values in objects)


def keep_lines_until(path: Path, step: int) -> None:
    """Keep the lines of a JSON-lines file up to `step`, without a partial line that a kill has left."""
    if not path.is_file():
        return
    kept = [line for line, values in _whole_lines(path) if values["step"] <= step]
    with whole_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept))


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a JSON-lines file that are whole, and their objects."""
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            yield line, json.loads(line)
