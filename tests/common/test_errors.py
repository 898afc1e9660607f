"""Which errors are transient."""

from __future__ import annotations

import errno

import pytest

from common.errors import is_transient


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
