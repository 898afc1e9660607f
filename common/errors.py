"""Classes of errors, and their texts without paths of this machine.

An error is either transient (the work is tried again), or of the infrastructure (it is raised), or of the data (it is recorded
as a rejected sample, series or scene), or a bug of ours (it is raised with its traceback). `common/exit_codes.py` has the exit
code of each class.
"""

from __future__ import annotations

import errno
import pickle
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).parents[1]
_TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "ESTALE", "ENOLCK", "ETIMEDOUT", "EPIPE", "EREMOTEIO", "ENOTCONN", "ESHUTDOWN"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    )
)
# The exceptions of these libraries below fsspec are not OSErrors.
_NETWORK_LIBRARIES = frozenset(
    {"aiohttp", "botocore", "aiobotocore", "gcsfs", "s3fs", "adlfs", "azure", "google", "requests", "urllib3"}
)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
_REFUSED_STATUS = frozenset({401, 403, 407})
_CONFLICT = 409  # over HTTPS, where nothing is written: Azure gives no public access
# Names of their exceptions that no answer of a server stands for.
_LOST_CONNECTION = re.compile(
    r"connect|Timeout|HTTPClientError|Incomplete|Streaming|ResponseParser|Payload|ClientOSError|Transport|Service(Request|Response)",
    re.IGNORECASE,
)
_NO_CREDENTIALS = re.compile(r"Credential|Token|SSO|Login|MetadataRetrieval|RefreshError|ClientAuthentication")
# GDAL and HDF5 raise OSErrors with a text and without a number. For some damaged files HDF5 speaks of "temporary file space".
_TRANSIENT_WORDS = re.compile(
    r"curl|http response code: (408|429|5\d\d)|timed? ?-?out|connection|temporar(?!y file space)", re.IGNORECASE
)
# Libraries that decode files. What they raise is about the file, whatever its class: HDF5 has KeyErrors for damaged headers.
_FORMAT_LIBRARIES = frozenset({"h5py", "numcodecs", "pyarrow", "pyhdf", "pystac", "rasterio", "zarr"})
# Classes of mistakes in code. Readers check what files and scene.yaml hold, and raise ValueError for it.
_BUGS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, NameError, NotImplementedError),
    *(RecursionError, ReferenceError, StopAsyncIteration, StopIteration, SystemError, TypeError),
)
_CAUSED_BY_USERS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


class InfrastructureError(OSError):
    """What a run needs has failed while it ran: storage, a full disk, the network, another rank. The user made no mistake."""


class RefusedError(PermissionError):
    """A storage refuses access; the text names the URL, what was done, and the cause."""


class MissingPackageError(ValueError):
    """A package that a file format or a storage needs is not installed: no reason to reject data."""


UNREACHABLE = (InfrastructureError, RefusedError)  # what accesses to a storage raise, except for missing files


@contextmanager
def while_running(doing: str) -> Iterator[None]:
    """Turn OSErrors and network failures inside into an InfrastructureError that begins with `doing`.

    For the work of a run that has begun: a folder that is missing now, or credentials that are refused now, were good before.
    """
    try:
        yield
    except InfrastructureError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or is_transient(error)):
            raise
        raise InfrastructureError(f"{doing}: {type(error).__name__}: {error}") from error


