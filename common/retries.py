"""Whose fault an error is: it passes by itself and is tried again, it is of the machine, or it is of the data and kept."""

from __future__ import annotations

import errno
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_PROJECT = Path(__file__).parents[1]
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_PASSING_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "ESTALE", "ENOLCK", "ETIMEDOUT", "EPIPE", "EREMOTEIO", "ENOTCONN", "ESHUTDOWN"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    )
)
# Libraries below fsspec whose own exceptions are no OSErrors.
_NETWORK_LIBRARIES = frozenset({"aiohttp", "botocore", "aiobotocore", "gcsfs", "s3fs", "requests", "urllib3"})
# GDAL and HDF5 give text and no number.
_PASSING_WORDS = re.compile(r"curl|http response code: (408|429|5\d\d)|timed? ?-?out|connection|temporar", re.IGNORECASE)
_CAUSED_BY_USERS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def passes_by_itself(error: BaseException) -> bool:
    """True for what may be gone at the next try; its causes count as well."""
    if isinstance(error, _CAUSED_BY_USERS):
        return False
    if isinstance(error, TimeoutError | ConnectionError) or type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES:
        return True
    if isinstance(error, OSError):
        passing = error.errno in _PASSING_ERRNOS if error.errno is not None else _PASSING_WORDS.search(str(error)) is not None
        if passing:
            return True
    return error.__cause__ is not None and passes_by_itself(error.__cause__)


def retried(work: Callable[[], Result], retries: int) -> Result:
    """The result of `work`, tried up to `retries` times more after errors that pass by themselves; waits double from 0.5 s."""
    for attempt in range(retries):
        try:
            return work()
        except Exception as error:
            if not passes_by_itself(error):
                raise
            time.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))
    return work()


def is_of_the_machine(error: Exception) -> bool:
    """True for what says nothing about the data that was read: no memory, a lost mount, a bug of ours.

    HDF5 and GDAL give damaged files an OSError without a number.
    """
    numbered = isinstance(error, OSError) and error.errno is not None
    return numbered or isinstance(error, MemoryError | AssertionError) or passes_by_itself(error)


def text_without_places(error: BaseException, folder: Path) -> str:
    """The error's text on one line, with paths inside `folder` only: equal archives give equal bytes wherever they lie."""
    return " ".join(str(error).split()).replace(f"{folder}/", "")


def traceback_lines(error: BaseException, folder: Path) -> list[str]:
    """Where the error came from, outermost call first, then its text; causes come before what they caused.

    Files are relative to the project or to where packages are installed, and texts to `folder`.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = traceback_lines(cause, folder) if cause is not None else []
    for frame in traceback.extract_tb(error.__traceback__):
        lines.append(f"{_inside_project(frame.filename)}:{frame.lineno} in {frame.name}: {frame.line}")
    return [*lines, f"{type(error).__qualname__}: {text_without_places(error, folder)}"]


def _inside_project(filename: str) -> str:
    path = Path(filename)
    # Packages first: a virtual environment may lie inside the project's folder.
    for place in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if place in path.parts:
            return Path(*path.parts[path.parts.index(place) + 1 :]).as_posix()
    return path.relative_to(_PROJECT).as_posix() if path.is_relative_to(_PROJECT) else path.name
