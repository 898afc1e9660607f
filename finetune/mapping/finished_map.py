"""A note beside a finished map of what it was made of, so that a command that is started again does not make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from common.json_files import json_bytes, read_json, write_json


class FinishedMap:
    """The note `.NAME.finished.json` beside a map: identity and sizes of its files, and of what was made from it.

    Args:
        output: path of the map.
        identity: what the map depends on.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self._output, self._path = output, finished_path(output)
        self._identity = digest(identity)

    def is_finished(self, files: Sequence[Path]) -> bool:
        """Whether the map and its other `files` are there as they were written, from the same model, data and settings."""
        return self._holds("map", self._identity, files)

    def write(self, files: Sequence[Path]) -> None:
        """Note that the map and its other `files` are finished."""
        write_json(self._path, {"map": {"identity": self._identity, "bytes": _sizes(files)}})

    def has_extras(self, identity: Mapping[str, Any], files: Sequence[Path]) -> bool:
        """Whether what is made from the finished map is there, too."""
        return self._holds("extras", digest(identity), files)

    def write_extras(self, identity: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Note that what is made from the finished map is finished."""
        write_json(self._path, {**read_json(self._path), "extras": {"identity": digest(identity), "bytes": _sizes(files)}})

    def _holds(self, part: str, identity: str, files: Sequence[Path]) -> bool:
        if not self._path.is_file():
            return False
        noted = read_json(self._path).get(part)
        return bool(noted == {"identity": identity, "bytes": _sizes(files)} and all(path.is_file() for path in files))


def finished_path(output: Path) -> Path:
    """Path of the note of a map."""
    return output.with_name(f".{output.name}.finished.json")


def digest(identity: Mapping[str, Any]) -> str:
    """A short text for an identity."""
    return xxhash.xxh3_128(json_bytes(identity)).hexdigest()


def _sizes(files: Sequence[Path]) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in files if path.is_file()}