def is_caused_by_user(error: OSError) -> bool:
    """Return True for an error like a missing file, which at the start of a command is a mistake in its arguments."""
    return isinstance(error, _CAUSED_BY_USERS)


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of the answer of a server from which an exception, or its cause, was made; None without one."""
    metadata = _botocore_answer(error).get("ResponseMetadata", {})
    found = (metadata.get("HTTPStatusCode"), *(getattr(error, name, None) for name in ("status", "status_code", "code")))
    for status in found:
        if isinstance(status, int | str) and str(status).isdecimal():
            return int(status)
    return None if error.__cause__ is None else http_status(error.__cause__)


def is_refused(error: BaseException) -> bool:
    """Return True when a storage refuses access: without credentials, with wrong or expired ones, or for lack of a right."""
    if isinstance(error, PermissionError) or http_status(error) in _REFUSED_STATUS:
        return True
    if type(error).__module__.split(".")[0] == "aiohttp" and http_status(error) == _CONFLICT:
        return True
    if isinstance(error, OSError) and error.errno is None and str(error).startswith("Forbidden:"):  # of gcsfs
        return True
    # An answer to a HEAD request has no text: S3 says 400 alone where a token has expired.
    if _botocore_answer(error).get("Error", {}).get("Code") == "400":
        return True
    if _is_of_network_library(error) and http_status(error) is None and _has_name(error, _NO_CREDENTIALS):
        return True
    return error.__cause__ is not None and is_refused(error.__cause__)


def is_transient(error: BaseException) -> bool:
    """Return True for an error of the transient class, or with such a cause: it passes by itself, like a network failure."""
    if isinstance(error, (*_CAUSED_BY_USERS, InfrastructureError)) or is_refused(error):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if _is_of_network_library(error):
        return _has_name(error, _LOST_CONNECTION) or http_status(error) in _TRANSIENT_STATUS
    if isinstance(error, OSError):
        by_words = error.errno is None and _TRANSIENT_WORDS.search(str(error)) is not None
        if by_words or error.errno in _TRANSIENT_ERRNOS:
            return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def _is_of_network_library(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES


def _has_name(error: BaseException, names: re.Pattern[str]) -> bool:
    return any(names.search(kind.__name__) for kind in type(error).__mro__)


def _botocore_answer(error: BaseException) -> dict[str, Any]:
    """Return the answer that a ClientError of botocore holds; empty for other exceptions."""
    answer = getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}


def is_infrastructure_error(error: BaseException) -> bool:
    """Return True for an error that is neither about the data being read nor a bug: too little memory, a lost mount.

    HDF5 and GDAL raise an OSError without a number for damaged files; that one is about the data.
    """
    numbered = isinstance(error, OSError) and error.errno is not None
    return numbered or isinstance(error, InfrastructureError | PermissionError | MemoryError) or is_transient(error)


def is_data_error(error: BaseException) -> bool:
    """Return True for an error about the data being read, the only one that may reject a sample, a series or a scene.

    Such are ValueErrors, which readers raise on purpose; OSErrors without a number and EOFErrors, for damaged files; errors that
    libraries define; and all that a library raises that decodes files. A TypeError or KeyError of this code is a bug.
    """
    if is_infrastructure_error(error) or isinstance(error, MissingPackageError) or not isinstance(error, Exception):
        return False
    if isinstance(error, ValueError | OSError | EOFError) or _raised_in(error) in _FORMAT_LIBRARIES:
        return True
    of_library = type(error).__module__.split(".")[0] not in ("builtins", "common", "data_prep", "pretrain", "finetune")
    return of_library and not isinstance(error, _BUGS)


def _raised_in(error: BaseException) -> str:
    """Return the name of the top-level package whose code raised an error; empty for an error that was not raised."""
    place = error.__traceback__
    if place is None:
        return ""
    while place.tb_next is not None:
        place = place.tb_next
    return str(place.tb_frame.f_globals.get("__name__", "")).split(".")[0]


def sendable(error: Exception) -> Exception:
    """The error itself if it can be sent to another process, else one that can: an InfrastructureError for a transient one."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its constructor and content may raise anything
        text = f"{type(error).__name__}: {error}"
        return InfrastructureError(text) if is_transient(error) else RuntimeError(text)
    return error


def portable_text(error: BaseException, folder: object) -> str:
    """Return the error's text on one line, with paths relative to `folder`, so that it is the same wherever the archive lies."""
    return " ".join(str(error).split()).replace(f"{folder}/", "")


def portable_traceback(error: BaseException, folder: object) -> list[str]:
    """Return the lines of a traceback, outermost call first, then the error's text; causes precede their effects.

    Paths of code are relative to the project or to the installed packages, paths in texts to `folder`.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = portable_traceback(cause, folder) if cause is not None else []
    for frame in traceback.extract_tb(error.__traceback__):
        lines.append(f"{_portable_path(frame.filename)}:{frame.lineno} in {frame.name}: {frame.line}")
    return [*lines, f"{type(error).__qualname__}: {portable_text(error, folder)}"]


def _portable_path(filename: str) -> str:
    path = Path(filename)
    # Packages come first, because a virtual environment may lie inside the project's folder.
    for folder in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if folder in path.parts:
            return Path(*path.parts[path.parts.index(folder) + 1 :]).as_posix()
    return path.relative_to(_PROJECT).as_posix() if path.is_relative_to(_PROJECT) else path.name
