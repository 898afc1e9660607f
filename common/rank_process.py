"""A rank as a process: the signals that stop it, its exit code, and which of several ranks prints an error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Self, TypeVar

from common import ranks
from common.exit_codes import ASKED_TO_STOP, FAILED, INFRASTRUCTURE, STOPPED, exit_code
from common.lasting_output import make_output_last
from common.stop_signals import stop_signals

Parameters = TypeVar("Parameters")
# How long the other ranks wait when rank 0 prints an error that all have: the launcher ends all ranks when the first one ends,
# and takes its exit code.
_WAIT_FOR_MAIN_RANK_S = 5.0


def end_when_asked() -> None:
    """Let a stop signal end the process at once, with exit code `STOPPED`, as long as there is nothing to save.

    Once `StopSignals` listen, the run saves first.
    """

    def end(*_: object) -> NoReturn:
        if ranks.announced_ranks()[0] == 0:
            with suppress(OSError):  # not by print, which a signal may interrupt
                os.write(2, f"\n{ASKED_TO_STOP}\n".encode())
        os._exit(STOPPED)

    for number in stop_signals():
        signal.signal(number, end)


class StopSignals:
    """Note SIGTERM, SIGUSR1, SIGINT and SIGHUP, so that a run can save at the end of a step and stop.

    A process without other ranks, which a person may have started in a terminal, is ended by a second Ctrl-C. Ranks are not:
    their launchers may send several signals.

    Python allows signal handlers only in the main thread; in another thread nothing is received.

    Attributes:
        received: True once a signal has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> Self:
        """Note signals from now on, to the end of the process or of a `with` statement."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __enter__(self) -> Self:
        return self.listen()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, *_: object) -> None:
        self.received = True
        if number == signal.SIGINT and ranks.announced_ranks()[1] == 1:
            if self._interrupted:
                os._exit(128 + signal.SIGINT)
            self._interrupted = True
            with suppress(OSError):  # not by print, which a signal may interrupt
                os.write(2, b"\nasked to stop: saving after this step; Ctrl-C again ends at once\n")


def read_arguments(parse: Callable[[list[str]], Parameters]) -> Parameters:
    """Parse this rank's command line, without the launcher's `--local_rank`, by `parse`.

    All ranks find the same mistakes, so only rank 0 prints them. The output of the other ranks is discarded until the caller
    restores `sys.__stdout__` and `sys.__stderr__`, and after a mistake they end later than rank 0.
    """
    make_output_last()
    is_main = ranks.announced_ranks()[0] == 0
    if not is_main:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        return parse([a for a in sys.argv[1:] if not a.startswith("--local_rank")])
    except SystemExit:
        if not is_main:
            time.sleep(_WAIT_FOR_MAIN_RANK_S)
        raise


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do `work`, leave the other ranks and end this process with the exit code that `work` returns.

    An error that `common/exit_codes.py` knows becomes one line and its exit code. All ranks raise the same ValueError and OSError
    before they join, the same FloatingPointError at any time, and what `ranks.raise_together` raises, so only rank 0 prints
    these. Every other error is printed by its own rank.

    The process ends without the interpreter's clean-up: threads of DeepSpeed and its back ends do not always survive it, and
    they would keep a rank alive for which others wait.
    """
    is_main = ranks.announced_ranks()[0] == 0
    message = ""
    try:
        code = work()
        ranks.leave()
    except KeyboardInterrupt:
        code, message = STOPPED, ASKED_TO_STOP
    except Exception as error:
        if isinstance(error, RuntimeError) and ranks.is_lost_rank(error):
            code, message = INFRASTRUCTURE, "error: another rank ended; its message says why"
            time.sleep(_WAIT_FOR_MAIN_RANK_S)
        else:
            known = exit_code(error)
            if known is None:
                sys.stderr = sys.__stderr__  # a bug of ours: print its traceback
                raise
            code, message = known, f"error: {' '.join(str(error).split())}"
            if not is_main and (code == FAILED or not ranks.joined() or ranks.is_raised_together(error)):
                message = ""  # all ranks have this error, and rank 0 prints it
                time.sleep(_WAIT_FOR_MAIN_RANK_S)
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    if message:
        print(message, file=sys.__stderr__, flush=True)
    os._exit(code)
