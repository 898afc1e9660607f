"""Every cell of the table in docs/reference/stopping.md, tried on real launchers, hosts, terminals and SLURM.

The page is the expectation. A cell such as `step, 75` says what the newest checkpoint is of afterwards (the last `step` that was
done, or the last regular `checkpoint` before it, or either; `done` when all steps were), and the exit code; on SLURM `again`
means that the job is queued again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.launching import ROOT
from tests.support.stopped_runs import LAUNCHERS, Run, SlurmRun

PAGE = ROOT / "docs/reference/stopping.md"
NOT_TESTED = {"waits", "—"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happens to a run.

    Attributes:
        happens: makes it happen.
        in_terminal: whether the run is started in a terminal.
        options: of sbatch, for a run on SLURM.
    """

    happens: Callable[[Any], None]
    in_terminal: bool = False
    options: tuple[str, ...] = ()


# By the names of the page's rows. Methods are found by the run, as those of SLURM differ.
EVENTS = {
    "Ctrl-C": Event(happens=Run.is_sent_ctrl_c, in_terminal=True),
    "second Ctrl-C": Event(happens=Run.is_sent_ctrl_c_twice, in_terminal=True),
    "closed terminal": Event(happens=Run.loses_its_terminal, in_terminal=True),
    "SIGTERM": Event(happens=lambda run: run.is_terminated()),
    "SIGKILL of a rank": Event(happens=Run.loses_a_rank),
    "SIGKILL of all ranks": Event(happens=Run.loses_all_ranks),
    "SIGKILL of the launcher": Event(happens=lambda run: run.loses_its_launcher()),
    "SIGKILL of a host's launcher": Event(happens=Run.loses_the_launcher_of_a_host),
    "SIGKILL of a host's daemon": Event(happens=lambda run: run.loses_the_agent_of_a_host()),
    "crash of a host": Event(happens=Run.loses_a_host),
    "power cut of a host": Event(happens=Run.loses_power),
    "time limit": Event(happens=Run.nothing_happens, options=("--time=1", "--signal=TERM@30")),
    "preemption": Event(happens=SlurmRun.is_preempted),
    "preemption without grace": Event(happens=SlurmRun.is_preempted, options=("--partition=abrupt",)),
    "scancel": Event(happens=SlurmRun.is_cancelled),
    "full disk": Event(happens=Run.fills_its_disk),
    "storage gone, expired credentials": Event(happens=Run.loses_its_storage),
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
    assert {event for event, _, outcome in cells() if outcome not in NOT_TESTED} == EVENTS.keys()
    assert {launcher for _, launcher, _ in cells()} == LAUNCHERS.keys()


def tried_cells() -> Iterator[Any]:
    for event, launcher, outcome in cells():
        if outcome not in NOT_TESTED:
            yield pytest.param(event, launcher, outcome, id=f"{event}: {launcher}")


@pytest.mark.slow
@pytest.mark.parametrize(("event", "launcher", "outcome"), tried_cells())
def test_what_is_kept_and_how_the_run_ends(tmp_path: Path, event: str, launcher: str, outcome: str) -> None:
    with ExitStack() as engines:
        run = LAUNCHERS[launcher](tmp_path, engines)
        run.start(EVENTS[event].in_terminal, EVENTS[event].options)
        EVENTS[event].happens(run)
        ending = run.ends()
        kept, expected = outcome.split(", ")
        assert ending in expected.split(" or "), run.log
        assert run.kept & set(kept.split(" or ")), run.log
