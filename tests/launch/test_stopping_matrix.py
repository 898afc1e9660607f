"""Every cell of the table in docs/reference/stopping.md, tried on real launchers, hosts, terminals and SLURM.

The page is the expectation. A cell such as `step, 75` says what the newest checkpoint is of afterwards (the last `step` that was
done, or the last regular `checkpoint` before it; `done` when all steps were), and the exit code; on SLURM `again` means that the
job is queued again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.launching import ROOT
from tests.support.stopped_runs import LAUNCHERS, Run, SlurmRun

PAGE = ROOT / "docs/reference/stopping.md"
NOT_TRIED = {"not tried", "—"}
# The events of the page's rows: what happens to the run, and whether it is started in a terminal.
EVENTS: dict[str, tuple[Callable[[Any], None], bool]] = {
    "Ctrl-C": (Run.is_sent_ctrl_c, True),
    "second Ctrl-C": (Run.is_sent_ctrl_c_twice, True),
    "closed terminal": (Run.loses_its_terminal, True),
    "SIGTERM": (lambda run: run.is_terminated(), False),
    "SIGKILL of a rank": (Run.loses_a_rank, False),
    "SIGKILL of all ranks": (Run.loses_all_ranks, False),
    "SIGKILL of the launcher": (lambda run: run.loses_its_launcher(), False),
    "SIGKILL of a host's launcher": (Run.loses_the_launcher_of_a_host, False),
    "SIGKILL of a host's daemon": (lambda run: run.loses_the_agent_of_a_host(), False),
    "crash of a host": (Run.loses_a_host, False),
    "preemption": (SlurmRun.is_preempted, False),
    "scancel": (SlurmRun.is_cancelled, False),
}


def cells() -> Iterator[tuple[str, str, str]]:
    """Event, launcher and outcome of each cell of the page's table."""
    text = PAGE.read_text()
    table = text[text.index("| event |") :].split("\n\n")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    for event, *outcomes in rows:
        for launcher, outcome in zip(header[1:], outcomes, strict=True):
            yield event, launcher, outcome


def test_the_table_has_all_events_and_launchers() -> None:
    assert [event for event, launcher, _ in cells() if launcher == "bash"] == list(EVENTS)
    assert [launcher for event, launcher, _ in cells() if event == "SIGTERM"] == list(LAUNCHERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "launcher", "outcome"),
    [pytest.param(*cell, id=f"{cell[0]}: {cell[1]}") for cell in cells() if cell[2] not in NOT_TRIED],
)
def test_what_is_kept_and_how_the_run_ends(tmp_path: Path, event: str, launcher: str, outcome: str) -> None:
    happens, in_terminal = EVENTS[event]
    with ExitStack() as engines:
        run = LAUNCHERS[launcher](tmp_path, engines)
        run.start(in_terminal)
        happens(run)
        ending = run.ends()
        assert f"{run.kept}, {ending}" == outcome, run.log
