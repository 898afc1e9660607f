"""A rank as a process: the signals that stop it, the code it ends with, and which of several speaks of an error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, Self, TypeVar

from common import ranks
from common.command_line import USER_ERROR

Parameters = TypeVar("Parameters")
FAILED = 1
STOPPED = os.EX_TEMPFAIL  # 75: saved after it was asked to stop; starting again goes on
_UNTIL_SAID_S = 5.0  # the launcher ends all ranks as soon as it sees one that ended, and takes that one's exit code


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # schedulers send one a while before they end a job


def end_when_asked() -> None:
    """As long as no `StopSignals` listen there is nothing to save: a signal ends the process at once, with the code `STOPPED`."""
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(STOPPED))


class StopSignals:
    """SIGTERM and SIGUSR1, which are noticed at the end of a step; in a `with` statement, until its end.

    In a thread beside the main one, where Python allows no handlers, nothing is received.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.received = True


def read_arguments(parse: Callable[[list[str]], Parameters]) -> Parameters:
    """What `parse` makes of this rank's command line without the launcher's `--local_rank`.

    Of a mistake in it, which all ranks see alike, rank 0 alone speaks: what the others print goes nowhere until they are given
    `sys.__stdout__` and `sys.__stderr__` again, and they end a while after it.
    """
    is_main = ranks.announced_ranks()[0] == 0
    if not is_main:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        return parse([a for a in sys.argv[1:] if not a.startswith("--local_rank")])
    except SystemExit:
        if not is_main:
            time.sleep(_UNTIL_SAID_S)
        raise


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do `work`, leave the other ranks and end this process with the exit code that it returns.

    ValueError and OSError are the user's business, code 2. Those raised before the ranks joined, and FloatingPointError (code 1)
    at any time, are met by all ranks alike: rank 0 says it. Any other is said by the rank that met it.

    At once: threads below DeepSpeed and its back ends do not always survive the interpreter's own end, nor would a rank that
    others wait for be let go by them.
    """
    is_main = ranks.announced_ranks()[0] == 0
    message = ""
    try:
        code = work()
        ranks.leave()
    except (ValueError, OSError, FloatingPointError) as error:
        code = FAILED if isinstance(error, FloatingPointError) else USER_ERROR
        message = f"error: {' '.join(str(error).split())}"
        if not is_main and (isinstance(error, FloatingPointError) or not ranks.joined()):
            message = ""  # all ranks know, rank 0 says it
            time.sleep(_UNTIL_SAID_S)
    except RuntimeError as error:
        if not ranks.is_lost_rank(error):
            sys.stderr = sys.__stderr__  # a mistake of ours, with its traceback
            raise
        code, message = FAILED, "error: another rank ended; its own message says why"
        time.sleep(_UNTIL_SAID_S)
    except Exception:
        sys.stderr = sys.__stderr__  # as above
        raise
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    if message:
        print(message, file=sys.__stderr__, flush=True)
    os._exit(code)
