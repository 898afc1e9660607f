"""The journal of a survey: what its jobs found, so that planning that was killed goes on where it was.

It lies beside the tables of the plan, one JSON line for each job, in the order in which jobs finish, and is gone once there is a
plan. A last line that was cut off is forgotten. A folder at a URL, where nothing can be appended, has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import xxhash

from common.errors import is_data_error
from common.json_files import json_bytes
from common.storage import AnyPath
from data_prep.plan.plan import series_from_row
from data_prep.plan.surveyed import Surveyed

JOURNAL = "plan-survey.jsonl"


class SurveyJournal:
    """What the jobs of a survey found.

    A job with a rejected series is not kept: its scene may be mended before the next run.

    Args:
        output: folder of the plan.
        settings: what the survey depends on; with others, a new journal begins.
    """

    def __init__(self, output: AnyPath, settings: Mapping[str, Any]) -> None:
        self._path = output / JOURNAL if isinstance(output, Path) else None
        self._is_new_folder = not output.exists()
        self._head = json_bytes({"settings": xxhash.xxh3_128_hexdigest(json_bytes(settings))}) + b"\n"
        self._file: IO[bytes] | None = None
        self._lines: dict[str, tuple[int, int]] = {}  # offset and bytes, by job

    def find(self, job: str) -> list[Surveyed] | None:
        """What a job found before; None for a job that is to be done."""
        if self._file is None or job not in self._lines:
            return None
        offset, size = self._lines[job]
        self._file.seek(offset)
        return [_surveyed(values) for values in json.loads(self._file.read(size))["found"]]

    def add(self, job: str, found: Sequence[Surveyed]) -> None:
        """Note what a job found."""
        if self._path is None:
            return
        if self._file is None:
            self._file = self._path.open("wb+")
            self._file.write(self._head)
        self._file.seek(0, 2)
        self._file.write(json_bytes({"job": job, "found": [_values(one) for one in found]}) + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        if self._path is not None and self._path.is_file():
            self._file = self._path.open("rb+")
            end = len(self._head)
            if self._file.read(end) == self._head:
                for line in self._file:
                    try:
                        self._lines[json.loads(line)["job"]] = end, len(line)
                    except (ValueError, KeyError, TypeError):
                        break
                    end += len(line)
            else:
                self._file.seek(0)
                self._file.write(self._head)
            self._file.truncate(end)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        # There is a plan, or the archive gives none. A package that is missing can be installed.
        if self._path is not None and (error is None or (isinstance(error, ValueError) and is_data_error(error))):
            self._path.unlink(missing_ok=True)
            if error is not None and self._is_new_folder:
                with suppress(OSError):
                    self._path.parent.rmdir()


def _values(surveyed: Surveyed) -> dict[str, Any]:
    values = {name: getattr(surveyed, name) for name in ("split", "reason", "cover_years", "notes")}
    return {**values, "series": surveyed.series.to_row()}


def _surveyed(values: Mapping[str, Any]) -> Surveyed:
    tuples = {name: None if values[name] is None else tuple(values[name]) for name in ("cover_years", "notes")}
    return Surveyed(**{**values, **tuples, "series": series_from_row(values["series"])})
