"""Exit codes: whose fault an error is."""

from __future__ import annotations

import errno

import pytest
from aiohttp import ClientConnectionError

from common.errors import InfrastructureError, while_running
from common.exit_codes import FAILED, INFRASTRUCTURE, STOPPED, USER_ERROR, exit_code
from common.retries import retried
from pretrain.data.storage import DamagedSampleError

# of the library below s3fs, which only a user of S3 installs; its exceptions are no OSErrors
EndpointConnectionError = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("num_steps is 0; expected at least 1"), USER_ERROR),
        (DamagedSampleError("a.tar ends at byte 7"), USER_ERROR),
        (FileNotFoundError(errno.ENOENT, "no such file", "config.yaml"), USER_ERROR),
        (PermissionError(errno.EACCES, "denied", "run"), USER_ERROR),
        (OSError("not a GeoTIFF"), USER_ERROR),  # of GDAL, without a number: a damaged file
        (FloatingPointError("the loss of step 3 is not finite"), FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), INFRASTRUCTURE),
        (OSError(errno.EMFILE, "Too many open files"), INFRASTRUCTURE),
        (OSError(errno.ESTALE, "Stale file handle"), INFRASTRUCTURE),
        (TimeoutError("no answer"), INFRASTRUCTURE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), INFRASTRUCTURE),
        (ClientConnectionError("refused"), INFRASTRUCTURE),
        (EndpointConnectionError("http://127.0.0.1:1"), INFRASTRUCTURE),
        (InfrastructureError("the checkpoint cannot be written"), INFRASTRUCTURE),
        (KeyError("a bug"), None),
        (RuntimeError("a bug"), None),
        (MemoryError(), None),
    ],
)
def test_whose_fault_an_error_is(error: Exception, expected: int | None) -> None:
    assert exit_code(error) == expected


def test_numbers_are_those_that_schedulers_know() -> None:
    assert (FAILED, USER_ERROR, INFRASTRUCTURE, STOPPED) == (1, 2, 74, 75)


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Forbidden"), FileNotFoundError(errno.ENOENT, "gone"), ClientConnectionError("x")]
)
def test_what_was_good_when_a_run_began_is_no_mistake_later(error: Exception) -> None:
    with pytest.raises(InfrastructureError, match="reading the corpus: ") as raised, while_running("reading the corpus"):
        raise error
    assert exit_code(raised.value) == INFRASTRUCTURE
    assert raised.value.__cause__ is error


def test_damage_and_bugs_stay_what_they_are_in_a_run() -> None:
    for error in (DamagedSampleError("flipped"), KeyError("bug"), InfrastructureError("as it is")):
        with pytest.raises(type(error)) as raised, while_running("reading the corpus"):
            raise error
        assert raised.value is error


def test_an_infrastructure_error_is_final() -> None:
    """It is raised after all tries, so nothing tries again because of its cause."""
    calls = []

    def work() -> None:
        calls.append(1)
        with while_running("reading"):
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    with pytest.raises(InfrastructureError):
        retried(work, 3)
    assert len(calls) == 1
