"""Errors that rank 0 finds for all ranks: one line, one exit code, and no rank that waits for another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.exit_codes import USER_ERROR
from tests.support.pretraining import free_port, python_environment

# On several ranks: rank 0 finds a mistake, or rank 1 has an error of its own.
RANK = """
import sys
from common import ranks
from common.rank_process import end_with

def mistake():
    raise ValueError("the folder holds a run already")

def work():
    ranks.start_ranks(device_type="cpu")
    if sys.argv[1] == "found by rank 0":
        ranks.on_main(mistake)
    elif ranks.rank_and_world_size()[0] == 1:
        raise ValueError("damaged sample")
    ranks.barrier()
    return 0

end_with(work)
"""


def outcomes(kind: str) -> list[tuple[int, str]]:
    """Exit code and stderr of each of two ranks."""
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, kind],
            stderr=subprocess.PIPE,
            text=True,
            env=python_environment()
            | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, errors, strict=True)]


def test_a_mistake_that_rank_0_finds_after_the_ranks_joined_is_printed_once() -> None:
    (first, said), (second, silence) = outcomes("found by rank 0")
    assert (first, second) == (USER_ERROR, USER_ERROR)
    assert said == "error: the folder holds a run already\n"
    assert "error" not in silence


@pytest.mark.slow
def test_an_error_of_one_rank_is_printed_by_that_rank() -> None:
    (_, _), (code, said) = outcomes("of rank 1")
    assert code == USER_ERROR
    assert "error: damaged sample" in said
