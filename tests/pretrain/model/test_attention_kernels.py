"""The attention kernels for GPUs, on a machine without one: run by Triton's interpreter, and compiled for GPUs of three kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.model.attention.home import runs_in_kernels

pytest.importorskip("triton", reason="Triton is made for Linux only")
ROOT = Path(__file__).parents[3]


def lines(*command: str, **environment: str) -> list[dict[str, Any]]:
    """The JSON lines that a program of tests/support prints."""
    words, variables = [sys.executable, "-m", *command], {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1", **environment}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_right(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["same_bits"], f"two runs differ: {row}"
        assert max(row["errors"].values()) < 1e-4, row


def test_random_shapes_equal_the_published_way_and_two_runs_give_the_same_bits() -> None:
    rows = lines("tests.support.kernel_parity", "34", "4", TRITON_INTERPRET="1")
    assert_right(rows)
    assert {row["shifted"] for row in rows} == {True, False}
    assert max(row["groups"] for row in rows) > 2


def test_heads_that_no_tile_fits_run_in_the_operators_of_pytorch() -> None:
    """Triton takes tiles of powers of two, and products of at least 16 terms."""
    found = [width for width in range(1, 129) if runs_in_kernels(torch.device("cuda"), width)]
    assert found == [16, 32, 64, 128]
    assert not runs_in_kernels(torch.device("cpu"), 32)


@pytest.mark.slow
def test_an_encoder_and_many_shapes_equal_the_published_way() -> None:
    rows = lines("tests.support.kernel_parity", "0", "16", TRITON_INTERPRET="1")
    assert rows[0]["encoder"]
    assert_right(rows)


@pytest.mark.parametrize(
    "architecture", [90, pytest.param(80, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_no_register_is_spilled_and_programs_fit(architecture: int) -> None:
    rows = lines("tests.support.compiled_kernels", str(architecture))
    assert len(rows) == 6 * 2 * 4
    for row in rows:
        assert row["stack"] == 0, row
        assert row["programs_on_an_sm"] >= 2, row
