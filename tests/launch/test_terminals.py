"""Ranks that were started in a real terminal: Ctrl-C is typed into it, and it is closed, with and without `| tee`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.launching import ROOT, SCRIPT, alive, ranks, stand_in_environment, wait_for
from tests.support.terminal import Terminal, exit_code


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(stand_in_environment(tmp_path), ROOT)
    yield terminal
    terminal.end()


@pytest.mark.parametrize("pipe", ["", "| tee {log}", "| cat"])
@pytest.mark.parametrize("stop", [Terminal.ctrl_c, Terminal.close])
def test_ranks_save_when_their_terminal_stops_them(
    tmp_path: Path, terminal: Terminal, stop: Callable[[Terminal], None], pipe: str
) -> None:
    terminal.type_command(["bash", SCRIPT], tmp_path / "code", pipe.format(log=tmp_path / "log"))
    each = ranks(tmp_path, 2)
    stop(terminal)
    assert exit_code(tmp_path / "code") == 75
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    assert not any(alive(rank[who]) for rank in each for who in ("pid", "parent"))
