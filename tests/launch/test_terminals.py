"""Ranks that were started in a real terminal: Ctrl-C is typed into it, and it is closed, with and without `| tee`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disturbed_training import log_of
from tests.support.launching import BIN, ROOT, SCRIPT, alive, ranks, stand_in_environment, wait_for
from tests.support.pretraining import ENCODER, STREAM, options
from tests.support.small_corpus import write_corpus
from tests.support.steps_of_ranks import saved_steps
from tests.support.terminal import Terminal, exit_code


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    yield from opened(stand_in_environment(tmp_path))


@pytest.fixture
def terminal_of_training() -> Iterator[Terminal]:
    yield from opened({**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def opened(environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(environment, ROOT)
    yield terminal
    terminal.end()


@pytest.mark.slow
@pytest.mark.parametrize("pipe", ["| tee {log}", ""])
@pytest.mark.parametrize("stop", [Terminal.ctrl_c, Terminal.close])
def test_ranks_save_when_their_terminal_stops_them(
    tmp_path: Path, terminal: Terminal, stop: Callable[[Terminal], None], pipe: str
) -> None:
    terminal.type_command(["bash", SCRIPT], tmp_path / "code", pipe.format(log=tmp_path / "log"))
    each = ranks(tmp_path, 2)
    stop(terminal)
    assert exit_code(tmp_path / "code") == 75, terminal.shown
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    assert not any(alive(rank[who]) for rank in each for who in ("pid", "parent"))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [Terminal.ctrl_c, Terminal.close])
def test_the_real_training_saves_in_a_terminal_with_tee(
    tmp_path: Path, terminal_of_training: Terminal, stop: Callable[[Terminal], None]
) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus", {"modis": 9, "landsat": 7, "sentinel2": 8})
    run = tmp_path / "run"
    size = ["--precision", "fp32", "--num-steps", "2000", "--save-every", "1000", "--log-every", "1"]
    arguments = ["--data", str(corpus), "--output", str(run), *size, *options(ENCODER, "encoder"), *options(STREAM, "stream")]
    terminal_of_training.type_command(["bash", SCRIPT, *arguments], tmp_path / "code", f"| tee {tmp_path / 'log'}")
    wait_for(lambda: len(log_of(run)) > 2, 180)
    stop(terminal_of_training)
    assert exit_code(tmp_path / "code", 120) == 75
    assert saved_steps(run) == [max(log_of(run))]
