"""Byte ranges of any fsspec URL, fetched together and again after a transient error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.retries import retried
from common.storage import file_system

RETRIES = 6  # half a minute of waiting; a network or mount that is gone for longer ends the run, which can be resumed


def fetch_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Fetch byte ranges start..stop-1 of shards, given as (URL, start, stop); fewer bytes where a file ends before.

    Raises ValueError for a server without byte ranges, and what fsspec raises when a range cannot be fetched.
    """
    found: dict[int, bytes] = {}

    def fetch_missing() -> None:
        missing: dict[Any, list[int]] = {}
        for i, (url, _, _) in enumerate(ranges):
            if i not in found:
                missing.setdefault(file_system(url, None)[0], []).append(i)
        for files, numbers in missing.items():
            names = [file_system(ranges[i][0], None)[1] for i in numbers]
            starts, stops = [ranges[i][1] for i in numbers], [ranges[i][2] for i in numbers]
            answers = dict(zip(numbers, files.cat_ranges(names, starts, stops, on_error="return"), strict=True))
            found.update((i, answer) for i, answer in answers.items() if not isinstance(answer, BaseException))
            for i, name in zip(numbers, names, strict=True):
                if i not in found:
                    found[i] = _until_its_end(files, name, ranges[i][1], ranges[i][2], answers[i])

    retried(fetch_missing, RETRIES)
    for i, (url, start, stop) in enumerate(ranges):
        if len(found[i]) > stop - start:
            raise ValueError(
                f"{url}: {len(found[i])} bytes came where {stop - start} were asked for: the server knows no byte ranges; "
                "use one that does, or copy the corpus to a disk"
            )
    return [found[i] for i in range(len(ranges))]


def _until_its_end(files: Any, name: str, start: int, stop: int, error: BaseException) -> bytes:
    """The bytes of a range that gave `error` because the file ends before `stop`, for which each server has another error."""
    if isinstance(error, FileNotFoundError):
        raise error
    size = files.info(name)["size"]
    if size >= stop:
        raise error
    return bytes(files.cat_file(name, start, size)) if start < size else b""
