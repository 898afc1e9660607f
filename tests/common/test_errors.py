"""Which errors are transient, of the infrastructure, about the data, or bugs."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import rasterio

from common.errors import MissingPackageError, http_status, is_data_error, is_infrastructure_error, is_refused, is_transient


class ServerDisconnectedError(Exception):
    """As aiohttp has it: no OSError."""

    __module__ = "aiohttp.client_exceptions"


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.ENETUNREACH, "net"), True),
        (FileNotFoundError(errno.ENOENT, "no connection.tif"), False),
        (OSError("Unable to open file (truncated file: eof = 96)"), False),
        (OSError("HTTP response code: 503"), True),
        (OSError("HTTP response code: 404"), False),
        (ServerDisconnectedError(), True),
        (ValueError("connection"), False),
        (MemoryError(), False),
    ],
)
def test_whether_an_error_passes(error: Exception, passing: bool) -> None:
    assert is_transient(error) is passing
    wrapped = ValueError("cannot be read")
    wrapped.__cause__ = error
    assert is_transient(wrapped) is passing


def of_library(library: str, name: str, **attributes: object) -> Exception:
    """An exception as a network library has it."""
    error: Exception = type(name, (Exception,), {"__module__": f"{library}.exceptions"})("text")
    vars(error).update(attributes)
    return error


def client_error(status: int, code: str) -> Exception:
    """What botocore makes of an answer."""
    return of_library(
        "botocore", "ClientError", response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (of_library("botocore", "NoCredentialsError"), "refused"),
        (of_library("botocore", "CredentialRetrievalError"), "refused"),
        (of_library("botocore", "TokenRetrievalError"), "refused"),
        (client_error(403, "AccessDenied"), "refused"),
        (client_error(400, "400"), "refused"),  # of a HEAD request with an expired token
        (client_error(400, "InvalidArgument"), "other"),
        (client_error(503, "SlowDown"), "transient"),
        (of_library("botocore", "EndpointConnectionError"), "transient"),
        (of_library("botocore", "ReadTimeoutError"), "transient"),
        (of_library("botocore", "NoRegionError"), "other"),
        (of_library("aiohttp", "ClientResponseError", status=401), "refused"),
        (of_library("aiohttp", "ClientResponseError", status=502), "transient"),
        (of_library("aiohttp", "ClientResponseError", status=416), "other"),
        (of_library("aiohttp", "ClientPayloadError"), "transient"),
        (of_library("aiohttp", "InvalidURL"), "other"),
        (of_library("gcsfs", "HttpError", code="429"), "transient"),
        (of_library("azure", "ClientAuthenticationError", status_code=403), "refused"),
        (of_library("azure", "ServiceRequestError"), "transient"),
        (of_library("google", "DefaultCredentialsError"), "refused"),
        (PermissionError("Forbidden"), "refused"),  # as s3fs has it
        (OSError("Forbidden: https://storage.googleapis.com/x"), "refused"),  # as gcsfs has it
    ],
)
def test_what_network_libraries_say(error: Exception, kind: str) -> None:
    assert (is_refused(error), is_transient(error)) == (kind == "refused", kind == "transient")
    translated = OSError(errno.EINVAL, "Bad Request")  # by s3fs
    translated.__cause__ = error
    assert (is_refused(translated), is_transient(translated)) == (kind == "refused", kind == "transient")
    assert http_status(translated) == http_status(error)


def test_a_refusal_is_no_damaged_sample() -> None:
    assert is_infrastructure_error(PermissionError("Forbidden"))


def raised_by(work: Callable[[], Any]) -> Exception:
    """The error that a call raises, with its traceback."""
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("damage", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_what_libraries_raise_for_damaged_files_is_about_the_data(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a").write_bytes(damage)
    for work in (lambda: h5py.File(tmp_path / "a", "r"), lambda: rasterio.open(tmp_path / "a"), lambda: zlib.decompress(damage)):
        error = raised_by(work)
        assert is_data_error(error), repr(error)


def test_a_key_error_of_a_format_library_is_about_the_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        error = raised_by(lambda: file["none"])
        assert isinstance(error, KeyError)
        assert is_data_error(error)
    assert not is_data_error(raised_by(lambda: {}["none"])), "in this code it is a bug"


@pytest.mark.parametrize(
    "bug", [TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, AssertionError, NotImplementedError, RuntimeError]
)
def test_a_bug_is_neither_about_the_data_nor_of_the_infrastructure(bug: type[Exception]) -> None:
    def fail() -> None:
        raise bug("no")

    error = raised_by(fail)
    assert (is_data_error(error), is_infrastructure_error(error)) == (False, False)


def test_a_package_that_is_missing_rejects_nothing() -> None:
    assert not is_data_error(MissingPackageError("pip install '.[modis]'"))
    assert not is_data_error(MemoryError())
    assert not is_data_error(OSError(errno.EIO, "lost"))
    assert is_data_error(OSError("Unable to synchronously open file (attempting I/O in temporary file space)"))  # of HDF5
