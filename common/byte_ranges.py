"""Byte ranges of files at URLs, fetched together and again after a transient error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import is_refused, is_transient
from common.file_systems import READING, file_system, raise_named, storage_tries
from common.retries import retried, without_queries


def fetch_ranges(ranges: Sequence[tuple[str, int, int]], storage_options: Mapping[str, Any] | None = None) -> list[bytes]:
    """Fetch byte ranges start..stop-1 of files, given as (URL, start, stop); fewer bytes where a file ends before.

    Raises ValueError for a server without byte ranges, and what `reach` raises when a range cannot be fetched.
    """
    found: dict[int, bytes] = {}
    url = ranges[0][0]  # of the range that is dealt with

    def fetch_missing() -> None:
        nonlocal url
        missing: dict[Any, list[int]] = {}
        names = {i: file_system(url, storage_options) for i, (url, _, _) in enumerate(ranges) if i not in found}
        for i, (files, _) in names.items():
            missing.setdefault(files, []).append(i)
        for files, numbers in missing.items():
            starts, stops = [ranges[i][1] for i in numbers], [ranges[i][2] for i in numbers]
            paths = [names[i][1] for i in numbers]
            answers = dict(zip(numbers, files.cat_ranges(paths, starts, stops, on_error="return"), strict=True))
            found.update((i, answer) for i, answer in answers.items() if not isinstance(answer, BaseException))
            for i in numbers:
                if i not in found:
                    url, start, stop = ranges[i]
                    found[i] = _until_its_end(files, names[i][1], start, stop, answers[i])

    tries = storage_tries(f"{ranges[0][0]} and others" if len(ranges) > 1 else ranges[0][0], READING)
    try:
        retried(fetch_missing, tries)
    except Exception as error:
        raise_named(error, url, READING, tries)
    for i, (url, start, stop) in enumerate(ranges):
        if len(found[i]) > stop - start:
            raise ValueError(
                f"{without_queries(url)}: {len(found[i])} bytes came where {stop - start} were asked for: "
                "the server knows no byte ranges; use one that does, or copy the files to a disk"
            )
    return [found[i] for i in range(len(ranges))]


def _until_its_end(files: Any, name: str, start: int, stop: int, error: BaseException) -> bytes:
    """The bytes of a range that gave `error` because the file ends before `stop`, for which each server has another error."""
    if isinstance(error, FileNotFoundError) or is_transient(error) or is_refused(error):
        raise error
    size = files.info(name)["size"]
    if size >= stop:
        raise error
    return bytes(files.cat_file(name, start=start, end=size)) if start < size else b""
