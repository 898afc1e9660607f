"""Ranks of a pretraining as plain processes, without a launcher: a test can change what they do, and sees each exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support.pretraining import ROOT, free_port, python_environment

TIMEOUT_S = 900


@dataclass(frozen=True)
class Ended:
    """Exit codes of the ranks that ended, and what they printed together."""

    codes: list[int]
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        """The lines of error messages."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]


def start_ranks(
    arguments: Sequence[str],
    ranks: int = 2,
    program: str = "pretrain.train",
    environment: Mapping[str, str] | None = None,
    last_rank: Sequence[str] = (),
) -> list[subprocess.Popen[str]]:
    """Start `python -m program` with these arguments on so many ranks; the last rank gets more of them."""
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", program, *arguments, *(last_rank if rank == ranks - 1 else ())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**python_environment(), **common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(environment or {})},
        )
        for rank in range(ranks)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> Ended:
    """Wait for ranks. Those that have not ended in time are killed, and the test fails."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    stdout, stderr = ("".join(texts) for texts in zip(*outputs, strict=True))
    return Ended([process.returncode for process in processes], stdout, stderr)


def run_ranks(
    arguments: Sequence[str],
    ranks: int = 2,
    program: str = "pretrain.train",
    environment: Mapping[str, str] | None = None,
    last_rank: Sequence[str] = (),
) -> Ended:
    """Run a program on so many ranks to its end."""
    return ended(start_ranks(arguments, ranks, program, environment, last_rank))
