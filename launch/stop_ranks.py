"""Stops the ranks of one run on this machine: `python launch/stop_ranks.py PORT [TERM|KILL]`. ranks.sh runs it on each machine.

The ranks of a run are known by the port at which they meet, which every launcher puts into their environment; so they are found
even when their launcher is gone. With TERM they are asked until none is left: asking twice does no harm, and a rank that was
just starting may not have heard. With KILL they end at once, and with them the processes that read for them.

Exit code: 0 when there was nothing to stop, 1 when there was. Nothing is imported but Python's own library: the command must
start fast, on a machine in trouble as well.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_ASK_AGAIN_S = 1.0
_RANK_VARIABLES = ("LOCAL_RANK=", "OMPI_COMM_WORLD_LOCAL_RANK=", "SLURM_LOCALID=")


def processes_of_run(port: str) -> dict[int, int]:
    """Processes on this machine of the run that meets at `port`, and the parent of each: ranks, and what ranks have started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            if f"MASTER_PORT={port}" in variables and any(v.startswith(_RANK_VARIABLES) for v in variables):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(folder.name)] = int(parent)
    return found


def ranks_of_run(port: str) -> list[int]:
    """The ranks among `processes_of_run`: those that no other of them has started."""
    found = processes_of_run(port)
    return [process for process, parent in found.items() if parent not in found]


def main() -> None:
    """Run the command and exit."""
    port, name = (*sys.argv[1:], "TERM")[:2]
    if name == "KILL":
        doomed = list(processes_of_run(port))
        for process in doomed:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        sys.exit(bool(doomed))
    asked = False
    while there := ranks_of_run(port):
        asked = True
        for rank in there:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGTERM)
        time.sleep(_ASK_AGAIN_S)
    sys.exit(asked)


if __name__ == "__main__":
    main()
